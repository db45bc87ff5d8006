"""Outages of the index: what jobs, versions and searches do while it is away, wiped, full, locked; and afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from cli.checkup.service import check_collections
from cli.server.index import open_retrieval
from core.access import Principal, access_filter
from core.blobs import FolderBlobStore
from core.database import Database
from core.errors import Conflict, Unavailable
from core.jobs import JobStore
from core.repositories.index_versions import VersionStatus
from core.settings import Settings
from core.tables import Job, Tenant
from core.tables.operations import IndexVersion
from core.types import Scope
from ingest.accept import Upload
from ingest.build import Ingest, build_ingest
from ingest.vectors import passage_vectors
from retrieval.build import build_retrieval
from retrieval.index import connection as connections
from retrieval.live import Retrieval
from retrieval.opening import collection_of
from retrieval.reconcile import mend, reconcile
from retrieval.sampled import sampled_recall
from retrieval.switch import IndexService, Who
from tests.qdrant_standin import Store, serve
from tests.retrieval_corpus import minilm
from workers.base import run_job

KEY = "index-key"
OTHER = {"ingest": {"chunk_tokens": 48}}
"""A second version, of the same embedder."""


@dataclass
class Process:
    """An API or worker process, as far as the index goes."""

    db: Database
    settings: Settings
    jobs: JobStore
    retrieval: Retrieval
    ingest: Ingest
    index: IndexService
    principal: Principal

    @property
    def who(self) -> Who:
        return Who(self.principal.tenant_id, "key:key_admin", "req_1")

    def accept(self, name: str, text: str = "The lift in hall four is checked every month.") -> tuple[str, str]:
        """(document, job)."""
        upload = Upload(name, text.encode(), external_id=name)
        (accepted,) = self.ingest.service.accept(self.principal, [upload])
        assert accepted.job is not None
        return accepted.document.id, accepted.job.id

    def work(self, job_id: str) -> Job:
        """One attempt, whenever it may begin."""
        with self.db.write() as session:
            session.get_one(Job, job_id).not_before = None
        row = self.job(job_id)
        run = self.ingest.builder.run if row.kind == "index" else self.ingest.pipeline.run
        run_job(self.jobs, job_id, self.ingest.pipeline.delete if row.kind == "delete" else run)
        return self.job(job_id)

    def job(self, job_id: str) -> Job:
        return self.jobs.get(job_id, self.principal.tenant_id)

    def put(self, name: str, text: str = "The lift in hall four is checked every month.") -> str:
        document_id, job_id = self.accept(name, text)
        assert self.work(job_id).status == "succeeded"
        return document_id

    def build(self) -> str:
        row, job = self.index.build(OTHER, self.who)
        assert self.work(job.id).status == "succeeded"
        return row.id

    def fills(self) -> list[str]:
        """Queued jobs that fill an index."""
        with self.db.read() as session:
            return list(session.scalars(select(Job.id).where(Job.kind == "index", Job.status == "queued")))

    def status(self, version: str) -> str | None:
        with self.db.read() as session:
            row = session.get(IndexVersion, version)
            return None if row is None else row.status

    def found(self, query: str) -> set[str]:
        return {p.filename for p in self.retrieval.searcher.search(query, access_filter(self.principal), 10).passages}

    def collection(self, version: str) -> str:
        return collection_of(self.settings.qdrant, version)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Store]]:
    monkeypatch.setattr(connections, "_WAITS_S", (0.0,))
    with serve(api_key=KEY) as found:
        yield found


@pytest.fixture
def start(store: tuple[str, Store], database: Database, settings: Settings, tenant: Tenant) -> Iterator[list[Process]]:
    """Two processes of one system: the first serves, the second works."""
    settings = settings.model_copy(
        update={
            "retrieval": settings.retrieval.model_copy(update={"index": "qdrant"}),
            "qdrant": settings.qdrant.model_copy(update={"url": store[0], "api_key": SecretStr(KEY)}),
        }
    )
    made = []
    for _ in range(2):
        jobs = JobStore(database, settings, None)
        retrieval = build_retrieval(settings, database, embedder=minilm(), refill_lost=True)
        ingest = build_ingest(settings, database, FolderBlobStore(settings.blobs_dir), jobs, retrieval)
        index = IndexService(database, jobs, retrieval, settings)
        principal = Principal(tenant.id, "key_admin", frozenset({Scope.ADMIN}), frozenset())
        made.append(Process(database, settings, jobs, retrieval, ingest, index, principal))
    yield made
    for process in made:
        process.ingest.close()
        process.retrieval.close()


def test_versions_dropped_elsewhere_are_followed_and_can_be_built_again(start: list[Process]) -> None:
    """Line 2: workers went on writing to a dropped version, and failed its second building for good."""
    api, worker = start
    worker.put("one.txt")
    version, job = api.index.build(OTHER, api.who)
    assert worker.work(job.id).status == "succeeded"
    worker.put("two.txt")
    _, under_way = worker.accept("three.txt")
    assert {open_.id for open_ in worker.retrieval.live()} == {version.id, worker.retrieval.index_version}
    api.index.drop(version.id, api.who)
    done = worker.work(under_way)
    assert (done.status, done.failures) == ("succeeded", 0)
    assert [open_.id for open_ in worker.retrieval.opened()] == [worker.retrieval.index_version]
    again, job = api.index.build(OTHER, api.who)
    assert again.id == version.id and worker.work(job.id).status == "succeeded"
    api.index.switch(version.id, api.who)
    worker.retrieval.refresh()
    assert len(worker.found("lift in hall four")) == 1, "near-copies collapse"
    assert reconcile(api.db, api.retrieval, repair=False).clean


def test_a_write_that_meets_a_drop_waits_and_is_done(start: list[Process], store: tuple[str, Store]) -> None:
    """Line 2: the collection goes between the look at the versions and the write."""
    api, worker = start
    version = worker.build()
    _, job_id = worker.accept("one.txt")
    real = worker.retrieval.live

    def stale() -> object:
        found = real()
        worker.retrieval.live = real  # type: ignore[method-assign]
        api.index.drop(version, api.who)
        return found

    worker.retrieval.live = stale  # type: ignore[method-assign, assignment]
    first = worker.work(job_id)
    assert (first.status, first.failures, first.error and first.error["code"]) == ("queued", 0, "index_missing")
    assert worker.work(job_id).status == "succeeded"
    assert worker.collection(version) not in store[1].created


@pytest.mark.parametrize("fault", ["full", "key", "throttled", "away"])
def test_an_index_that_is_away_costs_no_attempt_and_is_said(
    fault: str, start: list[Process], store: tuple[str, Store]
) -> None:
    """Lines 4 and 5: jobs failed for good after four attempts, or at once where the key was wrong."""
    _, worker = start
    other = worker.build()
    kept, _ = worker.put("kept.txt"), worker.put("more.txt", "Parking is behind the building.")
    _, job_id = worker.accept("new.txt", "The canteen opens at eleven.")
    deletion = worker.ingest.service.delete(worker.principal, kept).job
    assert deletion is not None
    codes = {"full": "index_disk_full", "key": "index_unauthorised", "throttled": "index_throttled"}
    for _ in range(6):
        store[1].disk_full = fault == "full"
        store[1].api_key = "rotated" if fault == "key" else KEY
        store[1].retry_after_s = 60 if fault == "throttled" else None
        store[1].fail_next = [503] * 50 if fault == "away" else []
        for waiting in (job_id, deletion.id):
            job = worker.work(waiting)
            assert (job.status, job.failures, job.crashes) == ("queued", 0, 0)
            assert job.error is not None and job.error["code"] == codes.get(fault, "index_overloaded")
            assert job.not_before is not None
    assert [entry["times"] for entry in worker.job(job_id).attempts_log] == [6], "one entry for one outage"
    store[1].disk_full, store[1].api_key, store[1].retry_after_s, store[1].fail_next = False, KEY, None, []
    assert worker.status(other) == "ready"
    assert worker.work(job_id).status == worker.work(deletion.id).status == "succeeded"
    assert worker.found("when does the canteen open") >= {"new.txt"}
    assert reconcile(worker.db, worker.retrieval, repair=False).clean


def test_foreign_and_wrong_points_hurt_no_search_and_are_mended(start: list[Process], store: tuple[str, Store]) -> None:
    """Line 6: one such point made every search of its tenant a 500, and `doctor --repair` a KeyError."""
    _, worker = start
    worker.put("one.txt")
    worker.put("two.txt", "Parking is behind the building.")
    name = worker.collection(worker.retrieval.index_version)
    tenant = worker.principal.tenant_id
    real = [point.id for point in worker.retrieval.index.scan()]
    strange = "00000000-0000-4000-8000-00000000000"
    dim = worker.retrieval.embedder.dim
    store[1].plant(name, f"{strange}1", {}, {"dense": [0.1] * dim})
    store[1].plant(name, f"{strange}2", {"tenant_id": tenant}, {"dense": [0.1] * dim})
    store[1].client.overwrite_payload(name, {"tenant_id": tenant}, [real[0]])
    store[1].client.set_payload(name, {"groups": ["nobody"], "tenant_id": "another"}, [real[1]])
    assert worker.found("lift hall parking building") <= {"one.txt", "two.txt"}
    report = reconcile(worker.db, worker.retrieval, repair=False)
    assert (len(report.orphans), report.missing, report.wrong) == (2, (real[0],), (real[1],))
    assert reconcile(worker.db, worker.retrieval, repair=True, embed=passage_vectors).repaired
    assert reconcile(worker.db, worker.retrieval, repair=False).clean
    assert worker.found("lift hall parking building") == {"one.txt", "two.txt"}


def test_a_lost_collection_is_made_again_and_filled_by_a_job(start: list[Process], store: tuple[str, Store]) -> None:
    """Line 7: it stayed empty, ready and unnoticed."""
    api, worker = start
    worker.put("one.txt")
    worker.put("two.txt", "Parking is behind the building.")
    store[1].lose(api.collection(api.retrieval.index_version))
    with pytest.raises(Unavailable) as raised:
        api.found("lift")
    assert (raised.value.code, raised.value.retryable) == ("index_missing", True)
    with pytest.raises(Unavailable) as raised:
        api.retrieval.count()
    assert raised.value.code == "index_filling" and "0 of 2" in raised.value.detail
    (fill,) = worker.fills()
    _, upload = worker.accept("three.txt", "The canteen opens at eleven.")
    assert worker.work(upload).status == worker.work(fill).status == "succeeded"
    assert api.retrieval.count() == 3 and api.found("parking") >= {"two.txt"}
    assert reconcile(api.db, api.retrieval, repair=False).clean and worker.fills() == []


def test_a_restart_takes_no_empty_collection_for_a_full_one(start: list[Process], store: tuple[str, Store]) -> None:
    """Line 7: `/readyz` was 200 with 0 points, and `index build` wrote nothing."""
    api, worker = start
    worker.put("one.txt")
    store[1].lose(api.collection(api.retrieval.index_version))
    again = build_retrieval(api.settings, api.db, embedder=minilm(), refill_lost=True)
    with pytest.raises(Unavailable) as raised:
        again.count()
    assert raised.value.code == "index_filling"
    service = IndexService(api.db, api.jobs, again, api.settings)
    job = service.fill_serving()
    assert job is not None and service.fill_serving() is None
    assert worker.work(job.id).status == "succeeded" and again.count() == 1
    assert store[1].client._client.aliases == {}  # type: ignore[attr-defined]
    service.settle()
    alias = {api.settings.qdrant.collection: api.collection(again.index_version)}
    assert store[1].client._client.aliases == alias, "from the first version on, and after a restore"  # type: ignore[attr-defined]
    again.close()


def test_a_build_of_a_ready_version_repairs_it_while_all_serves(start: list[Process]) -> None:
    """Line 7: repair needed every process stopped."""
    api, worker = start
    worker.put("one.txt")
    lost = next(point.id for point in worker.retrieval.index.scan())
    worker.retrieval.index.delete_points([lost])
    row, job = api.index.build({}, api.who)
    assert row.id == api.retrieval.index_version and worker.work(job.id).status == "succeeded"
    assert [point.id for point in worker.retrieval.index.scan()] == [lost]
    assert mend(worker.db, worker.retrieval.active, passage_vectors).clean


@pytest.mark.parametrize("how", ["collection", "points"])
def test_a_ready_version_that_lost_its_points_is_not_switched_to(
    how: str, start: list[Process], store: tuple[str, Store]
) -> None:
    """Line 7: it was, with 56 of 190 points."""
    api, worker = start
    worker.put("one.txt")
    version = worker.build()
    if how == "collection":
        store[1].lose(api.collection(version))
    else:
        store[1].client.delete(api.collection(version), [next(worker.retrieval.live()[1].index.scan()).id])
    before = api.retrieval.index_version
    with pytest.raises(Conflict) as raised:
        api.index.switch(version, api.who)
    assert raised.value.code == "index_version_not_ready" and api.retrieval.index_version == before
    jobs = worker.fills() or [api.index.build(OTHER, api.who)[1].id]
    assert worker.work(jobs[0]).status == "succeeded"
    assert api.index.switch(version, api.who).after == version


def test_moves_end_well_although_the_index_is_away_and_may_be_asked_again(
    start: list[Process], store: tuple[str, Store]
) -> None:
    """Line 8: a switch answered 503 though it was made, and 409 when asked again; a drop left its collection."""
    api, worker = start
    worker.put("one.txt")
    version, before = worker.build(), api.retrieval.index_version
    real = api.index.point_alias

    def away() -> None:
        store[1].fail_next = [503] * 50
        real()

    api.index.point_alias = away  # type: ignore[method-assign]
    assert api.index.switch(version, api.who).after == version
    store[1].fail_next, api.index.point_alias = [], real  # type: ignore[method-assign]
    assert api.index.switch(version, api.who).before == version, "asked again: nothing moves"
    alias = api.settings.qdrant.collection
    assert store[1].client._client.aliases[alias] == api.collection(version)  # type: ignore[attr-defined]
    worker.retrieval.refresh()
    store[1].fail_next = [503] * 50
    api.index.drop(before, api.who)
    assert api.status(before) == VersionStatus.DROPPING.value and api.collection(before) in store[1].created
    store[1].fail_next = []
    with pytest.raises(Conflict) as raised:
        api.index.build({}, api.who)
    assert raised.value.code == "index_version_dropping"
    worker.put("two.txt", "Parking is behind the building.")
    api.index.settle()
    assert api.status(before) is None and api.collection(before) not in store[1].created


def test_a_collection_without_a_version_is_found_and_removed(start: list[Process], store: tuple[str, Store]) -> None:
    """Line 8; and line 14: a collection of another system whose name begins alike is none of ours."""
    api, _ = start
    for name in ("0123456789abcdef", "test-0123456789abcdef"):
        store[1].client.create_collection(f"tsumugi-{name}", {})
        store[1].created[f"tsumugi-{name}"] = store[1].created[api.collection(api.retrieval.index_version)]
    (finding,) = check_collections(api)  # type: ignore[arg-type]
    assert finding.object_id == "tsumugi-0123456789abcdef" and finding.repair is not None
    finding.repair()
    assert list(check_collections(api)) == [] and "tsumugi-test-0123456789abcdef" in store[1].created  # type: ignore[arg-type]


def test_a_start_waits_for_the_index_and_ends_when_asked(start: list[Process], store: tuple[str, Store]) -> None:
    """Line 8: workers ended after 16 to 19 s with exit 1."""
    api, _ = start
    store[1].api_key = "rotated"
    waits: list[float] = []

    def stopped(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 3:
            store[1].api_key = KEY
        return False

    opened = open_retrieval(api, stopped)  # type: ignore[arg-type]
    assert opened is not None and waits == [1.0, 2.0, 5.0]
    opened.close()
    store[1].api_key = "rotated"
    assert open_retrieval(api, lambda _: True) is None  # type: ignore[arg-type]


def test_a_frozen_index_costs_a_search_one_deadline(start: list[Process], store: tuple[str, Store]) -> None:
    """Line 9: searches hung to 59.5 s."""
    api, worker = start
    worker.put("one.txt")
    api.retrieval.search_timeout_s = 0.5
    store[1].frozen.set()
    timer = threading.Timer(20, store[1].frozen.clear)
    timer.start()
    with pytest.raises(Unavailable) as raised:
        api.found("lift")
    assert raised.value.code == "index_timeout" and store[1].frozen.is_set()
    timer.cancel()
    store[1].frozen.clear()
    api.retrieval.search_timeout_s = 10
    assert api.found("lift") == {"one.txt"}


def test_recall_is_sampled_on_live_data(start: list[Process], monkeypatch: pytest.MonkeyPatch) -> None:
    """Line 1: `doctor` asks passages for their own vectors."""
    _, worker = start
    for number in range(4):
        worker.put(f"{number}.txt", f"Room {number} is for {number + 2} people.")
    assert sampled_recall(worker.db, worker.retrieval.active) == (1.0, 16)
    real = type(worker.retrieval.index).search_dense

    def blind(self: object, vector: object, access: object, limit: int, *, exact: bool = False) -> object:
        return real(self, vector, access, limit, exact=exact) if exact else []  # type: ignore[arg-type]

    monkeypatch.setattr(type(worker.retrieval.index), "search_dense", blind)
    assert sampled_recall(worker.db, worker.retrieval.active) == (0.0, 16)
