"""Jobs through a real Redis and a real Celery worker in threads of this process."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from core.database import Database
from core.errors import ExtractionFailed, Unavailable
from core.jobs import JobLease, JobStore
from core.queue import CeleryTaskQueue, Queue, Task
from core.settings import Settings, load_settings
from core.tables import Job, OutboxMessage, Tenant
from core.tables.base import utc_now
from core.types import JobKind, JobStatus
from tests.conftest import RedisServer
from workers.app import create_celery
from workers.beat import Beat
from workers.context import WorkerContext, set_context
from workers.threads import ThreadsWorker

Work = Callable[[JobLease], object]


class ScriptedPipeline:
    """Stands for the ingest pipeline: runs what the test gives it."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def run(self, lease: JobLease) -> object:
        return self.work(lease)

    def delete(self, lease: JobLease) -> object:
        return self.work(lease)


@pytest.fixture
def settings(tmp_path: object) -> Settings:
    """Quick clocks, so that back-off and sweeping show within a test."""
    return load_settings(
        data_dir=tmp_path,
        jobs={
            "heartbeat_s": 0.2,
            "stalled_after_s": 1.5,
            "resend_after_s": 0.5,
            "sweep_every_s": 0.2,
            "retry_base_s": 0.1,
        },
    )


@contextmanager
def service(
    database: Database, settings: Settings, broker_url: str, work: Work, *, threads: int = 2, beat: bool = True
) -> Iterator[tuple[JobStore, ThreadsWorker]]:
    """Worker and beat over the given work; stopped, and checked to have stopped, at the end."""
    queue = CeleryTaskQueue(broker_url)
    jobs = JobStore(database, settings, queue)
    context = WorkerContext(settings=settings, jobs=jobs, ingest_pipeline=ScriptedPipeline(work))
    set_context(context)
    worker = ThreadsWorker(create_celery(settings, broker_url), [Queue.INGEST, Queue.MAINTENANCE], threads)
    clock = Beat(context)
    worker.start()
    if beat:
        clock.start()
    try:
        yield jobs, worker
    finally:
        stopped = worker.stop(20.0)
        if beat:
            assert clock.stop()
        queue.close()
        set_context(None)
        assert stopped, "the worker did not stop"


def make_jobs(jobs: JobStore, database: Database, tenant: Tenant, count: int = 1) -> list[Job]:
    with database.write() as session:
        return [
            jobs.create(session, tenant_id=tenant.id, kind=JobKind.INGEST, subject_id=f"doc_{number}")
            for number in range(count)
        ]


def test_jobs_are_done_by_worker_threads(
    database: Database, settings: Settings, tenant: Tenant, redis_url: str
) -> None:
    done: list[str] = []
    with service(database, settings, redis_url, lambda lease: done.append(lease.subject_id)) as (jobs, _worker):
        made = make_jobs(jobs, database, tenant, 12)
        ended = [jobs.wait(job.id, tenant.id, 20.0) for job in made]
    assert {job.status for job in ended} == {JobStatus.SUCCEEDED}
    assert sorted(done) == sorted(job.subject_id for job in made)  # each exactly once
    assert jobs.outbox.waiting() == 0
    assert all(job.attempt == 1 for job in ended)


def test_stop_drains_the_running_job_and_leaves_the_waiting_ones(
    database: Database, settings: Settings, tenant: Tenant, redis_url: str
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(lease: JobLease) -> None:
        begun.set()
        assert go_on.wait(10)

    with service(database, settings, redis_url, work, threads=1, beat=False) as (jobs, worker):
        first, second = make_jobs(jobs, database, tenant, 2)
        assert begun.wait(10)
        worker.begin_stop()
        threading.Timer(0.5, go_on.set).start()
        assert worker.join(10.0)
        states = {jobs.get(job.id, tenant.id).status for job in (first, second)}
        assert states == {JobStatus.SUCCEEDED, JobStatus.QUEUED}


def test_stop_that_waits_no_longer_puts_the_job_back_at_no_cost(
    database: Database, settings: Settings, tenant: Tenant, redis_url: str
) -> None:
    begun = threading.Event()

    def work(lease: JobLease) -> None:
        begun.set()
        for _ in range(1000):
            lease.check()
            time.sleep(0.01)

    with service(database, settings, redis_url, work, beat=False) as (jobs, worker):
        (job,) = make_jobs(jobs, database, tenant)
        assert begun.wait(10)
        worker.begin_stop()
        assert not worker.join(0.3)
        jobs.stopping.set()
        assert worker.join(10.0)
        after = jobs.get(job.id, tenant.id)
        assert (after.status, after.failures, after.crashes) == (JobStatus.QUEUED, 0, 0)
        assert after.attempts_log[-1]["reason"] == "interrupted"


def test_transient_errors_are_retried_until_the_budget_is_spent(
    database: Database, settings: Settings, tenant: Tenant, redis_url: str
) -> None:
    calls: list[float] = []

    def work(lease: JobLease) -> None:
        calls.append(time.monotonic())
        raise ExtractionFailed("the reader died", retryable=True)  # what is away spends nothing: test_environment

    with service(database, settings, redis_url, work) as (jobs, _worker):
        (job,) = make_jobs(jobs, database, tenant)
        ended = jobs.wait(job.id, tenant.id, 20.0)
    assert ended.status == JobStatus.FAILED
    assert ended.error == {"code": "extraction_failed", "detail": "the reader died", "retryable": True}
    assert len(calls) == settings.ingest.max_attempts == ended.failures
    assert [entry["reason"] for entry in ended.attempts_log] == ["transient_error"] * 4
    gaps = [later - earlier for earlier, later in itertools.pairwise(calls)]
    assert gaps[0] >= 0.1 and gaps[2] >= 0.4  # 0.1, 0.2, 0.4: doubled each time


def test_a_permanent_error_fails_at_once_and_a_bug_is_retried(
    database: Database, settings: Settings, tenant: Tenant, redis_url: str
) -> None:
    def work(lease: JobLease) -> None:
        if lease.subject_id == "doc_0":
            raise ExtractionFailed("the PDF is encrypted", code="encrypted")
        if lease.attempt == 1:
            raise ZeroDivisionError("a bug with /secret/path in its text")

    with service(database, settings, redis_url, work) as (jobs, _worker):
        bad, buggy = (jobs.wait(job.id, tenant.id, 20.0) for job in make_jobs(jobs, database, tenant, 2))
    assert (bad.status, bad.attempt) == (JobStatus.FAILED, 1)
    assert bad.error is not None and bad.error["code"] == "encrypted" and not bad.error["retryable"]
    assert (buggy.status, buggy.attempt, buggy.error) == (JobStatus.SUCCEEDED, 2, None)
    assert buggy.attempts_log[0]["code"] == "internal"


def test_a_message_lost_by_the_broker_is_found_by_the_sweeper(
    database: Database, settings: Settings, tenant: Tenant, redis_server: RedisServer
) -> None:
    queue = CeleryTaskQueue(redis_server.url)
    sender = JobStore(database, settings, queue)
    made = make_jobs(sender, database, tenant, 3)
    assert queue.depth(Queue.INGEST) == 3
    redis_server.client().flushall()  # what a restart without persistence does
    with service(database, settings, redis_server.url, lambda lease: None) as (jobs, _worker):
        assert {jobs.wait(job.id, tenant.id, 20.0).status for job in made} == {JobStatus.SUCCEEDED}
    queue.close()


def test_outbox_survives_a_broker_outage(
    database: Database, settings: Settings, tenant: Tenant, redis_server: RedisServer
) -> None:
    redis_server.stop()
    with service(database, settings, redis_server.url, lambda lease: None) as (jobs, worker):
        (job,) = make_jobs(jobs, database, tenant)  # the upload is accepted all the same
        assert jobs.outbox.waiting() == 1
        assert jobs.get(job.id, tenant.id).sent_at is None
        assert not worker.ready.wait(0.5)
        redis_server.start()
        assert jobs.wait(job.id, tenant.id, 30.0).status == JobStatus.SUCCEEDED
    with database.read() as session:
        assert session.query(OutboxMessage).count() == 0


def test_a_worker_without_a_broker_stops_too(
    database: Database, settings: Settings, tenant: Tenant, redis_server: RedisServer
) -> None:
    with service(database, settings, redis_server.url, lambda lease: None, beat=False) as (_jobs, worker):
        assert worker.ready.wait(10)
        redis_server.stop()
        time.sleep(0.5)  # let the consumer see it, and begin to reconnect
        assert worker.alive
        assert worker.stop(10.0)


def test_a_full_broker_is_an_unavailable_one(
    database: Database, settings: Settings, tenant: Tenant, redis_server: RedisServer
) -> None:
    client = redis_server.client()
    client.config_set("maxmemory", "1")
    queue = CeleryTaskQueue(redis_server.url)
    jobs = JobStore(database, settings, queue)
    (job,) = make_jobs(jobs, database, tenant)  # no error reaches whoever uploads
    assert jobs.outbox.waiting() == 1 and queue.depth(Queue.INGEST) == 0
    with pytest.raises(Unavailable):
        queue.send(Task.INGEST_DOCUMENT, {"job_id": job.id}, Queue.INGEST, 5)
    queue.close()


def test_a_broker_that_dies_under_a_running_job_changes_nothing(
    database: Database, settings: Settings, tenant: Tenant, redis_server: RedisServer
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(lease: JobLease) -> None:
        begun.set()
        assert go_on.wait(20)

    with service(database, settings, redis_server.url, work, threads=1) as (jobs, _worker):
        first, second = make_jobs(jobs, database, tenant, 2)
        assert begun.wait(10)
        redis_server.stop()
        redis_server.start()
        go_on.set()
        ended = [jobs.wait(job.id, tenant.id, 40.0) for job in (first, second)]
    assert [(job.status, job.attempt) for job in ended] == [(JobStatus.SUCCEEDED, 1)] * 2


def test_running_jobs_are_cancelled_cooperatively(
    database: Database, settings: Settings, tenant: Tenant, redis_url: str
) -> None:
    begun = threading.Event()

    def work(lease: JobLease) -> None:
        begun.set()
        while True:
            lease.check()
            time.sleep(0.01)

    with service(database, settings, redis_url, work) as (jobs, _worker):
        (job,) = make_jobs(jobs, database, tenant)
        assert begun.wait(10)
        assert jobs.request_cancel(job.id, tenant.id).status == JobStatus.RUNNING
        assert jobs.wait(job.id, tenant.id, 10.0).status == JobStatus.CANCELLED


def test_publishing_twice_is_harmless(database: Database, settings: Settings, tenant: Tenant, redis_url: str) -> None:
    done: list[str] = []
    with service(database, settings, redis_url, lambda lease: done.append(lease.job_id)) as (jobs, _worker):
        (job,) = make_jobs(jobs, database, tenant)
        queue = CeleryTaskQueue(redis_url)
        for _ in range(5):
            queue.send(Task.INGEST_DOCUMENT, {"job_id": job.id}, Queue.INGEST, 5)
        jobs.wait(job.id, tenant.id, 10.0)
        deadline = utc_now().timestamp() + 10
        while queue.depth(Queue.INGEST) and utc_now().timestamp() < deadline:
            time.sleep(0.02)
        queue.close()
    assert done == [job.id]
