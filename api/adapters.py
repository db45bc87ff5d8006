"""Adapter families and versions as callers see them, read from SQL. Moves of aliases go through the registry only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from api.schemas.adapters import FamilyBody, VersionBody
from core.access import Principal
from core.database import ReadSession, WriteSession
from core.errors import NotFound
from core.tables import AdapterAlias, AdapterFamily, AdapterVersion, TuningRun
from tuning.report import VersionReport


def find_family(session: ReadSession | WriteSession, caller: Principal, name: str) -> AdapterFamily:
    """A family of the caller's tenant.

    Raises:
        NotFound: there is none.
    """
    family = session.scalar(
        select(AdapterFamily).where(AdapterFamily.tenant_id == caller.tenant_id, AdapterFamily.name == name)
    )
    if family is None:
        raise NotFound(f"no adapter family {name!r}")
    return family


def family_bodies(session: ReadSession, families: Sequence[AdapterFamily]) -> list[FamilyBody]:
    """Bodies in the order of the rows, versions newest first."""
    ids = [family.id for family in families]
    versions: dict[str, list[AdapterVersion]] = defaultdict(list)
    rows = session.scalars(
        select(AdapterVersion)
        .where(AdapterVersion.family_id.in_(ids))
        .order_by(AdapterVersion.created_at.desc(), AdapterVersion.id.desc())
    )
    for row in rows:
        versions[row.family_id].append(row)
    aliases: dict[str, list[AdapterAlias]] = defaultdict(list)
    for alias in session.scalars(select(AdapterAlias).where(AdapterAlias.family_id.in_(ids))):
        aliases[alias.family_id].append(alias)
    return [_family_body(family, versions[family.id], aliases[family.id]) for family in families]


def _family_body(
    family: AdapterFamily, versions: Sequence[AdapterVersion], aliases: Sequence[AdapterAlias]
) -> FamilyBody:
    names = {version.id: version.version for version in versions}
    serving: dict[str, dict[str, Any]] = {
        alias.alias: {
            "version": names.get(alias.version_id or ""),
            "percent": alias.percent,
            "revision": alias.revision,
            "updated_at": alias.updated_at,
        }
        for alias in aliases
    }
    return FamilyBody(
        family=family.name,
        champion=serving.get("champion", {}).get("version"),
        canary=serving.get("canary", {}).get("version"),
        aliases=serving,
        versions=[version_body(family.name, version) for version in versions],
        created_at=family.created_at,
    )


def version_body(family: str, version: AdapterVersion) -> VersionBody:
    """Body of one version."""
    return VersionBody(
        id=version.id,
        family=family,
        version=version.version,
        name=f"{family}@{version.version}",
        digest=version.digest,
        status=version.status,
        reasons=version.reasons,
        source=version.source,
        run_id=version.run_id,
        manifest=version.manifest,
        gate_report=version.gate_report,
        created_at=version.created_at,
    )


def version_report(session: ReadSession, family: AdapterFamily, name: str) -> VersionReport:
    """All that a page shows of a version.

    Raises:
        NotFound: the family has no such version.
    """
    version = session.scalar(
        select(AdapterVersion).where(AdapterVersion.family_id == family.id, AdapterVersion.version == name)
    )
    if version is None:
        raise NotFound(f"no version {name!r} in the adapter family {family.name!r}")
    run = session.get(TuningRun, version.run_id) if version.run_id else None
    manifest = version.manifest or {}
    preparation = (run.progress if run is not None else {}).get("preparation", {})
    facts = {
        "digest": version.digest,
        "base": manifest.get("base_name"),
        "dataset version": manifest.get("dataset_version"),
        "recipe": (manifest.get("recipe") or {}).get("name"),
        "code": manifest.get("code_revision"),
        "started from": (manifest.get("notes") or {}).get("parent"),
        "neutral text, chain": _chain(version),
        "run": version.run_id,
        "rows": preparation.get("train_rows"),
        "rows held out": preparation.get("held_out_rows"),
        "rows left out": len(preparation.get("skipped") or []),
        "served to": ", ".join((manifest.get("notes") or {}).get("audience") or []),
    }
    return VersionReport(
        name=f"{family.name}@{version.version}",
        status=version.status,
        source=version.source,
        created_at=version.created_at,
        reasons=[str(reason) for reason in version.reasons],
        gate=version.gate_report,
        loss_curve=run.loss_curve if run is not None else (),
        facts=facts,
    )


def _chain(version: AdapterVersion) -> str:
    """Nats per token by which neutral text became likelier (above 0) under each version of the chain, oldest first."""
    links = (version.gate_report or {}).get("chain") or []
    if len(links) < 2:
        return ""
    shown = ("-" if link["general"] is None else f"{link['general']:+.2f}" for link in links)
    return ", ".join(f"{link['version']} {value}" for link, value in zip(links, shown, strict=True))
