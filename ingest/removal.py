"""Deleted documents leave the index, the database and the blob store; a collection leaves with all of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select

from core import audit
from core.database import Database, WriteSession
from core.errors import ExtractionFailed
from core.jobs import JobLease
from core.ports import BlobStore
from core.repositories.documents import blob_is_used, hold_blobs
from core.repositories.lineage import SourceKind, retire_curated, retire_rows
from core.tables.documents import Collection, Document, DocumentGeneration
from core.types import DocumentStatus

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
        """Do one DELETE attempt: points, chunks, blobs nobody else names, then the row."""
        lease.progress("index", 0.1)
        self._points(lease.subject_id)
        lease.check()
        lease.progress("rows", 0.6)
        with lease.write() as session:
            self._rows(session, lease.subject_id)
            lease.succeed()

    def collection(self, lease: JobLease) -> None:
        """Do one COLLECTION attempt: every document goes as `document` lets it go, then the collection's row."""
        of_it = Document.collection_id == lease.subject_id
        actor = str(lease.arguments.get("actor") or audit.SYSTEM)
        removed = 0
        while True:
            with self._db.read() as session:
                left = session.scalar(select(func.count()).select_from(Document).where(of_it)) or 0
                batch = session.scalars(select(Document.id).where(of_it).order_by(Document.id).limit(_BATCH)).all()
            if not batch:
                break
            lease.progress("documents", 0.95 * removed / (removed + left))
            for document_id in batch:
                lease.check()
                self._points(document_id)
                with lease.write() as session:
                    document = session.get(Document, document_id)
                    if document is not None:
                        retire_uses(session, document, actor, None)
                        self._rows(session, document_id)
                removed += 1
        with lease.write() as session:
            session.execute(delete(Collection).where(Collection.id == lease.subject_id))
            lease.succeed()

    def drop_unused(self, session: WriteSession, blobs: set[str]) -> None:
        """Delete blobs inside the transaction that drops their last row: after it, a new upload may count on them.

        If the transaction then fails, the rows name blobs that are gone; the job runs again and drops those rows too.
        """
        hold_blobs(session)
        for digest in blobs:
            if not blob_is_used(session, digest):
                self._blobs.delete(digest)

    def _points(self, document_id: str) -> None:
        for version in self._retrieval.live():
            version.index.delete_document(document_id)
            version.index.flush_soon()

    def _rows(self, session: WriteSession, document_id: str) -> None:
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
        self.drop_unused(session, blobs)


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
