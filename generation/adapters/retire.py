"""Versions that may serve no more, taken out of every alias at once: what they learnt must be forgotten."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import structlog
from sqlalchemy import select

from core import audit
from core.database import Database, ReadSession
from core.errors import AdapterRefused
from core.ports import Engine
from core.settings import Settings
from core.tables import AdapterAlias, AdapterFamily, AdapterVersion, AliasEvent
from core.tables.base import utc_now
from core.types import AdapterStatus
from generation.adapters.history import RETIRE, champion_stack
from generation.adapters.routing import CHAMPION, reference

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Retired:
    """What became of a family. Versions are names such as 'v3'."""

    versions: list[str]
    """Those that were not retired before."""
    champion: str | None
    """Which serves now; None is the base."""


def retire_versions(
    db: Database,
    settings: Settings,
    engine: Engine | None,
    family_id: str,
    version_ids: Collection[str],
    *,
    replacement_id: str | None = None,
    actor: str,
    reason: str,
) -> Retired:
    """Retire versions of a family. Where one is the champion, the replacement takes its place, or else the last
    champion before it that is neither retired nor among them, or the base; where one is canary or shadow, that ends.

    engine: proves that the successor can be loaded, before anything moves; None in a process that has none, where the
    proof of its registration and of its earlier service stands. Repeating it changes nothing.

    Raises:
        AdapterRefused: the replacement cannot be loaded. Another successor that cannot is passed over.
        Unavailable: the engine does not answer.
    """
    with db.read() as session:
        owner = session.get_one(AdapterFamily, family_id)
        successors = list(_successors(session, family_id, version_ids, replacement_id))
    target = None
    for candidate in successors:
        try:
            if engine is not None:
                engine.ensure_adapter(reference(settings.adapters_dir, owner.name, candidate))
        except AdapterRefused as error:
            if candidate.id == replacement_id:
                raise
            log.warning("adapter.passed_over", family=owner.name, version=candidate.version, code=error.code)
        else:
            target = candidate
            break
    with db.write() as session:
        versions = session.scalars(
            select(AdapterVersion)
            .where(AdapterVersion.family_id == family_id, AdapterVersion.id.in_(sorted(version_ids)))
            .order_by(AdapterVersion.created_at)
            .with_for_update()
        ).all()
        names = {version.id: version.version for version in versions}
        aliases = session.scalars(
            select(AdapterAlias).where(AdapterAlias.family_id == family_id).with_for_update()
        ).all()
        champion = next((alias.version_id for alias in aliases if alias.alias == CHAMPION), None)
        for alias in aliases:
            if alias.version_id not in names:
                continue
            successor = target if alias.alias == CHAMPION else None
            session.add(
                AliasEvent(
                    tenant_id=owner.tenant_id, family_id=family_id, alias=alias.alias, action=RETIRE,
                    from_version=names[alias.version_id], to_version=successor.version if successor else None,
                    reason=reason, actor=actor, revision=alias.revision + 1,
                )
            )  # fmt: skip
            alias.version_id = successor.id if successor else None
            alias.percent, alias.updated_at = 100, utc_now()
            alias.revision += 1
            champion = alias.version_id if alias.alias == CHAMPION else champion
        fresh = [version for version in versions if version.status != AdapterStatus.RETIRED.value]
        for version in fresh:
            version.status = AdapterStatus.RETIRED.value
            version.reasons = [*version.reasons, reason]
        serving = session.get(AdapterVersion, champion) if champion is not None else None
        told = Retired([version.version for version in fresh], serving.version if serving else None)
        if fresh:
            audit.record(
                session, tenant_id=owner.tenant_id, actor=actor, action="adapter.retire", object_id=owner.name,
                detail={"versions": told.versions, "champion": told.champion, "reason": reason},
            )  # fmt: skip
    log.info("adapter.retired", family=owner.name, versions=told.versions, champion=told.champion)
    return told


def _successors(
    session: ReadSession, family_id: str, version_ids: Collection[str], replacement_id: str | None
) -> Iterator[AdapterVersion]:
    if replacement_id is not None:
        yield session.get_one(AdapterVersion, replacement_id)
        return
    for name in reversed(champion_stack(session, family_id, CHAMPION)):
        version = session.scalar(
            select(AdapterVersion).where(AdapterVersion.family_id == family_id, AdapterVersion.version == name)
        )
        if version is None:  # the base: nothing to load
            return
        if version.id not in version_ids and version.status != AdapterStatus.RETIRED.value:
            yield version
