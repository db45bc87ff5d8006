"""Stored bytes read again: new text, units and edition for documents that an earlier release has read.

A new generation of the same bytes takes the old one's place when it is whole; until then, and where reading fails now,
the old one serves. Groups, metadata, given days and given encoding stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Select, select

from core import audit
from core.access import Principal, access_filter, documents_visible
from core.database import Database, WriteSession
from core.errors import Conflict, NotFound
from core.jobs import JobStore
from core.paging import Page
from core.repositories.documents import lock_document, visible_document
from core.tables.base import utc_now
from core.tables.documents import Collection, Document, DocumentGeneration
from core.tables.jobs import Job
from core.types import DocumentStatus, JobKind, JobStatus, Scope
from ingest.pending import groups_to_be, metadata_to_be, validity_to_be

PRIORITY: Final = 7
"""Behind uploads, which somebody waits for."""
_UNFINISHED = {JobStatus.QUEUED.value, JobStatus.RUNNING.value}


@dataclass(frozen=True, slots=True)
class Reread:
    """A document and the job that reads it. `under_way`: that job was there before."""

    document: Document
    job: Job
    under_way: bool


class Rereading:
    """Queues the reading of stored bytes, for one process. Thread-safe."""

    def __init__(self, db: Database, jobs: JobStore) -> None:
        self._db = db
        self._jobs = jobs

    def these(self, principal: Principal, document_ids: Sequence[str], *, request_id: str | None) -> list[Reread]:
        """Read these again, all or none; in their order, each once.

        Raises:
            Forbidden: the key lacks `ingest`.
            NotFound: one of them is not there for this principal.
            Conflict: `document_deleting`.
        """
        principal.require(Scope.INGEST)
        wanted = dict.fromkeys(document_ids)
        found: dict[str, Reread] = {}
        with self._db.write() as session:
            for document_id in sorted(wanted):  # locked in one order, whoever asks for the same ones
                document = visible_document(session, access_filter(principal), document_id)
                if document.status == DocumentStatus.DELETING.value:
                    raise Conflict(f"document '{document_id}' is being deleted", code="document_deleting")
                found[document_id] = self._one(session, principal, document_id, request_id)
        return [found[document_id] for document_id in wanted]

    def all(
        self,
        principal: Principal,
        *,
        limit: int,
        after: str = "",
        collection: str | None = None,
        read_before: datetime | None = None,
        request_id: str | None = None,
    ) -> Page[Reread]:
        """Read the next `limit` of all documents that the principal may read, in the order of their ids.

        after: the cursor of the page before. read_before: leaves out what has been queued for reading since.

        Raises:
            Forbidden: the key lacks `ingest`.
        """
        principal.require(Scope.INGEST)
        with self._db.write() as session:
            ids = session.scalars(_wanted(principal, after, collection, read_before).limit(limit + 1)).all()
            done = [self._one(session, principal, document_id, request_id) for document_id in ids[:limit]]
        return Page(done, ids[limit - 1] if len(ids) > limit else None)

    def _one(self, session: WriteSession, principal: Principal, document_id: str, request_id: str | None) -> Reread:
        document = lock_document(session, document_id)
        if document is None:
            raise NotFound(f"no document '{document_id}'")
        newest = session.get_one(DocumentGeneration, (document.id, document.latest_generation))
        job = session.scalars(
            select(Job)
            .where(Job.subject_id == document.id, Job.kind == JobKind.INGEST.value)
            .order_by(Job.created_at.desc(), Job.id.desc())
            .limit(1)
        ).one_or_none()
        if job is not None and job.status in _UNFINISHED:
            return Reread(document, job, under_way=True)
        arguments = {
            "generation": document.latest_generation + 1,
            "groups": list(groups_to_be(session, document, job)),
            "filename": newest.filename,
            "metadata": metadata_to_be(document, job),
            "validity": validity_to_be(document, job),
        }
        document.latest_generation += 1
        document.updated_at = utc_now()
        session.add(
            DocumentGeneration(
                document_id=document.id,
                generation=document.latest_generation,
                tenant_id=document.tenant_id,
                source_sha256=newest.source_sha256,  # named by the row that was newest as well: nobody drops it
                filename=newest.filename,
                byte_size=newest.byte_size,
                given_encoding=newest.given_encoding,
            )
        )
        audit.record(
            session,
            tenant_id=document.tenant_id,
            actor=principal.actor,
            action="document.reread",
            object_id=document.id,
            detail={"generation": document.latest_generation},
            request_id=request_id,
        )
        session.flush()
        job = self._jobs.create(
            session,
            tenant_id=document.tenant_id,
            kind=JobKind.INGEST,
            subject_id=document.id,
            arguments=arguments,
            priority=PRIORITY,
        )
        return Reread(document, job, under_way=False)


def _wanted(principal: Principal, after: str, collection: str | None, read_before: datetime | None) -> Select[str]:
    query = select(Document.id).where(
        documents_visible(access_filter(principal)),
        Document.status != DocumentStatus.DELETING.value,
        Document.id > after,
    )
    if collection is not None:
        query = query.join(Collection, Collection.id == Document.collection_id).where(Collection.name == collection)
    if read_before is not None:
        query = query.join(
            DocumentGeneration,
            (DocumentGeneration.document_id == Document.id)
            & (DocumentGeneration.generation == Document.latest_generation),
        ).where(DocumentGeneration.created_at < read_before)
    return query.order_by(Document.id)
