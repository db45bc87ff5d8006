"""Stalled, starved and lost told apart; recovery at start; the outbox under an outage."""

from __future__ import annotations

import subprocess
import sys

import pytest

from core.database import Database, WriteSession
from core.jobs import JobStore
from core.jobs.worker_id import is_dead, worker_id
from core.settings import Settings
from core.tables import Job, Tenant
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


def make_jobs(jobs: JobStore, database: Database, tenant: Tenant, count: int) -> list[str]:
    with database.write() as session:
        return [
            jobs.create(session, tenant_id=tenant.id, kind=JobKind.INGEST, subject_id=f"doc_{number}").id
            for number in range(count)
        ]


def test_a_long_queue_is_starved_not_lost(
    jobs: JobStore, database: Database, tenant: Tenant, queue: FakeQueue, clock: FakeClock
) -> None:
    make_jobs(jobs, database, tenant, 20)
    for _ in range(10):
        clock.advance(60)
        report = jobs.sweep()
        assert (report.resent, report.starved, report.stalled) == (0, 20, 0)
    assert len(queue.messages) == 20  # peers resend here, until the queue is mostly copies


def test_as_many_as_are_missing_are_sent_again(
    jobs: JobStore, database: Database, tenant: Tenant, queue: FakeQueue, clock: FakeClock
) -> None:
    made = make_jobs(jobs, database, tenant, 5)
    lost = {made[1], made[3]}
    queue.messages = [message for message in queue.messages if message[1]["job_id"] not in lost]
    assert jobs.sweep().resent == 0  # too early: they may be on their way to a worker
    clock.advance(31)
    assert jobs.sweep().resent == 2
    assert len(queue.messages) == 5 and jobs.sweep().resent == 0
    # Which two were lost cannot be known from a count. As the queue drains, the rest shows.
    for _ in range(10):
        for job_id in list(dict.fromkeys(queue.job_ids)):
            lease = jobs.claim(job_id)
            if lease is not None:
                lease.succeed()
        queue.messages.clear()
        clock.advance(31)
        jobs.sweep()
    assert {jobs.get(job_id, tenant.id).status for job_id in made} == {JobStatus.SUCCEEDED}


def test_an_unreachable_broker_is_no_reason_to_send(
    jobs: JobStore, database: Database, tenant: Tenant, queue: FakeQueue, clock: FakeClock
) -> None:
    make_jobs(jobs, database, tenant, 2)
    queue.down = True
    clock.advance(100)
    assert jobs.sweep().resent == 0 and jobs.outbox.waiting() == 0


def test_the_outbox_keeps_what_the_broker_refused(
    jobs: JobStore, database: Database, tenant: Tenant, queue: FakeQueue, clock: FakeClock
) -> None:
    queue.down = True
    made = make_jobs(jobs, database, tenant, 3)
    assert jobs.outbox.waiting() == 3 and queue.messages == []
    queue.down = False
    assert jobs.outbox.dispatch_due() == 0  # the writer itself may still be publishing
    clock.advance(3)
    assert jobs.sweep().dispatched == 3
    assert sorted(queue.job_ids) == sorted(made) and jobs.outbox.waiting() == 0


def test_urgent_messages_go_first(jobs: JobStore, database: Database, tenant: Tenant, queue: FakeQueue) -> None:
    with database.write() as session:
        for priority in (9, 0, 5):
            jobs.create(
                session, tenant_id=tenant.id, kind=JobKind.INGEST, subject_id=f"doc_{priority}", priority=priority
            )
    assert [priority for *_, priority in queue.messages] == [0, 5, 9]


def test_stalled_only_without_heartbeat(jobs: JobStore, database: Database, tenant: Tenant, clock: FakeClock) -> None:
    silent, beating = make_jobs(jobs, database, tenant, 2)
    assert jobs.claim(silent, "elsewhere") is not None
    lease = jobs.claim(beating, "elsewhere")
    assert lease is not None
    for _ in range(7):
        clock.advance(10)
        lease.progress(f"stage {clock.now}", 0.5)
    report = jobs.sweep()
    assert report.stalled == 1
    assert jobs.get(silent, tenant.id).status == JobStatus.QUEUED
    assert jobs.get(beating, tenant.id).status == JobStatus.RUNNING
    clock.advance(1000)
    assert jobs.sweep(stalled=False).stalled == 0


def test_one_job_that_cannot_be_moved_does_not_hold_up_the_others(
    jobs: JobStore, database: Database, tenant: Tenant, clock: FakeClock
) -> None:
    made = make_jobs(jobs, database, tenant, 3)

    def refuse(session: WriteSession, job: Job) -> None:
        if job.id == made[0] and job.status == JobStatus.QUEUED:
            raise ValueError("poison")

    jobs.listen(JobKind.INGEST, refuse)
    for job_id in made:
        assert jobs.claim(job_id, "elsewhere") is not None
    clock.advance(100)
    report = jobs.sweep()
    assert report.stalled == 2 and len(report.errors) == 1 and made[0] in report.errors[0]


def test_a_dead_process_of_this_machine_needs_no_timeout(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    mine, dead = make_jobs(jobs, database, tenant, 2)
    assert jobs.claim(mine) is not None
    child = subprocess.run(
        [sys.executable, "-c", "from core.jobs.worker_id import worker_id; print(worker_id())"],
        capture_output=True,
        text=True,
        check=True,
    )
    name = child.stdout.strip()
    assert (
        is_dead(name) and not is_dead(worker_id()) and not is_dead("otherhost/1:4242.17:thread") and not is_dead(None)
    )
    assert jobs.claim(dead, name) is not None
    assert jobs.sweep().stalled == 1
    assert jobs.get(mine, tenant.id).status == JobStatus.RUNNING
    assert jobs.get(dead, tenant.id).status == JobStatus.QUEUED


def test_a_start_recovers_everything_the_dead_process_had(
    jobs: JobStore, database: Database, tenant: Tenant, queue: FakeQueue
) -> None:
    running, waiting, done = make_jobs(jobs, database, tenant, 3)
    assert jobs.claim(running) is not None
    lease = jobs.claim(done)
    assert lease is not None
    lease.succeed()
    queue.messages = [("ingest.document", {"job_id": running}, "ingest", 5)] * 3  # hints of the dead, partly lost
    assert jobs.recover_orphans() == 1
    assert sorted(queue.job_ids) == sorted([running, waiting])
    after = jobs.get(running, tenant.id)
    assert (after.status, after.crashes, after.attempts_log[0]["reason"]) == (JobStatus.QUEUED, 1, "worker_lost")
    assert jobs.recover_orphans() == 0


def test_recovery_does_not_need_the_broker(
    jobs: JobStore, database: Database, tenant: Tenant, queue: FakeQueue, clock: FakeClock
) -> None:
    (job_id,) = make_jobs(jobs, database, tenant, 1)
    assert jobs.claim(job_id) is not None
    queue.messages.clear()
    queue.down = True
    assert jobs.recover_orphans() == 1
    queue.down = False
    clock.advance(3)
    jobs.sweep()
    assert queue.job_ids == [job_id]
