"""Training sets and rows as callers see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.tables.datasets import Dataset, DatasetRow
from tuning.datasets.fitness import unfit

_AT_ONCE = 500
_QUOTING = ("left_out", "invalid", "named")
"""Parts of a report that quote rows."""


@dataclass(frozen=True, slots=True)
class DatasetView:
    """A dataset as callers see it."""

    id: str
    name: str
    family: str
    """Whose runs take it when they name no sets."""
    format: str
    content_sha256: str
    source_sha256: str | None
    """The uploaded file; None for a set that the service made."""
    row_count: int
    """Rows in force: those that a run would take. None of a retired set."""
    retired_count: int
    """Rows that no run takes any more: by themselves (a document was deleted, a consent withdrawn) or with the set."""
    invalid_count: int
    report: dict[str, Any]
    """{encoding, languages, invalid: [{line, code, detail}], invalid_lines: {code: [line]}, duplicates: [{line, of}],
    grounded_count, cited_count, untrained: {member: {rows, lines, detail}}}"""
    warnings: list[dict[str, str]]
    """[{code, detail}]: what makes a version trained on this set alone fail the gate."""
    created_at: datetime
    retired_at: datetime | None
    retired_reason: str | None


@dataclass(frozen=True, slots=True)
class RowView:
    """A valid row as callers see it."""

    id: str
    ordinal: int
    line: int
    content: dict[str, Any]
    content_sha256: str
    lineage: dict[str, Any]
    retired_at: datetime | None
    retired_reason: str | None


def dataset_views(session: Session, datasets: Sequence[Dataset]) -> list[DatasetView]:
    """Views in the order of the sets."""
    counts = _retired_rows(session, [dataset.id for dataset in datasets])
    return [_view(dataset, counts.get(dataset.id, 0)) for dataset in datasets]


def without_quotes(view: DatasetView) -> DatasetView:
    """A set as one sees it who may not read all of its rows: what its report quotes of them is left out."""
    return replace(view, report={**view.report, **{key: [] for key in _QUOTING if key in view.report}})


def row_view(row: DatasetRow) -> RowView:
    """One row."""
    return RowView(
        id=row.id,
        ordinal=row.ordinal,
        line=row.line,
        content=row.content,
        content_sha256=row.content_sha256,
        lineage=row.lineage,
        retired_at=row.retired_at,
        retired_reason=row.retired_reason,
    )


def _retired_rows(session: Session, dataset_ids: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for start in range(0, len(dataset_ids), _AT_ONCE):
        query = (
            select(DatasetRow.dataset_id, func.count())
            .where(DatasetRow.dataset_id.in_(dataset_ids[start : start + _AT_ONCE]), DatasetRow.retired_at.is_not(None))
            .group_by(DatasetRow.dataset_id)
        )
        found |= {row[0]: row[1] for row in session.execute(query)}
    return found


def _view(dataset: Dataset, retired: int) -> DatasetView:
    gone = dataset.row_count if dataset.retired_at is not None else retired
    return DatasetView(
        id=dataset.id,
        name=dataset.name,
        family=dataset.family,
        format=dataset.format,
        content_sha256=dataset.content_sha256,
        source_sha256=dataset.source_sha256,
        row_count=dataset.row_count - gone,
        retired_count=gone,
        invalid_count=dataset.invalid_count,
        report=dataset.report,
        warnings=unfit([(dataset.format, dataset.row_count, dataset.report)]),
        created_at=dataset.created_at,
        retired_at=dataset.retired_at,
        retired_reason=dataset.retired_reason,
    )
