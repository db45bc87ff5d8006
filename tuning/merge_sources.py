"""The versions that a merge combines: found for a tenant, and refused where they may not or cannot be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import InvalidInput
from core.tables.adapters import AdapterFamily, AdapterVersion
from core.types import AdapterStatus
from tuning.chain import Parent, common_audience, gone_sources, load_parent
from tuning.merge import why_not_merged
from tuning.recipe import MergeMethod


def find_sources(session: Session, tenant_id: str, recipe: MergeMethod, adapters_dir: Path) -> list[AdapterVersion]:
    """The versions, in the recipe's order.

    Raises:
        InvalidInput: `cannot_merge`: fewer than two, an unknown or rejected one, one that is no plain LoRA, one of
            another base than the first, or one that saw what has since been deleted.
    """
    if len(recipe.merge.sources) < 2:
        raise _refused("name at least two versions in merge.sources")
    found: list[AdapterVersion] = []
    for source in recipe.merge.sources:
        family, _, name = source.version.partition("@")
        version = session.scalar(
            select(AdapterVersion)
            .join(AdapterFamily, AdapterFamily.id == AdapterVersion.family_id)
            .where(AdapterFamily.tenant_id == tenant_id, AdapterFamily.name == family, AdapterVersion.version == name)
        )
        if version is None:
            raise _refused(f"there is no version '{source.version}'")
        if version.status != AdapterStatus.CANDIDATE.value:
            raise _refused(f"{source.version} is {version.status}")
        config = adapters_dir / version.digest / "adapter_config.json"
        if config.exists():  # the training worker reads the files themselves
            problem = why_not_merged(json.loads(config.read_text(encoding="utf-8")))
            if problem is not None:
                raise _refused(f"{source.version}: {problem}")
        if found and version.manifest.get("base_digest") != found[0].manifest.get("base_digest"):
            raise _refused(f"{source.version} was trained on another base than {recipe.merge.sources[0].version}")
        gone = gone_sources(session, version)
        if gone:
            raise _refused(f"{source.version} was trained on what has since been deleted ({', '.join(gone[:3])})")
        found.append(version)
    return found


def parents_of(session: Session, versions: Sequence[AdapterVersion]) -> list[Parent]:
    """The versions with their lineage."""
    return [load_parent(session, version.id) for version in versions]


def together(parents: Sequence[Parent]) -> Parent:
    """Several versions as the one that their merge goes on from: whom it may serve is whom all may serve."""
    audience = parents[0].audience
    for parent in parents[1:]:
        audience = common_audience(audience, parent.audience)
    return Parent(
        version_id="",
        stamp=" + ".join(parent.stamp for parent in parents),
        digest="",
        run_id=None,
        audience=audience,
        chain=[],
    )


def _refused(detail: str) -> InvalidInput:
    return InvalidInput(detail, code="cannot_merge")
