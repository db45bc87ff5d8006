"""The HTTP application over real services and SQLite; only search, engine and routing are hand-written fakes."""

from __future__ import annotations

import atexit
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.app import create_app
from api.services import Services
from core import keys, log
from core.blobs import FolderBlobStore
from core.database import Database
from core.editions import DocumentEdition
from core.jobs import JobStore
from core.settings import IngestSettings, Settings
from core.tables import AdapterFamily, AdapterVersion, Tenant
from core.types import AccessFilter, AdapterRef, GenerationRequest, GenerationResult, Message, Passage
from generation.adapters.registry import AdapterRegistry
from generation.adapters.routing import Router
from generation.answer import AnswerService, Stamp
from generation.evaluation.service import EvaluationService
from generation.models import BaseModelInfo
from ingest.accept import IngestService
from ingest.page_images import PageImages
from ingest.sandbox import Sandbox
from tuning.datasets.service import DatasetService
from tuning.schedules import SchedulesService
from tuning.service import TuningService

PASSAGE = Passage(
    chunk_id="c1",
    document_id="doc_1",
    generation=1,
    filename="handbook.md",
    page=None,
    heading="Leave",
    start=10,
    end=47,
    text="Full-time staff get 25 days of leave.",
    score=0.9,
    relevance=0.8,
)


@dataclass
class FoundPassages:
    """A search result."""

    passages: list[Passage]
    refusal_threshold: float = 0.3
    index_version: str = ""
    embedder: str = ""
    timings_ms: dict[str, float] = field(default_factory=lambda: {"total": 1.0})
    siblings: dict[str, Sequence[DocumentEdition]] = field(default_factory=dict)
    bridge: None = None


@dataclass
class FakeSearch:
    """Gives the same passages to everybody, and remembers who asked."""

    passages: list[Passage] = field(default_factory=lambda: [PASSAGE])
    seen: list[AccessFilter] = field(default_factory=list)

    def search(
        self,
        query: str,
        access: AccessFilter,
        limit: int,
        *,
        document_filters: Mapping[str, Any] | None = None,
        diversity: float | None = None,
        expand_tokens: int | None = None,
    ) -> FoundPassages:
        self.seen.append(access)
        return FoundPassages(self.passages[:limit])


class FakeHandle:
    """Yields its pieces; with `gate`, waits for it (or for the cancellation) before each but the first."""

    def __init__(self, pieces: Sequence[str], adapter: AdapterRef | None, gate: threading.Event | None) -> None:
        self._pieces = pieces
        self._adapter = adapter
        self._gate = gate
        self.cancelled = threading.Event()

    def __iter__(self) -> Iterator[str]:
        for number, piece in enumerate(self._pieces):
            while number and self._gate is not None and not self._gate.wait(0.01):
                if self.cancelled.is_set():
                    return
            if piece == "!":
                raise RuntimeError("secret detail of a broken engine")
            yield piece

    def cancel(self) -> None:
        self.cancelled.set()

    def result(self) -> GenerationResult:
        reason = "cancelled" if self.cancelled.is_set() else "stop"
        return GenerationResult("".join(self._pieces), reason, 11, len(self._pieces), self._adapter)


class FakeEngine:
    """An engine that says what it is told to."""

    base_model = "fake-base"

    def __init__(self) -> None:
        self.pieces: Sequence[str] = ("25 ", "days [1].")
        self.gate: threading.Event | None = None
        self.error: Exception | None = None
        self.requests: list[GenerationRequest] = []
        self.handles: list[FakeHandle] = []

    def ensure_adapter(self, adapter: AdapterRef) -> None:
        """Every adapter fits."""

    def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content) for message in messages) // 3

    def submit(self, request: GenerationRequest) -> FakeHandle:
        if self.error is not None:
            raise self.error
        self.requests.append(request)
        handle = FakeHandle(self.pieces, request.adapter, self.gate)
        self.handles.append(handle)
        return handle


@dataclass
class Api:
    """An application under test with what tests reach for."""

    app: FastAPI
    services: Services
    database: Database
    tenant: Tenant
    admin: str
    search: FakeSearch
    engine: FakeEngine

    def key(self, *scopes: str, tenant: Tenant | None = None, groups: Sequence[str] = ()) -> dict[str, str]:
        """Headers of a new key."""
        with self.database.write() as session:
            _row, secret = keys.create_key(
                session, tenant_id=(tenant or self.tenant).id, name="test", scopes=scopes, groups=groups
            )
        return {"Authorization": f"Bearer {secret}"}

    def add_version(self, family: str = "house", status: str = "candidate", tenant: Tenant | None = None) -> str:
        """A version in SQL, as the gate would leave it; returns its name."""
        owner_id = (tenant or self.tenant).id
        with self.database.write() as session:
            owner = session.query(AdapterFamily).filter_by(tenant_id=owner_id, name=family).one_or_none()
            if owner is None:
                owner = AdapterFamily(tenant_id=owner_id, name=family)
                session.add(owner)
                session.flush()
            owner.version_counter += 1
            version = AdapterVersion(
                tenant_id=owner_id,
                family_id=owner.id,
                version=f"v{owner.version_counter}",
                digest=f"{owner.version_counter:064x}",
                status=status,
                reasons=["style: not better"] if status == "rejected" else [],
                gate_report={"verdict": status},
            )
            session.add(version)
            return version.version

    def client(self, headers: Mapping[str, str] | None = None) -> TestClient:
        """A client with the admin key, or the given headers."""
        given = {"Authorization": f"Bearer {self.admin}"} if headers is None else headers
        return TestClient(self.app, headers=dict(given), raise_server_exceptions=False)


@cache
def shared_sandbox() -> Sandbox:
    """One mother of extractors for all tests of a process: starting one takes longer than most of them."""
    folder = tempfile.TemporaryDirectory(prefix="tsumugi-sandbox-")
    box = Sandbox(IngestSettings(), Path(folder.name))
    atexit.register(folder.cleanup)
    atexit.register(box.close)
    return box


def build_api(
    settings: Settings,
    database: Database,
    base: BaseModelInfo | None = None,
    *,
    redis_url: str | None = None,
    engine: Any = None,
) -> Api:
    """Application over the database; makes tenant `default` and its admin key. engine: a real one for the fake."""
    log.configure("CRITICAL", json=True)  # the default renderer spends seconds on a coloured traceback
    bootstrap = keys.ensure_bootstrap(database, settings)
    with database.read() as session:
        tenant = session.get_one(Tenant, bootstrap.tenant_id)
    jobs = JobStore(database, settings, None)
    blobs = FolderBlobStore(settings.blobs_dir)
    # The words of the fake engine are what these tests look at; the evidence stage has tests of its own.
    settings = settings.model_copy(update={"generation": settings.generation.model_copy(update={"compose": "model"})})
    search, engine, router = FakeSearch(), engine or FakeEngine(), Router(database, settings)
    tuning = TuningService(database, jobs, settings)
    stamp = Stamp(index_version="iv", embedder="fake")
    services = Services(
        settings=settings,
        db=database,
        jobs=jobs,
        notifier=jobs.notifier,
        redis_url=redis_url,
        blobs=blobs,
        ingest=IngestService(database, blobs, jobs, settings, sandbox=shared_sandbox()),
        searcher=search,  # type: ignore[arg-type]
        answers=AnswerService(database, search, engine, router, settings, stamp=stamp),  # type: ignore[arg-type]
        registry=AdapterRegistry(database, settings, engine, base=base),  # type: ignore[arg-type]
        router=router,
        engine=engine,  # type: ignore[arg-type]
        tuning=tuning,
        datasets=DatasetService(database, blobs),
        schedules=SchedulesService(database, tuning),
        evaluations=EvaluationService(database, jobs, router),
        page_images=PageImages(database, blobs, settings),
    )
    admin = bootstrap.admin_key_file.read_text().strip()
    return Api(create_app(services), services, database, tenant, admin, search, engine)


@contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    """A real uvicorn on a free port; yields its base URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as client:
        assert client.get(f"{url}/healthz", timeout=20).status_code == 200
    yield url
    server.should_exit = True
    thread.join(20)
    listener.close()
    assert not thread.is_alive(), "the server did not stop"
