"""Adapter versions: folders against digests and manifests, aliases against versions.

A broken version is put into quarantine and retired; an alias that pointed to it goes to the base, with a line in the
history and in the audit, because an answer in plain style is better than one from weights nobody can vouch for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select

from cli.checkup.finding import Examination, Finding, Repair
from core import audit
from core.database import WriteSession
from core.errors import AdapterRefused
from core.tables import AdapterAlias, AdapterVersion, AliasEvent
from core.tables.base import utc_now
from core.types import AdapterStatus
from generation.adapters.manifest import content_digest, verify

QUARANTINE = "quarantine"


def check_adapters(examination: Examination) -> Iterator[Finding]:
    """Every version that may serve is whole, and fits the base; no folder without a version."""
    folder = examination.settings.adapters_dir
    with examination.db.read() as session:
        versions = session.scalars(select(AdapterVersion).order_by(AdapterVersion.id)).all()
    for version in versions:
        if version.status == AdapterStatus.RETIRED.value:
            continue
        problem = _problem_of(examination, folder / version.digest, version.digest)
        if problem is not None:
            yield Finding("adapters", version.id, f"{version.version}: {problem}", _quarantine(examination, version))
    known = {version.digest for version in versions} | {QUARANTINE}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name not in known:
            yield Finding("adapters", path.name[:16], "a folder that belongs to no version", _remove(path))


def check_aliases(examination: Examination) -> Iterator[Finding]:
    """Every alias points at a version of its family that may serve, or at the base."""
    with examination.db.read() as session:
        for alias in session.scalars(select(AdapterAlias).where(AdapterAlias.version_id.is_not(None))):
            version = session.get(AdapterVersion, alias.version_id)
            name = f"{alias.family_id}/{alias.alias}"
            if version is None or version.family_id != alias.family_id:
                problem = f"points to {alias.version_id}, which is no version of this family"
            elif version.status == AdapterStatus.RETIRED.value:
                problem = f"points to {version.version}, which is retired"
            else:
                continue
            yield Finding("aliases", name, problem, _to_base(examination, alias, problem))


def _problem_of(examination: Examination, folder: Path, digest: str) -> str | None:
    if not folder.is_dir():
        return "its folder is missing"
    try:
        base = examination.base()
        if base is not None:
            verify(folder, base)
        if content_digest(folder) != digest:
            return "its folder holds another content than its name says"
    except AdapterRefused as error:
        return f"{error.detail} ({error.code})"
    return None


def _quarantine(examination: Examination, version: AdapterVersion) -> Repair:
    def repair() -> None:
        source = examination.settings.adapters_dir / version.digest
        target = examination.settings.adapters_dir / QUARANTINE / version.digest
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
        with examination.db.write() as session:
            row = session.get_one(AdapterVersion, version.id)
            row.status = AdapterStatus.RETIRED.value
            row.reasons = [*row.reasons, "damaged on disk; put into quarantine by doctor"]
            for alias in session.scalars(select(AdapterAlias).where(AdapterAlias.version_id == version.id)):
                _move_to_base(session, alias, version.version, "its version is damaged on disk")

    return repair


def _to_base(examination: Examination, alias: AdapterAlias, problem: str) -> Repair:
    def repair() -> None:
        with examination.db.write() as session:
            row = session.get_one(AdapterAlias, (alias.family_id, alias.alias))
            if row.version_id is not None:
                _move_to_base(session, row, None, problem)

    return repair


def _move_to_base(session: WriteSession, alias: AdapterAlias, from_version: str | None, reason: str) -> None:
    alias.version_id = None
    alias.revision += 1
    alias.updated_at = utc_now()
    session.add(
        AliasEvent(
            tenant_id=alias.tenant_id,
            family_id=alias.family_id,
            alias=alias.alias,
            action="rollback",
            from_version=from_version,
            to_version=None,
            reason=f"doctor: {reason}",
            actor=audit.SYSTEM,
            revision=alias.revision,
        )
    )
    audit.record(
        session,
        tenant_id=alias.tenant_id,
        actor=audit.SYSTEM,
        action="adapter.rollback",
        object_id=alias.family_id,
        detail={"alias": alias.alias, "from": from_version, "to": None, "reason": f"doctor: {reason}"},
    )


def _remove(folder: Path) -> Repair:
    return lambda: shutil.rmtree(folder) if folder.is_dir() else folder.unlink(missing_ok=True)
