"""The write side with real parts: SQLite, the extraction process, MiniLM, Qdrant Edge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from core.access import Principal, access_filter
from core.blobs import FolderBlobStore
from core.database import Database
from core.jobs import JobStore
from core.settings import Settings
from core.tables import Document, Job, Tenant
from core.types import DocumentStatus, Scope
from ingest.accept import Accepted
from ingest.build import Ingest, build_ingest
from ingest.upload import Upload
from retrieval.build import Retrieval, build_retrieval
from retrieval.embedders.minilm import MiniLmEmbedder
from workers.base import run_job


@pytest.fixture(scope="module")
def embedder() -> MiniLmEmbedder:
    return MiniLmEmbedder()


@dataclass
class Stack:
    """One process's worth of ingest, with the worker turned by hand."""

    db: Database
    jobs: JobStore
    blobs: FolderBlobStore
    retrieval: Retrieval
    ingest: Ingest
    principal: Principal

    def put(self, filename: str, text: str | bytes, principal: Principal | None = None, **more: object) -> Accepted:
        data = text.encode() if isinstance(text, str) else text
        (accepted,) = self.ingest.service.accept(principal or self.principal, [Upload(filename, data, **more)])  # type: ignore[arg-type]
        return accepted

    def work(self) -> None:
        """Run every queued job, oldest first."""
        while True:
            with self.db.read() as session:
                ids = [j.id for j in session.query(Job).filter(Job.status == "queued").order_by(Job.created_at)]
            if not ids:
                return
            for job_id in ids:
                job = self.jobs.get(job_id, self.principal.tenant_id)
                pipeline = self.ingest.pipeline
                run_job(self.jobs, job_id, pipeline.run if job.kind == "ingest" else pipeline.delete)

    def document(self, accepted: Accepted) -> Document:
        return self.ingest.service.get(self.principal, accepted.document.id)

    def texts(self, query: str, principal: Principal | None = None) -> list[str]:
        result = self.retrieval.searcher.search(query, access_filter(principal or self.principal), 5)
        return [passage.text for passage in result.passages]


@pytest.fixture
def stack(database: Database, settings: Settings, tenant: Tenant, embedder: MiniLmEmbedder) -> Iterator[Stack]:
    jobs = JobStore(database, settings, None)
    blobs = FolderBlobStore(settings.blobs_dir)
    retrieval = build_retrieval(settings, database, embedder=embedder)
    ingest = build_ingest(settings, database, blobs, jobs, retrieval)
    principal = Principal(tenant.id, "key_admin", frozenset({Scope.ADMIN}), frozenset())
    yield Stack(database, jobs, blobs, retrieval, ingest, principal)
    ingest.close()
    retrieval.close()


def test_upload_becomes_searchable(stack: Stack) -> None:
    english = stack.put(
        "leave.md", "# Leave\n\nEvery employee has 15 days of annual leave.\n\n## Sickness\n\nTen days."
    )
    japanese = stack.put("旅費.txt", "旅費規程\n\n日当は国内出張の場合、一日につき三千円とする。")
    stack.work()
    for accepted in (english, japanese):
        document = stack.document(accepted)
        assert (document.status, document.active_generation, document.error) == (DocumentStatus.READY, 1, None)
    assert "15 days" in stack.texts("How many days of annual leave?")[0]
    assert "三千円" in stack.texts("出張の日当はいくらですか")[0]
