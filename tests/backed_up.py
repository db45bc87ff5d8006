"""Systems of either topology that were backed up while they were busy, and empty ones to bring the backups back into.

A topology is what its settings name: SQLite, a folder and Edge; or PostgreSQL, an S3 server and the Qdrant stand-in.
"""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from sqlalchemy import select

from cli.backup.bring import Restored, bring_back, require_empty
from cli.backup.card import CARD, entry_of
from cli.backup.take import from_index, take_backup
from core.access import Principal, access_filter
from core.blobs import open_blobs
from core.database import Database, open_database
from core.errors import TsumugiError
from core.jobs import JobStore
from core.keys import default_tenant_id, ensure_bootstrap
from core.migrate import upgrade
from core.settings import Settings, load_settings
from core.tables import AdapterFamily, AdapterVersion, Document, IdempotencyRecord, Job, TuningRun
from core.types import Scope
from ingest.build import build_ingest
from ingest.upload import Upload
from retrieval.build import build_retrieval
from tests.qdrant_standin import serve
from tests.retrieval_corpus import HANDBOOK, minilm
from tests.server_processes import Postgres
from workers.base import run_job

ASKED = ("leave.txt", "printer.txt", "prices.txt", "休暇.txt", "会議室.txt")
DOCUMENTS = tuple((name, content) for name, content in HANDBOOK if name in ASKED)
QUESTIONS = (
    "How many days of annual leave are there?",
    "Which toner does the printer PPR-9087 take?",
    "有給休暇は何日ですか",
    "三階の会議室は何名まで利用できますか",
    "What does the KS-50 cost?",
)
ADAPTER = "ad" * 32
BUSY = 8
"""Documents that are being ingested while a backup is taken."""


def nothing(_line: str) -> None:
    """Says nothing."""


@dataclass
class System:
    """One running system: what takes documents in, works on them and answers."""

    settings: Settings
    db: Database
    jobs: JobStore
    retrieval: Any
    ingest: Any
    principal: Principal

    def put(self, filename: str, text: str, **more: Any) -> str:
        (accepted,) = self.ingest.service.accept(self.principal, [Upload(filename, text.encode(), **more)])
        return str(accepted.document.id)

    def work(self) -> int:
        """Run every queued job, oldest first; returns how many."""
        done = 0
        while True:
            with self.db.read() as session:
                job = session.scalars(select(Job).where(Job.status == "queued").order_by(Job.created_at)).first()
            if job is None:
                return done
            pipeline = self.ingest.pipeline
            run_job(self.jobs, job.id, pipeline.run if job.kind == "ingest" else pipeline.delete)
            done += 1

    def passages(self, question: str, limit: int = 5) -> list[str]:
        found = self.retrieval.searcher.search(question, access_filter(self.principal), limit)
        return [passage.chunk_id for passage in found.passages]

    def served(self) -> list[Document]:
        """Documents of which a generation serves."""
        with self.db.read() as session:
            return list(session.scalars(select(Document).where(Document.active_generation.is_not(None))))


@contextmanager
def running(settings: Settings) -> Iterator[System]:
    """A system over some settings, made where there is none."""
    with ExitStack() as stack:
        db = open_database(settings)
        stack.callback(db.close)
        upgrade(db)
        ensure_bootstrap(db, settings)
        blobs, jobs = open_blobs(settings), JobStore(db, settings, None)
        retrieval = build_retrieval(settings, db, embedder=minilm())
        stack.callback(retrieval.close)
        ingest = build_ingest(settings, db, blobs, jobs, retrieval)
        stack.callback(ingest.close)
        principal = Principal(default_tenant_id(db), "key_admin", frozenset({Scope.ADMIN}), frozenset())
        yield System(settings, db, jobs, retrieval, ingest, principal)


@contextmanager
def busy(system: System) -> Iterator[None]:
    """Ingest, replace and ask beside the block, which begins when that is under way."""
    under_way, stop, failed = threading.Event(), threading.Event(), []

    def ingest() -> None:
        try:
            for number in range(BUSY):
                system.put(f"busy-{number}.txt", story(number), external_id=f"busy-{number}")
                if number % 4 == 3:  # a replaced document's old blobs go while they are being copied
                    system.put(f"busy-{number}.txt", story(number) + " Replaced.", external_id=f"busy-{number - 1}")
                if number > 2 or stop.is_set():
                    under_way.set()
                if number % 2:
                    system.work()
        except BaseException as error:
            failed.append(error)
            under_way.set()
            raise

    def ask() -> None:
        while not stop.is_set():
            for question in QUESTIONS:
                system.passages(question)

    threads = [threading.Thread(target=ingest), threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    try:
        assert under_way.wait(60)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not failed, failed


def story(number: int) -> str:
    lines = [f"Station {number} keeps barrel {number}-{line}, filled in {1900 + line}." for line in range(12)]
    return f"# Station {number}\n\n" + "\n\n".join(lines)


@pytest.fixture(scope="session")
def qdrant_url() -> Iterator[str]:
    with serve() as (url, _):
        yield url


@pytest.fixture(scope="session")
def make_settings(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, s3_server: str, qdrant_url: str
) -> Callable[[str], Settings]:
    """Settings of an empty system of either topology."""

    def make(topology: str) -> Settings:
        folder = tmp_path_factory.mktemp(topology) / "data"
        folder.mkdir()
        s3 = {"endpoint_url": s3_server, "access_key_id": "test", "secret_access_key": "test", "attempts": 1}
        if topology == "embedded":
            return load_settings(data_dir=folder, s3=s3)
        postgres: Postgres = request.getfixturevalue("postgres")
        name = f"b-{uuid.uuid4().hex}"
        bucket_client(s3_server).create_bucket(Bucket=name)
        return load_settings(
            data_dir=folder,
            s3=s3,
            database={"url": postgres.create(f"t{uuid.uuid4().hex[:12]}")},
            blobs={"store": "s3", "bucket": name, "prefix": "blobs/", **s3},
            retrieval={"index": "qdrant"},
            qdrant={"url": qdrant_url, "collection": f"c{uuid.uuid4().hex[:8]}"},
            generation={"engine": "openai"},
        )

    return make


def bucket_client(url: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )


@dataclass
class Source:
    """A system that backups were taken of, and what it answered to questions that the busy part does not touch."""

    settings: Settings
    busy_backup: str
    still_backup: str
    documents: int
    """How many the busy backup holds."""
    at_rest: dict[str, list[str]]
    chunks: dict[tuple[str, int | None], str]
    """{busy document and its generation: chunk that a question about it finds first}."""


def fill(system: System) -> None:
    for filename, content in DOCUMENTS:
        system.put(filename, content, external_id=filename)
    system.work()
    bundle = open_blobs(system.settings).put(b"prepared rows of a run")
    folder = system.settings.adapters_dir / ADAPTER
    folder.mkdir(parents=True)
    (folder / "説明 1.md").write_text("この語調は丁寧です。", encoding="utf-8")
    with system.db.write() as session:
        tenant_id = system.principal.tenant_id
        family = AdapterFamily(tenant_id=tenant_id, name="house")
        session.add(family)
        session.flush()
        session.add(
            AdapterVersion(tenant_id=tenant_id, family_id=family.id, version="v1", digest=ADAPTER, status="retired")
        )
        session.add(
            TuningRun(
                tenant_id=tenant_id, family_id=family.id, method="sft", progress={"files": {"rows.jsonl": bundle}}
            )
        )
        session.add(IdempotencyRecord(key_id="k", idempotency_key="i", route="r", body_sha256="0" * 64))


def first_chunks(system: System) -> dict[tuple[str, int | None], str]:
    found = {}
    for document in system.served():
        if document.filename.startswith("busy-"):
            number = document.filename.removeprefix("busy-").removesuffix(".txt")
            (found[document.id, document.active_generation],) = system.passages(
                f"Station {number} barrel {number}-7", 1
            )
    return found


def make_source(topology: str, settings: Settings, folder: Path, s3_server: str) -> Source:
    if topology == "embedded":
        busy_place, still_place = str(folder / "busy.tar.gz"), str(folder / "still")
    else:
        bucket_client(s3_server).create_bucket(Bucket=f"k-{folder.name}")
        busy_place, still_place = f"s3://k-{folder.name}/monday", str(folder / "still.tar")
    with running(settings) as system:
        fill(system)
        with busy(system):
            # An embedded service owns its shard, so the command leaves vectors out then.
            card = take_backup(
                settings, busy_place, vectors=from_index(settings) if topology == "server" else None, say=nothing
            )
        assert card.missing == []
        system.work()
        at_rest = {question: system.passages(question) for question in QUESTIONS}
        chunks = first_chunks(system)
        count = system.retrieval.count()
    still = take_backup(settings, still_place, vectors=from_index(settings), say=nothing)
    assert list(still.points.values()) == [count]
    return Source(settings, busy_place, still_place, card.tables["documents"].rows, at_rest, chunks)


@pytest.fixture(scope="session")
def sources(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[[str], Settings], s3_server: str
) -> dict[str, Source]:
    return {
        topology: make_source(topology, make_settings(topology), tmp_path_factory.mktemp(f"to-{topology}"), s3_server)
        for topology in ("embedded", "server")
    }


def restore(settings: Settings, place: str, **options: Any) -> Restored:
    return bring_back(settings, place, **{"with_vectors": True, "say": nothing, **options})


def copy_of(sources: dict[str, Source], tmp_path: Path) -> Path:
    """A backup in a folder, to be changed."""
    return Path(shutil.copytree(sources["embedded"].still_backup, tmp_path / "changed"))


def refused(settings: Settings, place: str, code: str) -> None:
    """The backup is refused, and nothing was changed."""
    with pytest.raises(TsumugiError) as caught:
        restore(settings, place)
    assert caught.value.code == code, caught.value.detail
    require_empty(settings)  # raises where something was left
    assert not [path for path in settings.data_dir.rglob("*") if path.is_file()]


def rewrite(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change a file and put its new digest into the card: what an attacker does."""
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    card = json.loads((folder / CARD).read_text())
    card["files"][name] = entry_of(path).model_dump()
    (folder / CARD).write_text(json.dumps(card))
