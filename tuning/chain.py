"""Training that goes on from an adapter version: which one, whether it may, what is shown again, what was forgotten.

A version that starts from another has seen all that the other saw. So its lineage is carried over, rows that any
ancestor was trained on are never held out, and an ancestor that saw what has since been deleted cannot be started from:
the text would live on in the weights.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.database import Database
from core.errors import InvalidInput
from core.tables.adapters import AdapterAlias, AdapterFamily, AdapterVersion
from core.tables.datasets import DatasetRow
from core.tables.documents import Document
from core.tables.lineage import EVALUATED, RunDocument, RunRow
from core.types import AdapterStatus, DocumentStatus
from generation.adapters.forms import BOTTLENECK, is_bottleneck
from tuning.kinds import CONVERTED_KINDS, VIRTUAL_KINDS, AdapterKind, Method
from tuning.recipe import Recipe
from tuning.sources import SourceRow

BASE_START = "base"
CHAMPION_START = "champion"
START_PATTERN = r"^(base|champion|v[1-9][0-9]{0,8})$"

TRAINED = ("train", "parent")
"""Parts of a run's rows that its weights have learnt from, its own and those of its ancestors."""


@dataclass(frozen=True, slots=True)
class Parent:
    """The version that training goes on from."""

    version_id: str
    stamp: str
    """FAMILY@VERSION"""
    digest: str
    run_id: str | None
    audience: list[str] | None
    chain: list[dict[str, Any]]
    """[{version, general}] of its ancestors and itself, oldest first."""


def find_parent(session: Session, tenant_id: str, family: str, start_from: str) -> AdapterVersion | None:
    """The version that `start_from` names in a family; None for the base, and for a champion that is not there yet.

    Raises:
        InvalidInput: `cannot_start_from`: no such version, or one that the gate rejected or that is retired.
    """
    if start_from == BASE_START:
        return None
    query = (
        select(AdapterVersion)
        .join(AdapterFamily, AdapterFamily.id == AdapterVersion.family_id)
        .where(AdapterFamily.tenant_id == tenant_id, AdapterFamily.name == family)
    )
    if start_from == CHAMPION_START:
        query = query.join(AdapterAlias, AdapterAlias.version_id == AdapterVersion.id).where(
            AdapterAlias.alias == CHAMPION_START
        )
        return session.scalar(query)
    version = session.scalar(query.where(AdapterVersion.version == start_from))
    if version is None:
        raise _refused(f"the family '{family}' has no version '{start_from}'")
    if version.status != AdapterStatus.CANDIDATE.value:
        raise _refused(f"{family}@{start_from} is {version.status}")
    return version


def check_parent(session: Session, version: AdapterVersion, recipe: Recipe, adapters_dir: Path) -> None:
    """Refuse a version whose weights do not fit the recipe, or that saw what is gone.

    Raises:
        InvalidInput: `cannot_start_from`, with the reason.
    """
    config_file = adapters_dir / version.digest / "adapter_config.json"
    if config_file.exists():  # the training worker checks again where the files are
        problem = shape_mismatch(recipe, json.loads(config_file.read_text(encoding="utf-8")))
        if problem is not None:
            raise _refused(f"{version.version} has {problem}; start from the base, or override the recipe")
    gone = gone_sources(session, version)
    if gone:
        raise _refused(
            f"{version.version} was trained on what has since been deleted ({', '.join(gone[:3])}); start from the base"
        )


def shape_mismatch(recipe: Recipe, config: Mapping[str, Any]) -> str | None:
    """How an adapter differs from those the recipe makes, in words; None where its weights fit."""
    kind = recipe.adapter
    if recipe.method is Method.REWARD or kind in CONVERTED_KINDS or kind in VIRTUAL_KINDS:
        return f"no weights that '{recipe.method}' of '{kind}' could start from"
    trained = AdapterKind.BOTTLENECK if is_bottleneck(config) else AdapterKind.LORA
    if config.get("use_dora"):
        trained = AdapterKind.DORA
    alike = {AdapterKind.RSLORA: AdapterKind.LORA, AdapterKind.QLORA: AdapterKind.LORA}.get(kind, kind)
    stored = str(config.get("peft_type"))
    if alike is not trained or stored.upper() not in {"LORA", BOTTLENECK}:
        return f"another kind of adapter ({trained if stored == 'LORA' else stored})"
    if recipe.bottleneck is not None and kind is AdapterKind.BOTTLENECK:
        part = recipe.bottleneck
        rank, alpha, stabilised, targets = part.width, part.scale * part.width, False, part.targets
    else:
        lora = recipe.factors
        rank, alpha, targets = lora.rank, lora.alpha, lora.targets
        stabilised = lora.rank_stabilised or kind is AdapterKind.RSLORA
    wanted: dict[str, tuple[Any, Any]] = {
        "rank": (rank, config.get("r")),
        "alpha": (float(alpha), float(config.get("lora_alpha") or 0)),
        "rank_stabilised": (stabilised, bool(config.get("use_rslora"))),
    }
    if isinstance(targets, tuple):  # the trainer, which knows the base's layers, compares those
        wanted["targets"] = (sorted(targets), sorted(config.get("target_modules") or []))
    differing = [
        f"{name} {theirs} where the recipe has {ours}" for name, (ours, theirs) in wanted.items() if ours != theirs
    ]
    return "; ".join(differing) or None


def gone_sources(session: Session, version: AdapterVersion) -> list[str]:
    """Documents and rows that a version learnt from and that have been deleted, retired or withdrawn since, sorted."""
    if version.run_id is None:
        return []
    learnt = (RunDocument.run_id == version.run_id, RunDocument.use != EVALUATED)
    seen = select(RunDocument.document_id).where(*learnt).distinct()
    alive = select(Document.id).where(Document.id.in_(seen), Document.status != DocumentStatus.DELETING.value)
    documents = set(session.scalars(seen)) - set(session.scalars(alive))
    trained = select(RunRow.row_id).where(RunRow.run_id == version.run_id, RunRow.part.in_(TRAINED))
    in_force = select(DatasetRow.id).where(DatasetRow.id.in_(trained), DatasetRow.retired_at.is_(None))
    rows = set(session.scalars(trained)) - set(session.scalars(in_force))
    return sorted(documents) + sorted(rows)


def load_parent(session: Session, version_id: str) -> Parent:
    """The parent of a run, by the id that its request fixed."""
    version = session.get_one(AdapterVersion, version_id)
    family = session.get_one(AdapterFamily, version.family_id)
    stamp = f"{family.name}@{version.version}"
    report = version.gate_report or {}
    before = (report.get("chain") or [])[:-1]
    return Parent(
        version_id=version.id,
        stamp=stamp,
        digest=version.digest,
        run_id=version.run_id,
        audience=(version.manifest.get("notes") or {}).get("audience") if version.manifest else None,
        chain=[*before, chain_link(stamp, report)],
    )


def chain_link(stamp: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """What a version did to neutral text: nats per token against the base, below 0 where it has become less likely."""
    general = [
        check["difference"]
        for check in report.get("checks", [])
        if check["name"] == "general" and check["against"] == "base"
    ]
    return {"version": stamp, "general": general[0] if general else None}


def load_trained(db: Database, tenant_id: str, parent: Parent) -> list[SourceRow]:
    """Rows in force that the parent or an ancestor of it was trained on, in a fixed order."""
    if parent.run_id is None:
        return []
    query = (
        select(DatasetRow)
        .join(RunRow, RunRow.row_id == DatasetRow.id)
        .where(RunRow.run_id == parent.run_id, RunRow.part.in_(TRAINED))
        .where(DatasetRow.tenant_id == tenant_id, DatasetRow.retired_at.is_(None))
        .order_by(DatasetRow.id)
    )
    with db.read() as session:
        return [
            SourceRow(row.id, row.dataset_id, row.line, row.content_sha256, row.content, row.lineage)
            for row in session.scalars(query)
        ]


def replayed(rows: Sequence[SourceRow], trained: Sequence[SourceRow], share: float, seed: int) -> list[SourceRow]:
    """Old rows to show again, so that `share` of all rows are old ones; rows that are there anyway count as such."""
    present = {row.digest for row in rows}
    old = {row.digest for row in trained}
    rest = [row for row in trained if row.digest not in present]
    new = sum(row.digest not in old for row in rows)
    wanted = round(share / (1 - share) * new) - (len(rows) - new)
    if wanted <= 0:
        return []
    return random.Random(seed).sample(rest, min(wanted, len(rest)))


def common_audience(one: list[str] | None, two: list[str] | None) -> list[str] | None:
    """Groups that may be served by a version made of both: None is the whole tenant."""
    if one is None or two is None:
        return two if one is None else one
    return sorted(set(one) & set(two))


def _refused(detail: str) -> InvalidInput:
    return InvalidInput(detail, code="cannot_start_from")
