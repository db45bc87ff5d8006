"""Fills an index version from what is stored: extracted text and its blocks, nothing is uploaded or extracted again.

Documents go on being ingested, into all versions, while this works through those that its version lacks. It may be
stopped and resumed at any document. Whoever replaces or deletes a document meanwhile wins: what was just written for
the old generation is dropped again, and the next round sees the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import select
from sqlalchemy.orm import undefer

from core.database import Database, WriteSession
from core.errors import NotFound
from core.jobs import JobLease
from core.ports import BlobStore, PlacesTenants
from core.repositories.documents import groups_of
from core.repositories.index_versions import (
    VersionStatus,
    documents_held,
    lock_versions,
    missing_documents,
    note_content,
)
from core.settings import Settings
from core.tables.documents import Document, DocumentGeneration
from core.tables.operations import IndexContent, IndexVersion
from core.tenants import tenants_apart
from core.types import DocumentStatus, ExtractedDocument
from ingest.access import PointAccess, access_of
from ingest.points import Place, blocks_from_json, drop_points, write_document
from ingest.sandbox import Sandbox
from ingest.vectors import passage_vectors
from retrieval.reconcile import mend

if TYPE_CHECKING:
    from retrieval.live import OpenVersion, Retrieval

log = structlog.stdlib.get_logger(__name__)

_ROUND = 100


class _Overtaken(Exception):
    """The document was replaced or deleted meanwhile."""


class IndexBuilder:
    """Runs index jobs in a process that can write the index. Thread-safe."""

    def __init__(self, db: Database, blobs: BlobStore, retrieval: Retrieval, settings: Settings) -> None:
        self._db = db
        self._blobs = blobs
        self._retrieval = retrieval
        self._sandbox = Sandbox(settings.ingest, settings.data_dir / "tmp" / "rebuild")
        self._access = PointAccess(db, retrieval)

    def close(self) -> None:
        """End running extractions."""
        self._sandbox.close()

    def run(self, lease: JobLease) -> None:
        """Do one attempt of an INDEX job: fill the version that is its subject, call it ready, compare it with SQL.

        Between the last two, tenants move to shards of their own and back, as their rows say. The comparison mends what
        was lost since, so building a version that is ready repairs it, while all serves.

        Raises:
            Cancelled, Interrupted, LeaseLost: see JobLease; what is built stays and is not built again.
            NotFound: `index_version_not_found`: it was dropped.
            Unavailable: embedder or index do not answer.
        """
        with self._db.read() as session:
            row = session.get(IndexVersion, lease.subject_id)
        if row is None:
            raise NotFound(f"no index version '{lease.subject_id}'", code="index_version_not_found")

        version = self._retrieval.open(row)
        index = version.index
        index.ensure()  # it may have been dropped or lost since this process opened it
        moves = isinstance(index, PlacesTenants) and index.keeps_apart

        def step(done: float) -> None:
            lease.check()
            lease.progress("build", (0.6 if moves else 0.98) * done)

        def moved(done: float) -> None:
            lease.check()
            lease.progress("shards", 0.6 + 0.38 * done)

        self.fill(version, step)
        if isinstance(index, PlacesTenants):
            index.place(tenants_apart(self._db), moved)
        report = mend(self._db, version, passage_vectors)
        if not report.clean:
            log.warning("index.reconciled", version=version.id, report=str(report))
        lease.succeed()

    def lacks(self, version: OpenVersion) -> bool:
        """Whether a version does not hold every document that is visible."""
        with self._db.read() as session:
            return bool(missing_documents(session, version.id, limit=1))

    def fill(self, version: OpenVersion, step: Callable[[float], None]) -> None:
        """Bring a version up to all visible documents and call it ready.

        step: called between batches with the fraction of documents held; what it raises ends the work.
        """
        while True:
            with self._db.read() as session:  # once a round: counting for each document would count all of them
                held, wanted = documents_held(session, version.id)
            for document_id, generation in self._missing(version):
                look = partial(step, min(1.0, held / wanted) if wanted else 1.0)
                try:
                    self._one(version, document_id, generation, look)
                except _Overtaken:
                    log.info("index.overtaken", version=version.id, document_id=document_id, generation=generation)
                held += 1
            if self._finish(version):
                log.info("index.ready", version=version.id)
                return

    def _missing(self, version: OpenVersion) -> Iterator[tuple[str, int]]:
        after = ""
        while True:
            with self._db.read() as session:
                found = missing_documents(session, version.id, after=after, limit=_ROUND)
            yield from found
            if len(found) < _ROUND:
                return
            after = found[-1][0]

    def _one(self, version: OpenVersion, document_id: str, generation: int, look: Callable[[], None]) -> None:
        @contextmanager
        def write() -> Iterator[WriteSession]:
            with self._db.write() as session:
                document = session.get(Document, document_id, with_for_update=True, populate_existing=True)
                if (
                    document is None
                    or document.active_generation != generation
                    or document.status == DocumentStatus.DELETING.value
                ):
                    raise _Overtaken
                yield session

        look()
        place, extracted, cut = self._stored(version, document_id, generation)
        try:
            count = write_document(version, place, extracted, with_rows=not cut, write=write, step=lambda _: look())
            with write() as session:
                if session.get(IndexVersion, version.id) is None:
                    raise NotFound(f"no index version '{version.id}'", code="index_version_not_found")
                note_content(session, [version.id], document_id, generation, {version.id: count})
                access = access_of(session, document_id)
            if access != (place.collection_id, place.groups):  # changed before these points could be reached
                self._access.bring(document_id)
        except _Overtaken:
            # Its successor has dropped the points of this generation, but maybe before our last write.
            drop_points(version, place.tenant_id, document_id, generation)
            version.index.flush_soon()
            raise

    def _stored(self, version: OpenVersion, document_id: str, generation: int) -> tuple[Place, ExtractedDocument, bool]:
        """What to write of a document, and whether another version has cut it in the same way already."""
        with self._db.read() as session:
            document = session.get(Document, document_id)
            row = session.get(
                DocumentGeneration, (document_id, generation), options=[undefer(DocumentGeneration.blocks)]
            )
            if document is None or row is None:
                raise _Overtaken
            twin = session.scalars(
                select(IndexContent.version_id)
                .join(IndexVersion, IndexVersion.id == IndexContent.version_id)
                .where(
                    IndexContent.document_id == document_id,
                    IndexContent.generation == generation,
                    IndexVersion.chunk_set == version.chunk_set,
                    IndexVersion.id != version.id,
                )
            ).first()
            groups = groups_of(session, document_id)
        place = Place(row.tenant_id, document.collection_id, document_id, generation, row.filename, groups)
        if row.blocks is None or row.text_sha256 is None:  # stored before blocks were kept
            data = self._blobs.get(row.source_sha256)
            return place, self._sandbox.extract(data, row.filename, encoding=row.given_encoding), twin is not None
        extracted = ExtractedDocument(
            text=self._blobs.get(row.text_sha256).decode("utf-8"),
            blocks=blocks_from_json(row.blocks),
            media_type=row.media_type or "",
            encoding=row.encoding,
            page_count=row.page_count,
            title=row.title,
            quality=row.quality,
        )
        return place, extracted, twin is not None

    def _finish(self, version: OpenVersion) -> bool:
        """Call the version ready if nothing became visible without it."""
        version.index.flush()
        with self._db.write() as session:
            row = lock_versions(session).get(version.id)
            if row is None:
                raise NotFound(f"no index version '{version.id}'", code="index_version_not_found")
            if missing_documents(session, version.id, limit=1):
                return False
            row.status = VersionStatus.READY.value
            return True
