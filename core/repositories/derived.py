"""What is made of documents is read and changed by whom its documents may be read by, as things stand now.

Training rows, sets, curated answers and stored answers carry text of documents. Each is for those who may read every
document that it names; a document that is gone can be read by nobody, so what rests on it is an admin's only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import ColumnElement, and_, exists, false, or_, select

from core.access import Principal, access_filter, documents_visible
from core.database import ReadSession, WriteSession
from core.errors import NotFound
from core.names import one_spelling
from core.repositories.lineage import SourceKind
from core.tables.answers import Answer
from core.tables.datasets import DatasetRow
from core.tables.documents import Document
from core.tables.lineage import CuratedAnswer, RowSource
from core.types import AccessFilter

_Session = ReadSession | WriteSession
_AT_ONCE = 500


def rows_readable(session: _Session, principal: Principal) -> ColumnElement[bool]:
    """Condition on `dataset_rows`: every document and curated answer that a row was made from may be read."""
    access = access_filter(principal)
    if access.groups is None:
        return DatasetRow.tenant_id == access.tenant_id
    hidden = exists().where(RowSource.row_id == DatasetRow.id, _hidden_source(session, access))
    return and_(DatasetRow.tenant_id == access.tenant_id, ~hidden)


def sets_with_hidden_rows(session: _Session, principal: Principal, dataset_ids: Collection[str]) -> set[str]:
    """Those of some sets that hold rows which the caller may not read."""
    access = access_filter(principal)
    if access.groups is None or not dataset_ids:
        return set()
    found = session.scalars(
        select(DatasetRow.dataset_id)
        .join(RowSource, RowSource.row_id == DatasetRow.id)
        .where(DatasetRow.dataset_id.in_(sorted(dataset_ids)), _hidden_source(session, access))
        .distinct()
    )
    return set(found)


def unreadable_rows(session: _Session, principal: Principal, row_ids: Sequence[str]) -> set[str]:
    """Those of some training rows that the caller may not read."""
    if access_filter(principal).groups is None:
        return set()
    readable = rows_readable(session, principal)
    found: set[str] = set()
    for first in range(0, len(row_ids), _AT_ONCE):
        some = row_ids[first : first + _AT_ONCE]
        found |= set(some) - set(session.scalars(select(DatasetRow.id).where(DatasetRow.id.in_(some), readable)))
    return found


def readable_curated(session: _Session, principal: Principal, rows: Sequence[CuratedAnswer]) -> list[CuratedAnswer]:
    """Those curated answers that the caller may read, in order."""
    access = access_filter(principal)
    named = {row.id: documents_named(row.passages) for row in rows}
    visible = _visible(session, access, {one for documents in named.values() for one in documents})
    return [row for row in rows if _for_groups(access, row.groups) and named[row.id] <= visible]


def ratable_answer(session: _Session, principal: Principal, answer_id: str) -> Answer:
    """An answer that the caller may say something of: its own, or one whose documents it may read.

    Raises:
        NotFound: there is none for this principal.
    """
    answer = session.get(Answer, answer_id)
    if answer is not None and answer.tenant_id == principal.tenant_id:
        named = documents_named(answer.passages) | documents_named(answer.citations)
        if answer.key_id == principal.key_id or named <= _visible(session, access_filter(principal), named):
            return answer
    raise NotFound(f"no answer {answer_id!r}")


def readable_answers(session: _Session, principal: Principal, answers: Sequence[Answer]) -> set[str]:
    """Ids of those answers whose documents the caller may read."""
    named = {answer.id: documents_named(answer.passages) for answer in answers}
    visible = _visible(session, access_filter(principal), {one for documents in named.values() for one in documents})
    return {answer_id for answer_id, documents in named.items() if documents <= visible}


def documents_named(passages: Iterable[object]) -> set[str]:
    """Documents that stored passages or citations name."""
    return {str(one["document_id"]) for one in passages if isinstance(one, dict) and one.get("document_id")}


def _visible(session: _Session, access: AccessFilter, document_ids: set[str]) -> set[str]:
    if access.groups is None:
        return document_ids
    found: set[str] = set()
    wanted = sorted(document_ids)
    for first in range(0, len(wanted), _AT_ONCE):
        some = Document.id.in_(wanted[first : first + _AT_ONCE])
        found |= set(session.scalars(select(Document.id).where(some, documents_visible(access))))
    return found


def _hidden_source(session: _Session, access: AccessFilter) -> ColumnElement[bool]:
    seen = exists().where(Document.id == RowSource.source_id, documents_visible(access))
    closed = [
        row.id
        for row in session.execute(
            select(CuratedAnswer.id, CuratedAnswer.groups).where(CuratedAnswer.tenant_id == access.tenant_id)
        )
        if not _for_groups(access, row.groups)
    ]
    curated = RowSource.source_id.in_(closed) if closed else false()
    return or_(
        and_(RowSource.kind == SourceKind.DOCUMENT.value, ~seen),
        and_(RowSource.kind == SourceKind.CURATED.value, curated),
    )


def _for_groups(access: AccessFilter, groups: Sequence[str] | None) -> bool:
    return groups is None or access.groups is None or not access.groups.isdisjoint(map(one_spelling, groups))
