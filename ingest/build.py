"""Composition root of the write side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.database import Database
from core.jobs import JobStore
from core.ports import BlobStore
from core.settings import Settings
from ingest.accept import IngestService
from ingest.page_images import PageImages
from ingest.pipeline import IngestPipeline
from ingest.rebuild import IndexBuilder

if TYPE_CHECKING:
    from retrieval.live import Retrieval


@dataclass(frozen=True, slots=True)
class Ingest:
    """What takes documents in, and what works on them."""

    service: IngestService
    pipeline: IngestPipeline
    builder: IndexBuilder
    page_images: PageImages

    def close(self) -> None:
        """End running extractions."""
        self.pipeline.close()
        self.builder.close()
        self.page_images.close()


def build_ingest(settings: Settings, db: Database, blobs: BlobStore, jobs: JobStore, retrieval: Retrieval) -> Ingest:
    """Build both for a process that owns the index. One that only accepts builds an `IngestService` alone."""
    pipeline = IngestPipeline(db, blobs, jobs, retrieval, settings)
    return Ingest(
        IngestService(db, blobs, jobs, settings, retrieval, pipeline.sandbox),
        pipeline,
        IndexBuilder(db, blobs, retrieval, settings),
        PageImages(db, blobs, settings),
    )
