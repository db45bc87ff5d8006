"""Documents, their generations and chunks in SQL. Status follows the job of the newest generation, in its transaction.

A replaced document stays `ready` on its old generation when the new one fails, and says so in `error`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from weakref import WeakSet

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from core.access import documents_visible
from core.database import WriteSession
from core.errors import NotFound
from core.jobs import JobStore
from core.tables.base import utc_now
from core.tables.documents import ChunkRow, Collection, Document, DocumentGeneration, DocumentGroup
from core.tables.jobs import Job
from core.tables.operations import IndexVersion
from core.types import AccessFilter, Chunk, DocumentStatus, JobKind, JobStatus

DEFAULT_COLLECTION = "default"
SET_ASIDE = "~"
"""First character of the name of a collection that is being deleted: no name may begin so, and its own is free."""
_POINT_NAMESPACE = uuid.UUID("6f5f6b1e-6d3c-5b0e-9a3e-7c1f4a1b2d90")
_INSERT_BATCH = 500

_followed: WeakSet[JobStore] = WeakSet()


def point_id(document_id: str, generation: int, ordinal: int, chunk_set: str) -> str:
    """Id of a chunk and of its index point: the same work done twice writes the same rows."""
    return str(uuid.uuid5(_POINT_NAMESPACE, f"{document_id}/{generation}/{ordinal}/{chunk_set}"))


def follow_jobs(jobs: JobStore) -> None:
    """Make document status follow ingest jobs moved through this store. Every process that moves jobs calls it once."""
    if jobs not in _followed:
        _followed.add(jobs)
        jobs.listen(JobKind.INGEST, _on_ingest_job)


def visible_document(session: Session, access: AccessFilter, document_id: str) -> Document:
    """Read one document.

    Raises:
        NotFound: there is none for this principal.
    """
    document = session.scalars(
        select(Document).where(Document.id == document_id, documents_visible(access))
    ).one_or_none()
    if document is None:
        raise NotFound(f"no document '{document_id}'")
    return document


def lock_document(session: WriteSession, document_id: str) -> Document | None:
    """Lock a document after the jobs that work on it, and read it anew; None where it is gone.

    A worker holds its job's row when it comes to the document's. Whoever takes them the other way round, and then
    cancels, retries or changes such a job, waits for a worker that waits for him.
    """
    if session.get_bind().dialect.name == "sqlite":  # its writers are alone
        return session.get(Document, document_id, populate_existing=True)
    of_it = select(Job.id).where(Job.subject_id == document_id).order_by(Job.id)
    while True:
        point = session.begin_nested()
        locked = set(session.scalars(of_it.with_for_update()))
        document = session.get(Document, document_id, with_for_update=True, populate_existing=True)
        if locked.issuperset(session.scalars(of_it)):
            point.commit()
            return document
        point.rollback()  # a job was made between the two: let go of all, as going back means only that


def groups_of(session: Session, document_id: str) -> tuple[str, ...]:
    """Groups as stored, sorted."""
    return tuple(
        session.scalars(
            select(DocumentGroup.group_name)
            .where(DocumentGroup.document_id == document_id)
            .order_by(DocumentGroup.group_name)
        )
    )


def set_groups(session: WriteSession, document_id: str, groups: Iterable[str]) -> None:
    """Replace a document's groups."""
    wanted, present = set(groups), set(groups_of(session, document_id))
    if present - wanted:
        session.execute(
            delete(DocumentGroup).where(
                DocumentGroup.document_id == document_id, DocumentGroup.group_name.in_(present - wanted)
            )
        )
    session.add_all(DocumentGroup(document_id=document_id, group_name=name) for name in sorted(wanted - present))
    session.flush()


def collection_named(session: Session, tenant_id: str, name: str) -> Collection | None:
    """A tenant's collection, locked where the database locks rows: uploads into one collection queue up."""
    return session.scalars(
        select(Collection).where(Collection.tenant_id == tenant_id, Collection.name == name).with_for_update()
    ).one_or_none()


def collection_to_fill(session: WriteSession, tenant_id: str, name: str) -> Collection:
    """A tenant's collection, made where there is none."""
    collection = collection_named(session, tenant_id, name)
    if collection is None:
        collection = Collection(tenant_id=tenant_id, name=name)
        session.add(collection)
        session.flush()
    return collection


def insert_chunks(
    session: WriteSession, tenant_id: str, document_id: str, generation: int, chunks: Sequence[Chunk], chunk_set: str
) -> None:
    """Add chunk rows."""
    for first in range(0, len(chunks), _INSERT_BATCH):
        session.execute(
            insert(ChunkRow),
            [
                {
                    "id": point_id(document_id, generation, chunk.ordinal, chunk_set),
                    "tenant_id": tenant_id,
                    "document_id": document_id,
                    "generation": generation,
                    "ordinal": chunk.ordinal,
                    "chunk_set": chunk_set,
                    "start": chunk.start,
                    "end": chunk.end,
                    "page": chunk.page,
                    "heading": chunk.heading,
                    "text": chunk.text,
                    "token_count": chunk.token_count,
                }
                for chunk in chunks[first : first + _INSERT_BATCH]
            ],
        )


def drop_chunks(session: WriteSession, document_id: str, *, generation: int, chunk_set: str | None = None) -> None:
    """Drop the chunk rows of one generation, of all chunk sets or of one."""
    query = delete(ChunkRow).where(ChunkRow.document_id == document_id, ChunkRow.generation == generation)
    session.execute(query if chunk_set is None else query.where(ChunkRow.chunk_set == chunk_set))


def serving_chunk_set(session: Session) -> str:
    """Chunk set of the index version that serves: the one whose rows users see."""
    return session.scalar(select(IndexVersion.chunk_set).where(IndexVersion.active)) or ""


def drop_other_generations(session: WriteSession, document_id: str, *, keep: int) -> set[str]:
    """Drop chunk rows and generations older than `keep`; returns the blobs that they named."""
    older = select(DocumentGeneration).where(
        DocumentGeneration.document_id == document_id, DocumentGeneration.generation < keep
    )
    blobs: set[str] = set()
    for row in session.scalars(older).all():
        blobs |= {row.source_sha256} | ({row.text_sha256} if row.text_sha256 else set())
        session.delete(row)
    session.execute(delete(ChunkRow).where(ChunkRow.document_id == document_id, ChunkRow.generation < keep))
    session.flush()
    return blobs


def _on_ingest_job(session: WriteSession, job: Job) -> None:
    document = session.get(Document, job.subject_id)
    if document is None or document.status == DocumentStatus.DELETING.value:
        return
    if job.arguments.get("generation") != document.latest_generation:
        return  # a newer upload has taken over; its own job speaks for the document
    status = JobStatus(job.status)
    document.updated_at = utc_now()
    if status is JobStatus.QUEUED:
        document.status = DocumentStatus.QUEUED.value
    elif status is JobStatus.RUNNING:
        document.status = DocumentStatus.PROCESSING.value
    elif status is JobStatus.SUCCEEDED:
        document.status = DocumentStatus.READY.value
        document.error = None
    else:
        document.error = job.error or {"code": "cancelled", "detail": "the upload was cancelled", "retryable": True}
        served = document.active_generation is not None
        document.status = (DocumentStatus.READY if served else DocumentStatus.FAILED).value
    session.flush()
