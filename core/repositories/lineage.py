"""From a source to the training rows made of it, and on to the adapters that saw them.

Here and not in `tuning`, because deleting a document (ingest) must retire rows in the transaction that hides it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from sqlalchemy import exists, or_, select, update

from core.access import PUBLIC_GROUP
from core.database import ReadSession, WriteSession
from core.tables.adapters import AdapterVersion
from core.tables.base import utc_now
from core.tables.datasets import DatasetRow
from core.tables.documents import DocumentGroup
from core.tables.lineage import CuratedAnswer, RowSource, RunDocument, RunRow


class SourceKind(StrEnum):
    """What a training row may be made from."""

    DOCUMENT = "document"
    ANSWER = "answer"
    FEEDBACK = "feedback"
    CURATED = "curated"


def retire_rows(session: WriteSession, tenant_id: str, kind: SourceKind, source_id: str, reason: str) -> int:
    """Take the rows made from a source out of every later dataset version; how many were in force."""
    from_source = exists().where(
        RowSource.row_id == DatasetRow.id, RowSource.kind == kind.value, RowSource.source_id == source_id
    )
    done = session.execute(
        update(DatasetRow)
        .where(DatasetRow.tenant_id == tenant_id, DatasetRow.retired_at.is_(None), from_source)
        .values(retired_at=utc_now(), retired_reason=reason[:200]),
        execution_options={"synchronize_session": False},
    )
    return int(done.rowcount)  # type: ignore[attr-defined]


def retire_curated(session: WriteSession, tenant_id: str, document_id: str, reason: str) -> int:
    """Take back curated answers that rest on a document; how many."""
    found = [
        row
        for row in session.scalars(
            select(CuratedAnswer).where(CuratedAnswer.tenant_id == tenant_id, CuratedAnswer.retired_at.is_(None))
        )
        if any(passage.get("document_id") == document_id for passage in row.passages)
    ]
    for row in found:
        row.retired_at, row.retired_reason = utc_now(), reason[:200]
        retire_rows(session, tenant_id, SourceKind.CURATED, row.id, reason)
    return len(found)


def versions_that_saw(
    session: ReadSession | WriteSession, tenant_id: str, kind: SourceKind, source_id: str
) -> Sequence[AdapterVersion]:
    """Adapter versions whose training or evaluation put text of a source before the model, newest first.

    A document counts also where its passages only stood beside others to mislead.
    """
    through_rows = exists().where(
        RunRow.run_id == AdapterVersion.run_id,
        RowSource.row_id == RunRow.row_id,
        RowSource.kind == kind.value,
        RowSource.source_id == source_id,
    )
    seen = through_rows
    if kind is SourceKind.DOCUMENT:
        beside = exists().where(RunDocument.run_id == AdapterVersion.run_id, RunDocument.document_id == source_id)
        seen = or_(through_rows, beside)  # type: ignore[assignment]
    return session.scalars(
        select(AdapterVersion)
        .where(AdapterVersion.tenant_id == tenant_id, seen)
        .order_by(AdapterVersion.created_at.desc(), AdapterVersion.id.desc())
    ).all()


def common_groups(session: ReadSession | WriteSession, document_ids: Iterable[str]) -> list[str] | None:
    """Groups that may read all of the documents: None is the whole tenant, an empty list is nobody but an admin."""
    common: set[str] | None = None
    for document_id in sorted(set(document_ids)):
        groups = set(session.scalars(select(DocumentGroup.group_name).where(DocumentGroup.document_id == document_id)))
        if PUBLIC_GROUP not in groups:
            common = groups if common is None else common & groups
    return None if common is None else sorted(common)
