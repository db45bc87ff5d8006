"""Deleted documents leave the index, the database and the blob store; a collection leaves with all of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select

from core import audit
from core.database import Database, WriteSession
from core.errors import ExtractionFailed
from core.jobs import JobLease, JobStore
from core.ports import BlobStore
from core.repositories.blob_use import drop_unused
from core.repositories.lineage import SourceKind, retire_curated, retire_rows
from core.tables.base import utc_now
from core.tables.documents import Collection, Document, DocumentGeneration
from core.tables.jobs import Job
from core.types import DocumentStatus, JobKind, JobStatus

if TYPE_CHECKING:
    from retrieval.live import Retrieval

_BATCH = 200
"""Documents of a collection that are looked up at once."""


class Removal:
    """Works on jobs of the kinds DELETE and COLLECTION. Thread-safe."""

    def __init__(self, db: Database, blobs: BlobStore, retrieval: Retrieval) -> None:
        self._db = db
        self._blobs = blobs
        self._retrieval = retrieval

    def document(self, lease: JobLease) -> None:
        """Do one DELETE attempt: points, the rows, then the blobs that nobody else names."""
        lease.progress("index", 0.1)
        self.points(lease.tenant_id, lease.subject_id)
        lease.check()
        lease.progress("rows", 0.6)
        with lease.write() as session:
            self.rows(session, lease)
        self.drop_noted(lease)
        lease.succeed()

    def collection(self, lease: JobLease) -> None:
        """Do one COLLECTION attempt: every document goes as `document` lets it go, then the collection's row."""
        of_it = Document.collection_id == lease.subject_id
        actor = str(lease.arguments.get("actor") or audit.SYSTEM)
        removed = 0
        self.drop_noted(lease)  # of an attempt that was cut off between the rows and the bytes
        while True:
            with self._db.read() as session:
                left = session.scalar(select(func.count()).select_from(Document).where(of_it)) or 0
                batch = session.scalars(select(Document.id).where(of_it).order_by(Document.id).limit(_BATCH)).all()
            if not batch:
                break
            lease.progress("documents", 0.95 * removed / (removed + left))
            for document_id in batch:
                lease.check()
                self.points(lease.tenant_id, document_id)
                with lease.write() as session:
                    document = session.get(Document, document_id)
                    if document is not None:
                        retire_uses(session, document, actor, None)
                        self.rows(session, lease, document_id)
                self.drop_noted(lease)
                removed += 1
        with lease.write() as session:
            session.execute(delete(Collection).where(Collection.id == lease.subject_id))
            lease.succeed()

    def drop_noted(self, lease: JobLease) -> None:
        """Delete the blobs that a transaction of this job took the last row of, which it noted in the job itself.

        Outside that transaction, so that a slow store holds no lock of the database; a later attempt goes on here.
        """
        drop_unused(self._db, self._blobs, lease.arguments.get("blobs", ()))

    def points(self, tenant_id: str, document_id: str) -> None:
        """Drop the points of a tenant's document from every index version."""
        for version in self._retrieval.live():
            version.index.delete_document(document_id, tenant_id=tenant_id)
            version.index.flush_soon()

    def rows(self, session: WriteSession, lease: JobLease, document_id: str | None = None) -> None:
        """Drop a hidden document's row with all that belongs to it, and note its blobs in the job for `drop_noted`.

        Raises:
            ExtractionFailed: `not_deleting`: it is not hidden.
        """
        document_id = document_id or lease.subject_id
        document = session.get(Document, document_id)
        if document is None:
            return
        if document.status != DocumentStatus.DELETING.value:
            raise ExtractionFailed(f"document '{document_id}' is not being deleted", code="not_deleting")
        blobs: set[str] = set()
        for row in session.scalars(select(DocumentGeneration).where(DocumentGeneration.document_id == document_id)):
            blobs |= {row.source_sha256} | ({row.text_sha256} if row.text_sha256 else set())
        session.delete(document)
        session.flush()
        lease.note(blobs=sorted(blobs))


def hide(session: WriteSession, jobs: JobStore, document: Document, *, running_too: bool = False) -> None:
    """Take a locked document out of every search and answer, and cancel the ingest that waits; running_too: or runs."""
    states = [JobStatus.QUEUED.value, *([JobStatus.RUNNING.value] if running_too else [])]
    for job_id in session.scalars(
        select(Job.id).where(
            Job.subject_id == document.id,
            Job.tenant_id == document.tenant_id,
            Job.kind == JobKind.INGEST.value,
            Job.status.in_(states),
        )
    ).all():
        jobs.request_cancel(job_id, document.tenant_id, session=session)
    if document.status != DocumentStatus.DELETING.value:
        document.status = DocumentStatus.DELETING.value
        document.error = None
        document.active_generation = None
        document.updated_at = utc_now()


def retire_uses(session: WriteSession, document: Document, actor: str, request_id: str | None) -> None:
    """Retire training rows and curated answers that stand on a document, and write its deletion into the audit."""
    reason = f"document '{document.filename[:120]}' was deleted"
    audit.record(
        session,
        tenant_id=document.tenant_id,
        actor=actor,
        action="document.delete",
        object_id=document.id,
        detail={
            "filename": document.filename,
            "external_id": document.external_id,
            "training_rows_retired": retire_rows(session, document.tenant_id, SourceKind.DOCUMENT, document.id, reason),
            "curated_answers_retired": retire_curated(session, document.tenant_id, document.id, reason),
        },
        request_id=request_id,
    )
