"""Rows of a tenant's datasets as one run uses them, and the version that names exactly these."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from core.database import Database
from core.tables.datasets import DatasetRow


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of the tenant's datasets, as prepared."""

    id: str
    dataset_id: str
    line: int
    digest: str
    content: Mapping[str, Any]


def load_rows(db: Database, tenant_id: str, dataset_ids: Sequence[str]) -> tuple[list[SourceRow], int]:
    """Rows in force in the order of their datasets, exact copies once; and how many copies were dropped."""
    rows: dict[str, SourceRow] = {}
    total = 0
    with db.read() as session:
        for dataset_id in dataset_ids:
            query = (
                select(DatasetRow)
                .where(DatasetRow.tenant_id == tenant_id, DatasetRow.dataset_id == dataset_id)
                .where(DatasetRow.retired_at.is_(None))
                .order_by(DatasetRow.ordinal)
            )
            for row in session.scalars(query):
                total += 1
                found = SourceRow(row.id, dataset_id, row.line, row.content_sha256, row.content)
                rows.setdefault(row.content_sha256, found)
    return list(rows.values()), total - len(rows)


def dataset_version(rows: Sequence[SourceRow]) -> str:
    """sha256 over the digests of the rows that are used, in order."""
    whole = hashlib.sha256()
    for row in rows:
        whole.update(bytes.fromhex(row.digest))
    return whole.hexdigest()
