"""The state machine of jobs over a real SQLite: claims, fencing, endings, budgets, cancel, retry, lists."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import func, select

from core.database import Database, WriteSession
from core.errors import (
    Cancelled,
    Conflict,
    ExtractionFailed,
    Interrupted,
    InvalidInput,
    LeaseLost,
    NotFound,
    Unavailable,
)
from core.jobs import JobLease, JobStore
from core.queue import Task
from core.settings import Settings
from core.tables import AuditEntry, Collection, Job, Tenant
from core.types import JobKind, JobStatus
from tests.fakes import FakeClock, FakeQueue


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue() -> FakeQueue:
    return FakeQueue()


@pytest.fixture
def jobs(database: Database, settings: Settings, queue: FakeQueue, clock: FakeClock) -> JobStore:
    return JobStore(database, settings, queue, clock=clock)


def make_job(jobs: JobStore, database: Database, tenant: Tenant, **options: object) -> Job:
    with database.write() as session:
        return jobs.create(session, tenant_id=tenant.id, kind=JobKind.INGEST, subject_id="doc_1", **options)  # type: ignore[arg-type]


def claimed(jobs: JobStore, job: Job) -> JobLease:
    lease = jobs.claim(job.id, "worker-1")
    assert lease is not None
    return lease


def test_past_its_point_of_no_return_a_job_is_redone_and_not_cancelled(
    jobs: JobStore, database: Database, tenant: Tenant
) -> None:
    job = make_job(jobs, database, tenant)
    lease = claimed(jobs, job)
    with lease.write():
        lease.go_past_return()
    with pytest.raises(Conflict) as refused:
        jobs.request_cancel(job.id, tenant.id)
    assert refused.value.code == "job_irrevocable"
    lease.release()
    assert jobs.get(job.id, tenant.id).status == JobStatus.QUEUED
    with pytest.raises(Conflict):
        jobs.request_cancel(job.id, tenant.id)


def test_who_cancels_first_is_heard(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    job = make_job(jobs, database, tenant)
    lease = claimed(jobs, job)
    jobs.request_cancel(job.id, tenant.id)
    with pytest.raises(Cancelled), lease.write():
        lease.go_past_return()
    with database.read() as session:
        assert not session.get_one(Job, job.id).irrevocable


def test_a_job_runs_and_succeeds(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    job = make_job(jobs, database, tenant, arguments={"generation": 1})
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)
    lease = claimed(jobs, job)
    assert lease.attempt == 1 and lease.arguments == {"generation": 1} and lease.subject_id == "doc_1"
    with lease.running():
        lease.progress("embed", 0.5)
        lease.check()
        running = jobs.get(job.id, tenant.id)
        assert (running.stage, running.progress, running.worker) == ("embed", 0.5, "worker-1")
        lease.succeed()
    done = jobs.get(job.id, tenant.id)
    assert (done.status, done.progress, done.error, done.worker) == (JobStatus.SUCCEEDED, 1.0, None, None)
    assert done.started_at is not None and done.finished_at is not None and lease.finished


def test_messages_go_out_after_the_commit_and_not_without_it(
    jobs: JobStore, database: Database, tenant: Tenant, queue: FakeQueue
) -> None:
    with database.write() as session:
        job = jobs.create(session, tenant_id=tenant.id, kind=JobKind.DELETE, subject_id="doc_1", priority=2)
        assert queue.messages == []
    assert queue.messages == [("delete.document", {"job_id": job.id}, "ingest", 2)]

    with pytest.raises(RuntimeError, match="undo"), database.write() as session:
        jobs.create(session, tenant_id=tenant.id, kind=JobKind.INGEST, subject_id="doc_2")
        raise RuntimeError("undo")
    assert len(queue.messages) == 1 and jobs.outbox.waiting() == 0


def test_only_one_of_many_claims_wins(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    job = make_job(jobs, database, tenant)
    leases: list[JobLease | None] = []
    barrier = threading.Barrier(8)

    def claim() -> None:
        barrier.wait()
        leases.append(jobs.claim(job.id))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(leases) == 8 and sum(lease is not None for lease in leases) == 1
    assert jobs.claim("job_unknown") is None


def test_an_old_attempt_can_write_nothing(jobs: JobStore, database: Database, tenant: Tenant, clock: FakeClock) -> None:
    job = make_job(jobs, database, tenant)
    old = claimed(jobs, job)
    clock.advance(100)  # no heartbeat meanwhile
    assert jobs.sweep().stalled == 1
    new = claimed(jobs, job)
    assert new.attempt == 2

    with pytest.raises(LeaseLost), old.write() as session:
        session.add(Collection(tenant_id=tenant.id, name="written by the old attempt"))
    for forbidden in (
        old.check,
        old.succeed,
        old.cancelled,
        old.release,
        lambda: old.fail(Unavailable("x")),
        lambda: old.progress("embed", 0.1),
        lambda: old.hand_over(Task.TUNING_TRAIN),
    ):
        with pytest.raises(LeaseLost):
            forbidden()
    with new.write() as session:
        session.add(Collection(tenant_id=tenant.id, name="written by the new attempt"))
    new.succeed()
    with database.read() as read:
        names = set(read.scalars(select(Collection.name)))
    assert names == {"default", "written by the new attempt"}


def test_an_attempt_that_was_written_off_while_its_write_was_open_cannot_commit(
    jobs: JobStore, database: Database, tenant: Tenant
) -> None:
    """The row is locked from the check to the commit, so nobody can take the job in between."""
    job = make_job(jobs, database, tenant)
    lease = claimed(jobs, job)
    swept = threading.Event()

    def recover() -> None:
        jobs.recover_orphans()
        swept.set()

    with lease.write() as session:
        thread = threading.Thread(target=recover)
        thread.start()
        assert not swept.wait(0.2)
        session.add(Collection(tenant_id=tenant.id, name="in time"))
    thread.join()
    assert swept.is_set()
    with pytest.raises(LeaseLost):
        lease.succeed()


def test_effect_and_end_are_one_transaction(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    job = make_job(jobs, database, tenant)
    lease = claimed(jobs, job)
    with pytest.raises(ZeroDivisionError), lease.write() as session:
        session.add(Collection(tenant_id=tenant.id, name="half"))
        lease.progress("switch", 0.9)
        lease.succeed()
        raise ZeroDivisionError
    assert jobs.get(job.id, tenant.id).status == JobStatus.RUNNING and not lease.finished
    with lease.write():
        lease.succeed()
    assert jobs.get(job.id, tenant.id).status == JobStatus.SUCCEEDED


def test_the_heartbeat_keeps_a_silent_job_alive_and_notices_the_loss(
    database: Database, tenant: Tenant, settings: Settings
) -> None:
    quick = settings.model_copy(update={"jobs": settings.jobs.model_copy(update={"heartbeat_s": 0.05})})
    jobs = JobStore(database, quick, None)
    job = make_job(jobs, database, tenant)
    lease = claimed(jobs, job)
    before = jobs.get(job.id, tenant.id).heartbeat_at
    with lease.running():
        pause = threading.Event()
        for _ in range(100):
            pause.wait(0.02)
            after = jobs.get(job.id, tenant.id).heartbeat_at
            assert before is not None and after is not None
            if after > before:
                break
        else:
            pytest.fail("no heartbeat")
    jobs.recover_orphans()
    with lease.running(), pytest.raises(LeaseLost):
        for _ in range(100):
            pause.wait(0.02)
            lease.check()


def test_transient_errors_back_off_and_end_with_the_budget(
    jobs: JobStore, database: Database, tenant: Tenant, clock: FakeClock, settings: Settings
) -> None:
    job = make_job(jobs, database, tenant)
    delays = []
    for attempt in range(1, settings.ingest.max_attempts + 1):
        lease = claimed(jobs, job)
        assert lease.attempt == attempt
        lease.fail(Unavailable("no embedder"))
        after = jobs.get(job.id, tenant.id)
        if after.not_before is not None:
            delays.append((after.not_before - clock.now).total_seconds())
            assert jobs.claim(job.id) is None  # not yet due
            clock.advance(delays[-1])
    assert delays == [2.0, 4.0, 8.0]
    assert (after.status, after.failures, after.crashes) == (JobStatus.FAILED, 4, 0)
    assert after.error == {"code": "unavailable", "detail": "no embedder", "retryable": True}
    assert [(entry["attempt"], entry["reason"], entry["code"]) for entry in after.attempts_log] == [
        (attempt, "transient_error", "unavailable") for attempt in (1, 2, 3, 4)
    ]


def test_a_delayed_message_is_published_when_its_time_has_come(
    jobs: JobStore, database: Database, tenant: Tenant, clock: FakeClock, queue: FakeQueue
) -> None:
    job = make_job(jobs, database, tenant)
    claimed(jobs, job).fail(Unavailable("no embedder"))
    queue.messages.clear()
    assert jobs.outbox.dispatch_due() == 0
    due = jobs.outbox.next_due()
    assert due is not None and (due - clock.now).total_seconds() == 2.0
    clock.advance(2.0)
    assert jobs.outbox.dispatch_due() == 1 and queue.job_ids == [job.id]
    assert jobs.outbox.next_due() is None


def test_permanent_errors_fail_at_once(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    job = make_job(jobs, database, tenant)
    claimed(jobs, job).fail(ExtractionFailed("encrypted", code="encrypted"))
    after = jobs.get(job.id, tenant.id)
    assert (after.status, after.attempt, after.failures) == (JobStatus.FAILED, 1, 0)
    assert after.error == {"code": "encrypted", "detail": "encrypted", "retryable": False}


def test_unexpected_errors_are_transient_and_say_nothing_of_the_inside(
    jobs: JobStore, database: Database, tenant: Tenant
) -> None:
    job = make_job(jobs, database, tenant)
    claimed(jobs, job).fail(KeyError("/home/secret"))
    after = jobs.get(job.id, tenant.id)
    assert after.status == JobStatus.QUEUED and after.failures == 1
    assert after.error is not None and after.error["code"] == "internal" and "secret" not in str(after.error)


def test_crashes_have_a_budget_of_their_own(
    jobs: JobStore, database: Database, tenant: Tenant, clock: FakeClock, settings: Settings
) -> None:
    job = make_job(jobs, database, tenant)
    claimed(jobs, job).fail(Unavailable("one transient failure"))
    for _ in range(settings.ingest.max_crashes):
        clock.advance(1000)
        claimed(jobs, job)
        clock.advance(1000)
        assert jobs.sweep().stalled == 1
    after = jobs.get(job.id, tenant.id)
    assert (after.status, after.crashes, after.failures) == (JobStatus.FAILED, 8, 1)
    assert after.error is not None and after.error["code"] == "worker_lost" and after.error["retryable"]
    assert after.attempts_log[-1]["reason"] == "worker_lost" and len(after.attempts_log) == 9


def test_cancel_is_immediate_while_queued(
    jobs: JobStore, database: Database, tenant: Tenant, other_tenant: Tenant
) -> None:
    job = make_job(jobs, database, tenant)
    with pytest.raises(NotFound):
        jobs.request_cancel(job.id, other_tenant.id)
    assert jobs.request_cancel(job.id, tenant.id, actor="key:1", request_id="r1").status == JobStatus.CANCELLED
    assert jobs.claim(job.id) is None  # its message may still come
    assert jobs.request_cancel(job.id, tenant.id).status == JobStatus.CANCELLED
    with database.read() as session:
        rows = session.execute(select(AuditEntry.action, AuditEntry.actor, AuditEntry.request_id)).all()
    assert [tuple(row) for row in rows] == [("job.cancel", "key:1", "r1")]


def test_cancel_of_a_running_job_is_cooperative(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    job = make_job(jobs, database, tenant)
    lease = claimed(jobs, job)
    assert jobs.request_cancel(job.id, tenant.id).status == JobStatus.RUNNING
    with pytest.raises(Cancelled):
        lease.check()
    lease.cancelled()
    after = jobs.get(job.id, tenant.id)
    assert after.status == JobStatus.CANCELLED and after.attempts_log[0]["reason"] == "cancelled"


def test_a_cancelled_job_whose_worker_died_is_cancelled_not_redone(
    jobs: JobStore, database: Database, tenant: Tenant, clock: FakeClock
) -> None:
    job = make_job(jobs, database, tenant)
    claimed(jobs, job)
    jobs.request_cancel(job.id, tenant.id)
    clock.advance(100)
    jobs.sweep()
    assert jobs.get(job.id, tenant.id).status == JobStatus.CANCELLED


def test_retry_by_request_has_fresh_budgets(
    jobs: JobStore, database: Database, tenant: Tenant, other_tenant: Tenant, queue: FakeQueue
) -> None:
    job = make_job(jobs, database, tenant)
    with pytest.raises(Conflict) as conflict:
        jobs.retry(job.id, tenant.id)
    assert conflict.value.code == "job_not_retryable"
    claimed(jobs, job).fail(ExtractionFailed("encrypted"))
    with pytest.raises(Conflict):
        jobs.request_cancel(job.id, tenant.id)
    with pytest.raises(NotFound):
        jobs.retry(job.id, other_tenant.id)
    queue.messages.clear()
    again = jobs.retry(job.id, tenant.id, actor="key:1")
    assert (again.status, again.error, again.failures, again.finished_at) == (JobStatus.QUEUED, None, 0, None)
    assert queue.job_ids == [job.id]
    lease = claimed(jobs, job)
    assert lease.attempt == 2  # the fencing token never goes back
    lease.succeed()


def test_a_stopping_process_puts_its_job_back_at_no_cost(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    job = make_job(jobs, database, tenant)
    lease = claimed(jobs, job)
    jobs.stopping.set()
    with pytest.raises(Interrupted):
        lease.check()
    lease.release()
    after = jobs.get(job.id, tenant.id)
    assert (after.status, after.failures, after.crashes) == (JobStatus.QUEUED, 0, 0)


def test_a_job_of_two_parts_moves_to_the_next_queue(
    jobs: JobStore, database: Database, tenant: Tenant, queue: FakeQueue
) -> None:
    with database.write() as session:
        job = jobs.create(session, tenant_id=tenant.id, kind=JobKind.TUNING, subject_id="run_1")
    lease = claimed(jobs, job)
    lease.hand_over(Task.TUNING_TRAIN, {"rows": 120})
    assert [(task, place) for task, _, place, _ in queue.messages] == [
        ("tuning.prepare", "maintenance"),
        ("tuning.train", "tuning"),
    ]
    second = claimed(jobs, job)
    assert (second.task, second.attempt, second.arguments) == ("tuning.train", 2, {"rows": 120})
    assert jobs.get(job.id, tenant.id).failures == 0


def test_listeners_share_the_transaction(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    seen: list[str] = []

    def listen(session: WriteSession, job: Job) -> None:
        seen.append(job.status)
        if job.status == JobStatus.SUCCEEDED:
            raise ValueError("the subject cannot follow")

    jobs.listen(JobKind.INGEST, listen)
    job = make_job(jobs, database, tenant)
    lease = claimed(jobs, job)
    with pytest.raises(ValueError, match="cannot follow"):
        lease.succeed()
    assert jobs.get(job.id, tenant.id).status == JobStatus.RUNNING
    lease.fail(ExtractionFailed("bad"))
    assert seen == ["queued", "running", "succeeded", "failed"]


def test_lists_are_paged_newest_first_and_per_tenant(
    jobs: JobStore, database: Database, tenant: Tenant, other_tenant: Tenant, clock: FakeClock
) -> None:
    made = []
    for number in range(7):
        clock.advance(1 if number % 2 else 0)  # some share their time: the id decides
        made.append(make_job(jobs, database, tenant).id)
    stranger = make_job(jobs, database, other_tenant)
    claimed(jobs, jobs.get(made[0], tenant.id)).fail(ExtractionFailed("x", code="encrypted"))

    seen: list[str] = []
    cursor = None
    while True:
        page = jobs.list(tenant.id, limit=3, cursor=cursor)
        seen += [job.id for job in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert sorted(seen) == sorted(made) and len(seen) == 7 and stranger.id not in seen
    moments = [jobs.get(job_id, tenant.id).created_at for job_id in seen]
    assert moments == sorted(moments, reverse=True)

    assert [job.id for job in jobs.list(tenant.id, status=JobStatus.FAILED, error_code="encrypted").items] == [made[0]]
    assert jobs.list(tenant.id, status=JobStatus.FAILED, error_code="other").items == []
    with pytest.raises(NotFound):
        jobs.get(stranger.id, tenant.id)
    for bad in ("x", "W10", "bnVsbA"):
        with pytest.raises(InvalidInput):
            jobs.list(tenant.id, cursor=bad)
    with pytest.raises(InvalidInput):
        jobs.list(tenant.id, limit=0)


def test_wait_wakes_on_the_event(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    job = make_job(jobs, database, tenant)
    lease = claimed(jobs, job)
    threading.Timer(0.05, lease.succeed).start()
    assert jobs.wait(job.id, tenant.id, 10.0).status == JobStatus.SUCCEEDED
    assert jobs.wait(make_job(jobs, database, tenant).id, tenant.id, 0.05).status == JobStatus.QUEUED
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 2
