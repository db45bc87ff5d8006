"""Another embedder, chunker and lexical side under load: built beside, switched to, rolled back, dropped.

Everything is real: SQLite, extraction, MiniLM and a tiny bge-m3, Qdrant Edge, and the server index over HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import func, select

from benchmarks.m3_checkpoint import make_checkpoint, words
from core.access import Principal, access_filter
from core.blobs import FolderBlobStore
from core.database import Database
from core.errors import Cancelled, Conflict, InvalidInput, NotFound, Unavailable
from core.jobs import JobStore
from core.settings import Settings
from core.tables import AuditEntry, ChunkRow, IndexContent, IndexVersion, Job, Tenant
from core.types import Scope
from ingest.build import Ingest, build_ingest
from ingest.upload import Upload
from retrieval.build import build_retrieval
from retrieval.live import Retrieval
from retrieval.reconcile import reconcile
from retrieval.search import SearchResult
from retrieval.switch import IndexService, Who
from tests.qdrant_standin import Store, serve
from tests.retrieval_corpus import HANDBOOK, minilm
from tests.unit.test_endpoint_embedder import DIM, Server
from workers.base import run_job


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = [" ".join(words(40, seed)) for seed in range(40)] + [text for _, text in HANDBOOK]
    return make_checkpoint(
        tmp_path_factory.mktemp("m3"), hidden=64, layers=2, heads=4, vocabulary=1_000, corpus=corpus, tokens=800
    )


@dataclass
class Stack:
    """One process's worth of index, ingest and operator, with the worker turned by hand."""

    settings: Settings
    db: Database
    jobs: JobStore
    retrieval: Retrieval
    ingest: Ingest
    service: IndexService
    principal: Principal
    who: Who
    store: Store | None

    def put(self, name: str, text: str) -> str:
        """Take in or replace a document and work on it; its id."""
        (accepted,) = self.ingest.service.accept(self.principal, [Upload(name, text.encode(), external_id=name)])
        assert accepted.job is not None
        run_job(self.jobs, accepted.job.id, self.ingest.pipeline.run)
        assert self.jobs.get(accepted.job.id, self.principal.tenant_id).status == "succeeded"
        return accepted.document.id

    def delete(self, document_id: str) -> None:
        accepted = self.ingest.service.delete(self.principal, document_id)
        assert accepted.job is not None
        run_job(self.jobs, accepted.job.id, self.ingest.pipeline.delete)

    def build(self, config: dict[str, dict[str, object]]) -> tuple[str, str]:
        """Queue and do a build; (version, status of its job)."""
        row, job = self.service.build(config, self.who)
        run_job(self.jobs, job.id, self.ingest.builder.run)
        return row.id, self.jobs.get(job.id, self.who.tenant_id).status

    def search(self, query: str) -> SearchResult:
        """More passages than there are: random weights rank by chance, and what is there must be found."""
        return self.retrieval.searcher.search(query, access_filter(self.principal), 30)

    def chunk_sets(self, result: SearchResult) -> set[str]:
        with self.db.read() as session:
            ids = [passage.chunk_id for passage in result.passages]
            return set(session.scalars(select(ChunkRow.chunk_set).where(ChunkRow.id.in_(ids))))


@pytest.fixture(params=["edge", "qdrant"])
def stack(request: pytest.FixtureRequest, database: Database, settings: Settings, tenant: Tenant) -> Iterator[Stack]:
    with serve() as (url, store):
        if request.param == "qdrant":
            settings = settings.model_copy(
                update={
                    "retrieval": settings.retrieval.model_copy(update={"index": "qdrant"}),
                    "qdrant": settings.qdrant.model_copy(update={"url": url}),
                }
            )
        jobs = JobStore(database, settings, None)
        retrieval = build_retrieval(settings, database, embedder=minilm())
        ingest = build_ingest(settings, database, FolderBlobStore(settings.blobs_dir), jobs, retrieval)
        service = IndexService(database, jobs, retrieval, settings)
        principal = Principal(tenant.id, "key_admin", frozenset({Scope.ADMIN}), frozenset())
        who = Who(tenant.id, "key:key_admin", "req_1")
        known = store if request.param == "qdrant" else None
        yield Stack(settings, database, jobs, retrieval, ingest, service, principal, who, known)
        ingest.close()
        retrieval.close()


def other(checkpoint: Path) -> dict[str, dict[str, object]]:
    """Another embedder, its own lexical side, smaller chunks."""
    return {
        "retrieval": {"embedder": "bge-m3", "lexical": "bge-m3"},
        "embedding": {"model": str(checkpoint), "device": "cpu", "dtype": "float32"},
        "ingest": {"chunk_tokens": 48},
    }


@dataclass
class Load:
    """Readers that ask without pause, and what they saw."""

    stack: Stack
    seen: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    asked: threading.Condition = field(default_factory=threading.Condition)

    def read(self, queries: list[tuple[str, str]]) -> None:
        try:
            while not self.done.is_set():
                for query, filename in queries:
                    result = self.stack.search(query)
                    if filename not in {passage.filename for passage in result.passages}:
                        self.wrong.append(f"{query}: {[p.filename for p in result.passages]} ({result.index_version})")
                    with self.stack.db.read() as session:
                        row = session.get_one(IndexVersion, result.index_version)
                    if self.stack.chunk_sets(result) != {row.chunk_set}:
                        self.wrong.append(f"{query}: chunks of another version")
                    with self.asked:
                        self.seen.append(result.index_version)
                        self.asked.notify_all()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.errors.append(error)
            with self.asked:
                self.asked.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for readers, and fail if they cannot."""
        with self.asked:
            assert self.asked.wait_for(lambda: bool(self.errors) or condition(), 60)


def test_switch_and_rollback_under_load(stack: Stack, checkpoint: Path) -> None:
    ids = {name: stack.put(name, text) for name, text in HANDBOOK}
    before = stack.retrieval.index_version
    load = Load(stack)
    # Each text as its own question: found by any embedder, if all of it is there.
    queries = [(text, name) for name, text in HANDBOOK if name not in {"fire.txt", "経費.txt"}]
    readers = [threading.Thread(target=load.read, args=(queries[start::2],)) for start in range(2)]
    for reader in readers:
        reader.start()
    load.until(lambda: len(load.seen) >= 4)

    row, job = stack.service.build(other(checkpoint), stack.who)
    builder = threading.Thread(target=run_job, args=(stack.jobs, job.id, stack.ingest.builder.run))
    builder.start()
    # Meanwhile: a new document, a replaced one, a deleted one.
    stack.put("new.txt", "The roof garden opens at nine and closes when it rains.")
    stack.put("fire.txt", "When the fire alarm rings, use the south stairs and meet at the pond.")
    stack.delete(ids["経費.txt"])
    builder.join()
    assert stack.jobs.get(job.id, stack.who.tenant_id).status == "succeeded"
    assert set(load.seen) == {before}, "nothing but the old version may have answered yet"

    switched = stack.service.switch(row.id, stack.who, reason="better Japanese")
    assert (switched.before, switched.after) == (before, row.id) and switched.effective_ms < 2_000
    mark = len(load.seen)
    load.until(lambda: row.id in load.seen[mark:])
    for text, name in (
        ("The roof garden opens at nine and closes when it rains.", "new.txt"),
        ("When the fire alarm rings, use the south stairs and meet at the pond.", "fire.txt"),
    ):
        result = stack.search(text)
        assert [passage.text for passage in result.passages if passage.filename == name] == [text]
        assert result.index_version == row.id
    assert "経費.txt" not in {p.filename for p in stack.search(dict(HANDBOOK)["経費.txt"]).passages}

    # What comes after the switch is in the old version too: the way back loses nothing.
    stack.put("later.txt", "Bicycles are repaired on Fridays in the yard.")
    back = stack.service.rollback(stack.who, reason="trying")
    assert (back.before, back.after) == (row.id, before)
    mark = len(load.seen)
    load.until(lambda: before in load.seen[mark:])
    result = stack.search("Bicycles are repaired on Fridays in the yard.")
    assert (result.passages[0].filename, result.index_version) == ("later.txt", before)
    forward = stack.service.rollback(stack.who)
    assert forward.after == row.id

    load.done.set()
    for reader in readers:
        reader.join()
    assert load.errors == [] and load.wrong == []
    assert set(load.seen) == {before, row.id}
    report = reconcile(stack.db, stack.retrieval, repair=False)
    assert report.clean and report.in_progress == 0, str(report)
    with stack.db.read() as session:
        actions = session.scalars(
            select(AuditEntry.action).where(AuditEntry.action.startswith("index.")).order_by(AuditEntry.created_at)
        ).all()
    assert actions == ["index.build", "index.switch", "index.rollback", "index.rollback"]
    if stack.store is not None:
        named = stack.store.client.get_aliases().aliases
        assert [(a.alias_name, a.collection_name) for a in named] == [("tsumugi", f"tsumugi-{row.id}")]


def test_drop_ends_double_writing_and_keeps_no_trace(stack: Stack) -> None:
    stack.put("a.txt", "The first document.")
    before = stack.retrieval.index_version
    version, status = stack.build({"ingest": {"chunk_tokens": 64}})
    assert status == "succeeded"
    with pytest.raises(Conflict) as raised:
        stack.service.drop(before, stack.who)
    assert raised.value.code == "index_version_serves"
    stack.service.switch(version, stack.who)
    stack.service.drop(before, stack.who)
    stack.put("b.txt", "The second document.")
    with stack.db.read() as session:
        assert session.scalars(select(IndexVersion.id)).all() == [version]
        sets = set(session.scalars(select(ChunkRow.chunk_set)))
        assert sets == {stack.retrieval.active.chunk_set}
        assert session.scalar(select(func.count()).select_from(IndexContent)) == 2
    with pytest.raises(Conflict) as raised:
        stack.service.rollback(stack.who)
    assert raised.value.code == "no_previous_index"
    if stack.store is not None:
        assert list(stack.store.created) == [f"tsumugi-{version}"]
    else:
        assert [folder.name for folder in stack.settings.index_dir.iterdir()] == [version]
    assert stack.search("The second document.").passages[0].filename == "b.txt"


def test_a_build_that_is_stopped_goes_on_where_it_was(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        stack.put(f"{number}.txt", f"Document number {number} about the number {number * 7}.")
    row, job = stack.service.build({"ingest": {"chunk_tokens": 64}}, stack.who)
    with pytest.raises(Conflict) as raised:
        stack.service.build({"ingest": {"chunk_tokens": 64}}, stack.who)
    assert raised.value.code == "index_build_running"
    done: list[str] = []
    real = stack.ingest.builder._one

    def stop_after_two(version: object, document_id: str, *more: object) -> None:
        if len(done) == 2:
            raise Cancelled("enough")
        real(version, document_id, *more)  # type: ignore[arg-type]
        done.append(document_id)

    with monkeypatch.context() as patch:
        patch.setattr(stack.ingest.builder, "_one", stop_after_two)
        run_job(stack.jobs, job.id, stack.ingest.builder.run)
    assert stack.jobs.get(job.id, stack.who.tenant_id).status == "cancelled"
    with pytest.raises(Conflict) as raised:
        stack.service.switch(row.id, stack.who)
    assert raised.value.code == "index_version_not_ready"
    states = stack.service.status()
    assert [(s.row.id == row.id, s.documents, s.documents_wanted) for s in states] == [(False, 4, 4), (True, 2, 4)]
    assert [(s.configured, s.calibrated) for s in states] == [(True, True), (False, True)]

    def count(version: object, document_id: str, *more: object) -> None:
        real(version, document_id, *more)  # type: ignore[arg-type]
        done.append(document_id)

    monkeypatch.setattr(stack.ingest.builder, "_one", count)
    version, status = stack.build({"ingest": {"chunk_tokens": 64}})
    assert (version, status) == (row.id, "succeeded")
    assert len(done) == len(set(done)) == 4, "no document was built twice"
    stack.service.switch(row.id, stack.who)


def test_versions_that_cut_alike_share_their_chunks(stack: Stack, checkpoint: Path) -> None:
    base = other(checkpoint)
    stack.put("a.txt", "The first document.")
    first, _ = stack.build(base)
    second, status = stack.build({**base, "retrieval": {"embedder": "bge-m3", "lexical": "bigrams"}})
    assert status == "succeeded" and first != second
    stack.put("b.txt", "The second document.")
    with stack.db.read() as session:
        assert session.scalar(select(func.count()).select_from(ChunkRow)) == 4  # two sets of two, for three versions
    stack.service.switch(second, stack.who)
    stack.service.drop(first, stack.who)
    assert [p.filename for p in stack.search("The second document.").passages][:1] == ["b.txt"]
    assert reconcile(stack.db, stack.retrieval, repair=False).clean


def test_a_restart_serves_what_served(stack: Stack, checkpoint: Path) -> None:
    stack.put("a.txt", "The first document.")
    version, _ = stack.build(other(checkpoint))
    stack.service.switch(version, stack.who)
    assert next((s.row.id, s.configured, s.calibrated) for s in stack.service.status()) == (version, False, False)
    stack.retrieval.close()
    again = build_retrieval(stack.settings, stack.db, embedder=minilm())
    assert (again.index_version, again.embedder.dim) == (version, 64)
    result = again.searcher.search("The first document.", access_filter(stack.principal), 3)
    assert (result.passages[0].filename, result.index_version) == ("a.txt", version)
    assert len(again.live()) == 2
    again.close()


def test_what_cannot_be_built_is_refused_before_anything_is_stored(stack: Stack, tmp_path: Path) -> None:
    codes = []
    for config in (
        {"ingest": {"chunk_tokens": 1}},
        {"ingest": {"worker_threads": 2}},
        {"qdrant": {"url": "http://elsewhere"}},
        {"retrieval": {"lexical": "bge-m3"}},
        {"retrieval": {"embedder": "bge-m3"}, "embedding": {"model": str(tmp_path / "nowhere")}},
    ):
        with pytest.raises((InvalidInput, Unavailable)) as raised:
            stack.service.build(config, stack.who)
        codes.append(raised.value.code)
    assert codes == ["setting_invalid", "setting_unknown", "setting_unknown", "setting_conflict", "embedder_not_found"]
    for act in (stack.service.switch, stack.service.drop):
        with pytest.raises(NotFound):
            act("0123456789abcdef", stack.who)
    serving = stack.retrieval.index_version
    assert stack.service.switch(serving, stack.who).before == serving, "asked again: nothing moves"
    with stack.db.read() as session:
        assert session.scalar(select(func.count()).select_from(IndexVersion)) == 1
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_an_endpoint_that_was_retired_stops_nothing(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ready version beside the serving one needs it, and nobody else does."""
    monkeypatch.setattr("retrieval.embedders.endpoint.time.sleep", lambda _: None)
    endpoint = Server()
    config = {
        "retrieval": {"embedder": "endpoint", "lexical": "bigrams"},
        "embedding": {"url": endpoint.url, "dim": DIM, "model": "m", "languages": ["en"]},
    }
    first = stack.put("first.md", "The depot opens at seven.")
    retired, status = stack.build(config)
    assert status == "succeeded"
    endpoint.http.shutdown()
    endpoint.http.server_close()

    def status_of() -> str | None:
        with stack.db.read() as session:
            row = session.get(IndexVersion, retired)
            return None if row is None else row.status

    stack.retrieval.close()
    again = build_retrieval(stack.settings, stack.db, embedder=minilm())  # a start
    ingest = build_ingest(stack.settings, stack.db, FolderBlobStore(stack.settings.blobs_dir), stack.jobs, again)
    stack.retrieval, stack.ingest = again, ingest
    stack.service = IndexService(stack.db, stack.jobs, again, stack.settings)
    try:
        assert len(again.live()) == 2 and status_of() == "ready"
        stack.put("second.md", "The gate closes at nine.")
        assert status_of() == "building"
        assert {passage.filename for passage in stack.search("gate").passages} == {"first.md", "second.md"}
        with pytest.raises(Conflict):
            stack.service.switch(retired, stack.who)
        stack.delete(first)
        assert {passage.filename for passage in stack.search("depot").passages} == {"second.md"}
        stack.service.drop(retired, stack.who)
        assert status_of() is None
    finally:
        ingest.close()
        again.close()
