"""One ingest attempt: extract, chunk, embed, index, switch. Every step may be cut off, and a re-run ends the same.

Order of writes, and why: chunk rows before points, so that every point has a row that can find it again; points in the
index before the switch, so that what is active is whole; the switch as one transaction; old points after it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import func, select

from core.database import Database, WriteSession
from core.editions import DocumentEdition
from core.errors import Cancelled, LeaseLost, TsumugiError, Unavailable
from core.jobs import JobLease, JobStore
from core.language import language_of
from core.ports import BlobStore
from core.repositories.blob_use import storing
from core.repositories.documents import (
    drop_chunks,
    drop_other_generations,
    follow_jobs,
    groups_of,
    set_groups,
)
from core.repositories.index_versions import fall_behind, live_versions, must_hold, note_content
from core.settings import Settings
from core.tables.base import utc_now
from core.tables.documents import ChunkRow, Document, DocumentGeneration
from core.tables.jobs import Job
from core.types import DocumentStatus, ExtractedDocument
from ingest.access import PointAccess, access_of
from ingest.editions import find_edition
from ingest.points import Place, blocks_to_json, drop_points, write_document
from ingest.removal import Removal
from ingest.sandbox import Sandbox
from ingest.validity import refresh_edition, validity_in

if TYPE_CHECKING:
    from retrieval.live import Retrieval

log = structlog.stdlib.get_logger(__name__)

_LOOK_AGAIN_S = 1.0


class _Obsolete(Exception):
    """The document is gone, being deleted, or has a newer generation: nobody waits for this attempt's result."""


@dataclass(slots=True)
class _Work:
    """What an attempt knows about its document."""

    tenant_id: str
    document_id: str
    collection_id: str
    generation: int
    source_sha256: str
    given_encoding: str | None
    filename: str
    external_id: str | None
    groups: tuple[str, ...]
    active: bool
    started: float
    looked: float = 0.0


class IngestPipeline:
    """Runs ingest and delete jobs in the process that owns the index. Thread-safe."""

    def __init__(
        self, db: Database, blobs: BlobStore, jobs: JobStore, retrieval: Retrieval, settings: Settings
    ) -> None:
        self._db = db
        self._blobs = blobs
        self._jobs = jobs
        self._retrieval = retrieval
        self._settings = settings
        self.sandbox = Sandbox(settings.ingest, settings.data_dir / "tmp" / "extract")
        self._removal = Removal(db, blobs, retrieval)
        self._access = PointAccess(db, retrieval)
        follow_jobs(jobs)

    def close(self) -> None:
        """End running extractions."""
        self.sandbox.close()

    def run(self, lease: JobLease) -> None:
        """Do one INGEST attempt. On return the job has ended well (`lease.finished`), also when it was overtaken.

        Raises:
            ExtractionFailed, UnsupportedFormat: the document cannot be read; permanent unless `retryable`.
            Cancelled, Interrupted, LeaseLost: see JobLease.
            Unavailable: embedder or index do not answer.
        """
        try:
            work = self._begin(lease)
            if not work.active:
                self._build(lease, work)
            self._finish(lease, work)
        except _Obsolete as reason:
            log.info("ingest.obsolete", document_id=lease.subject_id, job_id=lease.job_id, reason=str(reason))
            self._discard(lease)
            self._removal.drop_noted(lease)
            lease.succeed()
        except LeaseLost:
            with self._db.read() as session:
                document = session.get(Document, lease.subject_id)
            if document is None or document.latest_generation != int(lease.arguments["generation"]):
                self._drop_stray_points(lease)
            raise
        except TsumugiError as error:
            if isinstance(error, Cancelled) or not error.retryable:
                self._discard(lease)
            raise

    def delete(self, lease: JobLease) -> None:
        """Do one DELETE attempt."""
        self._removal.document(lease)

    def delete_collection(self, lease: JobLease) -> None:
        """Do one COLLECTION attempt."""
        self._removal.collection(lease)

    def bring_access(self, lease: JobLease) -> None:
        """Do one ACCESS attempt: the points of a document get the groups and the collection that SQL has."""
        self._access.bring(lease.subject_id)
        lease.succeed()

    def _begin(self, lease: JobLease) -> _Work:
        generation = int(lease.arguments["generation"])
        with self._db.read() as session:
            document = session.get(Document, lease.subject_id)
            row = session.get(DocumentGeneration, (lease.subject_id, generation))
            if document is None or row is None:
                raise _Obsolete("document or generation is gone")
            _check_wanted(document, generation)
            return _Work(
                tenant_id=document.tenant_id,
                document_id=document.id,
                collection_id=document.collection_id,
                generation=generation,
                source_sha256=row.source_sha256,
                given_encoding=row.given_encoding,
                filename=row.filename,
                external_id=document.external_id,
                groups=tuple(lease.arguments.get("groups") or groups_of(session, document.id)),
                active=document.active_generation == generation,
                started=time.monotonic(),
            )

    def _build(self, lease: JobLease, work: _Work) -> None:
        """Write every index version that is kept up to date, then switch; again where one came up meanwhile."""
        extracted = self._extract(lease, work)
        edition = find_edition(work.filename, extracted, external_id=work.external_id)
        lease.progress("chunk", 0.3)
        place = Place(work.tenant_id, work.collection_id, work.document_id, work.generation, work.filename, work.groups)

        @contextmanager
        def write() -> Iterator[WriteSession]:
            with lease.write() as session:
                _wanted(session, work)
                yield session

        counts: dict[str, int] = {}
        behind: set[str] = set()
        cut: set[str] = set()
        while True:
            versions = [version for version in self._retrieval.live() if version.id not in counts.keys() | behind]
            for number, version in enumerate(versions):

                def step(done: float, number: int = number, of: int = len(versions)) -> None:
                    self._look(lease, work)
                    lease.progress("embed", 0.35 + 0.55 * (number + done) / of)

                with_rows = version.chunk_set not in cut
                try:
                    counts[version.id] = write_document(
                        version, place, extracted, with_rows=with_rows, write=write, step=step
                    )
                except Unavailable as error:
                    if not error.code.startswith("embedder_") or version.id == self._retrieval.index_version:
                        raise
                    log.warning("index.version_behind", version=version.id, code=error.code, detail=error.detail)
                    with lease.write() as session:
                        fall_behind(session, version.id)
                    behind.add(version.id)
                    continue
                cut.add(version.chunk_set)
            if self._switch(lease, work, counts, edition):
                return

    def _extract(self, lease: JobLease, work: _Work) -> ExtractedDocument:
        lease.progress("extract", 0.05)
        data = self._blobs.get(work.source_sha256)
        extracted = self.sandbox.extract(
            data, work.filename, encoding=work.given_encoding, poll=lambda: self._look(lease, work)
        )
        text = extracted.text.encode("utf-8")
        with storing(self._db, self._blobs, [text]) as still_held, lease.write() as session:
            _wanted(session, work)
            row = session.get(DocumentGeneration, (work.document_id, work.generation))
            if row is None:
                raise _Obsolete("generation is gone")
            row.text_sha256 = hashlib.sha256(text).hexdigest()
            row.media_type = extracted.media_type
            row.encoding = extracted.encoding
            row.char_count = len(extracted.text)
            row.page_count = extracted.page_count
            row.title = extracted.title
            row.language = language_of(extracted.text[:20_000]).value
            row.quality = dict(extracted.quality)
            row.places = [[p.page, p.text, p.x0, p.y0, p.x1, p.y1] for p in extracted.places] or None
            row.blocks = blocks_to_json(extracted)
            still_held()
        return extracted

    def _switch(self, lease: JobLease, work: _Work, counts: dict[str, int], edition: DocumentEdition) -> bool:
        """The one transaction that makes the generation visible, whole, in all versions that may serve.

        False, and nothing is changed: such a version is not among those that were written.
        """
        lease.progress("switch", 0.95)
        with lease.write() as session:
            document = _wanted(session, work)
            if must_hold(session) - set(counts):
                return False
            row = session.get(DocumentGeneration, (work.document_id, work.generation))
            versions = {version.id: version for version in live_versions(session)}
            kept = {version: count for version, count in counts.items() if version in versions}
            for version, count in kept.items():
                rows = session.scalar(
                    select(func.count())
                    .select_from(ChunkRow)
                    .where(
                        ChunkRow.document_id == work.document_id,
                        ChunkRow.generation == work.generation,
                        ChunkRow.chunk_set == versions[version].chunk_set,
                    )
                )
                if row is None or rows != count:
                    raise Unavailable(
                        f"{rows} of {count} chunk rows of document '{work.document_id}' are there",
                        code="index_incomplete",
                    )
            assert row is not None
            serving = next((version.id for version in versions.values() if version.active), None)
            row.index_version = serving
            row.chunk_count = kept.get(serving or "", 0)
            note_content(session, kept, work.document_id, work.generation, kept)
            document.active_generation = work.generation
            document.filename = work.filename
            job = session.get(Job, lease.job_id)
            if job is not None and "metadata" in job.arguments:  # may have changed since the claim
                document.metadata_ = dict(job.arguments["metadata"])
            refresh_edition(document, edition, validity_in(job))
            document.updated_at = utc_now()
            # May have changed since the claim as well; `_finish` then mends the points, written with the older ones.
            set_groups(session, work.document_id, (job.arguments.get("groups") if job else None) or work.groups)
            return True

    def _finish(self, lease: JobLease, work: _Work) -> None:
        """Remove what the switch made old, then end the job."""
        with self._db.read() as session:
            access = access_of(session, work.document_id)
        if work.active or access != (work.collection_id, work.groups):
            self._access.bring(work.document_id)
        for version in self._retrieval.live():
            version.index.delete_document(work.document_id, tenant_id=work.tenant_id, keep_generation=work.generation)
            version.index.flush_soon()
        with lease.write() as session:
            document = _wanted(session, work)
            left = set(lease.arguments.get("blobs", ()))  # of an attempt that the store cut off
            lease.note(blobs=sorted(left | drop_other_generations(session, document.id, keep=work.generation)))
        self._removal.drop_noted(lease)
        lease.succeed()
        log.info(
            "ingest.ready",
            document_id=work.document_id,
            generation=work.generation,
            job_id=lease.job_id,
            seconds=round(time.monotonic() - work.started, 3),
        )

    def _look(self, lease: JobLease, work: _Work) -> None:
        """Between steps: raise unless the job is still ours and its result is still wanted."""
        lease.check()
        now = time.monotonic()
        if now - work.looked < _LOOK_AGAIN_S:
            return
        work.looked = now
        with self._db.read() as session:
            document = session.get(Document, work.document_id)
            if document is None:
                raise _Obsolete("document is gone")
            _check_wanted(document, work.generation)

    def _discard(self, lease: JobLease) -> None:
        """Take back what this attempt wrote for a generation that will not become active."""
        if self._drop_stray_points(lease):
            with lease.write() as session:
                drop_chunks(session, lease.subject_id, generation=int(lease.arguments["generation"]))

    def _drop_stray_points(self, lease: JobLease) -> bool:
        """Drop the points of a generation that does not serve; False when it does.

        A newer generation, or a deletion, may have dropped our rows while our last write to the index was under way.
        """
        document_id, generation = lease.subject_id, int(lease.arguments["generation"])
        with self._db.read() as session:
            document = session.get(Document, document_id)
        if document is not None and document.active_generation == generation:
            return False
        for version in self._retrieval.live():
            if document is None:
                version.index.delete_document(document_id, tenant_id=lease.tenant_id)
            else:
                drop_points(version, lease.tenant_id, document_id, generation)
            version.index.flush_soon()
        return True


def _wanted(session: WriteSession, work: _Work) -> Document:
    """The document, locked, if this generation is still to become, or is, the active one."""
    document = session.get(Document, work.document_id, with_for_update=True, populate_existing=True)
    if document is None:
        raise _Obsolete("document is gone")
    _check_wanted(document, work.generation)
    return document


def _check_wanted(document: Document, generation: int) -> None:
    if document.status == DocumentStatus.DELETING.value:
        raise _Obsolete("document is being deleted")
    if document.latest_generation != generation:
        raise _Obsolete(f"generation {document.latest_generation} is newer")
