"""Rows of a tenant's datasets as one run uses them, and the version that names exactly these."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from core.access import Principal
from core.database import Database
from core.repositories.derived import unreadable_rows
from core.repositories.lineage import common_groups
from core.tables.datasets import DatasetRow
from core.tables.documents import Document
from core.types import DocumentStatus


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of the tenant's datasets, as prepared."""

    id: str
    dataset_id: str
    line: int
    digest: str
    content: Mapping[str, Any]
    lineage: Mapping[str, Any] = field(default_factory=dict)


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
                found = SourceRow(row.id, dataset_id, row.line, row.content_sha256, row.content, row.lineage)
                rows.setdefault(row.content_sha256, found)
    return list(rows.values()), total - len(rows)


def dataset_version(rows: Sequence[SourceRow]) -> str:
    """sha256 over the digests of the rows that are used, in order."""
    whole = hashlib.sha256()
    for row in rows:
        whole.update(bytes.fromhex(row.digest))
    return whole.hexdigest()


def withhold(
    db: Database, rows: Sequence[SourceRow], audience: Sequence[str] | None, reader: Principal
) -> tuple[list[SourceRow], list[dict[str, Any]]]:
    """Rows that the reader and everybody whom the adapter will serve may read, and those that may not be used, and why.

    audience: groups that the family serves; None is the whole tenant. Access is that of now, not of when the row was
    made: a document closed since then closes its rows.
    """
    kept, withheld = [], []
    with db.read() as session:
        closed = unreadable_rows(session, reader, [row.id for row in rows])
        for row in rows:
            documents = [str(one["document_id"]) for one in row.lineage.get("documents", [])]
            problem = ("not_readable", "the key that asked for the run may not read it") if row.id in closed else None
            for document_id in documents:
                document = session.get(Document, document_id)
                if document is None or document.status == DocumentStatus.DELETING.value:
                    problem = ("document_deleted", f"document {document_id} is gone")
            if problem is None:
                for groups in (row.lineage.get("groups"), common_groups(session, documents)):
                    if groups is not None and (audience is None or not set(audience) <= set(groups)):
                        whom = "the whole tenant" if audience is None else ", ".join(audience)
                        problem = ("not_for_audience", f"readable by {groups or 'nobody'}; the family serves {whom}")
            if problem is None:
                kept.append(row)
            else:
                withheld.append(
                    {
                        "row": row.id, "dataset": row.dataset_id, "line": row.line, "code": problem[0],
                        "detail": problem[1],
                    }
                )  # fmt: skip
    return kept, withheld
