"""Which index versions there are, which serves, and which documents each of them holds whole.

A document's generation becomes visible only when every version that may serve holds it, and a version becomes ready
only when it holds every visible generation. Both are decided in transactions that lock the version rows, so neither
can miss the other: that is what lets a switch lose nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from core.database import WriteSession
from core.tables.documents import ChunkRow, Document
from core.tables.operations import IndexContent, IndexVersion
from core.types import DocumentStatus


class VersionStatus(StrEnum):
    """State of an index version; which one serves is said by `active`."""

    BUILDING = "building"
    READY = "ready"
    UNUSABLE = "unusable"
    """This code can no longer make its vectors; it is neither written nor switched to."""
    DROPPING = "dropping"
    """Asked to go; its row goes when its points are gone, which waits for an index that is away."""


LIVE = (VersionStatus.BUILDING.value, VersionStatus.READY.value)


def active_version(session: Session) -> IndexVersion | None:
    """The version that serves; None before the first start."""
    return session.scalars(select(IndexVersion).where(IndexVersion.active)).one_or_none()


def live_versions(session: Session) -> Sequence[IndexVersion]:
    """Versions that writes must reach, the serving one first."""
    query = select(IndexVersion).where(IndexVersion.status.in_(LIVE))
    return session.scalars(query.order_by(IndexVersion.active.desc(), IndexVersion.created_at, IndexVersion.id)).all()


def must_hold(session: WriteSession) -> set[str]:
    """Ids of the versions that must hold a generation before it is shown; locked against a switch until the commit."""
    query = select(IndexVersion.id).where(IndexVersion.active | (IndexVersion.status == VersionStatus.READY.value))
    return set(session.scalars(query.with_for_update(read=True)))


def lock_versions(session: WriteSession) -> dict[str, IndexVersion]:
    """All versions, locked: nothing becomes visible, ready or active beside us."""
    rows = session.scalars(select(IndexVersion).order_by(IndexVersion.id).with_for_update()).all()
    return {row.id: row for row in rows}


def note_content(
    session: WriteSession, versions: Iterable[str], document_id: str, generation: int, counts: dict[str, int]
) -> None:
    """Record that versions hold a document's generation whole; `counts` are its chunks in each."""
    session.execute(
        delete(IndexContent).where(IndexContent.document_id == document_id, IndexContent.version_id.in_(counts))
    )
    session.add_all(
        IndexContent(version_id=version, document_id=document_id, generation=generation, chunk_count=counts[version])
        for version in versions
    )
    session.flush()


def missing_documents(session: Session, version_id: str, *, after: str = "", limit: int = 100) -> list[tuple[str, int]]:
    """(document, serving generation) that a version does not hold, by document id."""
    held = select(IndexContent.generation).where(
        IndexContent.version_id == version_id, IndexContent.document_id == Document.id
    )
    rows = session.execute(
        select(Document.id, Document.active_generation)
        .where(
            Document.id > after,
            Document.active_generation.is_not(None),
            Document.status != DocumentStatus.DELETING.value,
            func.coalesce(held.scalar_subquery(), -1) != Document.active_generation,
        )
        .order_by(Document.id)
        .limit(limit)
    )
    return [(document_id, int(generation or 0)) for document_id, generation in rows]


def documents_held(session: Session, version_id: str) -> tuple[int, int]:
    """(documents that a version holds, documents that it should hold)."""
    wanted = select(func.count()).where(
        Document.active_generation.is_not(None), Document.status != DocumentStatus.DELETING.value
    )
    held = (
        select(func.count())
        .select_from(IndexContent)
        .join(Document, Document.id == IndexContent.document_id)
        .where(
            IndexContent.version_id == version_id,
            IndexContent.generation == Document.active_generation,
            Document.status != DocumentStatus.DELETING.value,
        )
    )
    return session.scalar(held) or 0, session.scalar(wanted) or 0


def void_version(session: WriteSession, version: IndexVersion) -> bool:
    """Its index is gone: nothing of what it was recorded to hold is there. False when nothing was recorded."""
    if session.scalars(select(IndexContent.document_id).where(IndexContent.version_id == version.id)).first() is None:
        return False
    session.execute(delete(IndexContent).where(IndexContent.version_id == version.id))
    version.status = VersionStatus.BUILDING.value
    session.flush()
    return True


def fall_behind(session: WriteSession, version_id: str) -> None:
    """A version that does not serve missed a document: it must be built before it may serve."""
    version = lock_versions(session).get(version_id)
    if version is not None and not version.active and version.status == VersionStatus.READY.value:
        version.status = VersionStatus.BUILDING.value
        session.flush()


def chunks_held(session: Session, version_id: str) -> int:
    """Points that a version must hold at least: the chunks of all it was recorded to hold."""
    query = (
        select(func.sum(IndexContent.chunk_count))
        .join(Document, Document.id == IndexContent.document_id)
        .where(
            IndexContent.version_id == version_id,
            IndexContent.generation == Document.active_generation,
            Document.status != DocumentStatus.DELETING.value,
        )
    )
    return int(session.scalar(query) or 0)


def forget_version(session: WriteSession, version: IndexVersion) -> None:
    """Drop a version's row, what it held, and chunk rows that no other version uses."""
    shared = session.scalars(
        select(IndexVersion.id).where(IndexVersion.chunk_set == version.chunk_set, IndexVersion.id != version.id)
    ).first()
    session.execute(delete(IndexContent).where(IndexContent.version_id == version.id))
    if shared is None:
        session.execute(delete(ChunkRow).where(ChunkRow.chunk_set == version.chunk_set))
    session.delete(version)
    session.flush()
