"""A service without its edges: files go through the real ingest (accept, job, sandbox, chunks, index)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.access import Principal, access_filter
from core.blobs import FolderBlobStore
from core.database import Database
from core.jobs import JobStore
from core.migrate import upgrade
from core.ports import BlobStore, Embedder
from core.settings import Settings, load_settings
from core.tenants import create_tenant
from core.types import AccessFilter, Scope
from ingest.build import Ingest, build_ingest
from ingest.upload import Upload
from retrieval.build import build_retrieval
from retrieval.live import Retrieval

_UPLOADS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Ingested:
    """An open data dir of one tenant."""

    db: Database
    blobs: BlobStore
    retrieval: Retrieval
    ingest: Ingest
    jobs: JobStore
    principal: Principal

    @property
    def access(self) -> AccessFilter:
        """The tenant's own filter."""
        return access_filter(self.principal)

    def add(self, uploads: Sequence[Upload]) -> list[str]:
        """Take files in and run their jobs here; document ids in order.

        Raises:
            ExtractionFailed, UnsupportedFormat: one of them cannot be read.
        """
        ids: list[str] = []
        for start in range(0, len(uploads), _UPLOADS_AT_ONCE):
            for accepted in self.ingest.service.accept(self.principal, uploads[start : start + _UPLOADS_AT_ONCE]):
                ids.append(accepted.document.id)
                lease = self.jobs.claim(accepted.job.id, "benchmark") if accepted.job is not None else None
                if lease is not None:
                    with lease.running():
                        self.ingest.pipeline.run(lease)
        return ids


@contextmanager
def open_ingested(settings: Settings | None = None, *, embedder: Embedder | None = None) -> Iterator[Ingested]:
    """Open a fresh data dir, in a temporary folder unless `settings` names one, and close it afterwards."""
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as folder:
        settings = settings or load_settings(data_dir=Path(folder))
        db = Database(settings.database_url)
        upgrade(db)
        with db.write() as session:
            tenant = create_tenant(session, "benchmark")
        retrieval = build_retrieval(settings, db, embedder=embedder)
        jobs = JobStore(db, settings, None)
        blobs = FolderBlobStore(settings.blobs_dir)
        ingest = build_ingest(settings, db, blobs, jobs, retrieval)
        principal = Principal(tenant.id, "benchmark", frozenset({Scope.ADMIN}), frozenset())
        try:
            yield Ingested(db, blobs, retrieval, ingest, jobs, principal)
        finally:
            ingest.close()
            retrieval.close()
            db.close()
