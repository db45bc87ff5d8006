"""Turns between tenants: whatever order messages come in, nobody waits for somebody else's backlog."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import select

from api.schemas.jobs import JobBody
from core.database import Database
from core.jobs import JobStore
from core.settings import Settings
from core.tables import Job, Tenant
from core.types import JobKind
from tests.fakes import FakeClock, FakeQueue


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def jobs(database: Database, settings: Settings, clock: FakeClock) -> JobStore:
    return JobStore(database, settings, FakeQueue(), clock=clock)


def make_jobs(jobs: JobStore, database: Database, tenant_id: str, count: int, **options: int) -> list[str]:
    with database.write() as session:
        made = [
            jobs.create(session, tenant_id=tenant_id, kind=JobKind.INGEST, subject_id=f"doc_{n}", **options)  # type: ignore[arg-type]
            for n in range(count)
        ]
        return [job.id for job in made]


def add_tenant(database: Database, name: str) -> str:
    with database.write() as session:
        other = Tenant(name=name)
        session.add(other)
        session.flush()
        return other.id


def test_one_file_waits_for_one_file_of_a_backlog(
    jobs: JobStore, database: Database, tenant: Tenant, clock: FakeClock
) -> None:
    backlog = make_jobs(jobs, database, tenant.id, 300)
    clock.advance(60)
    (single,) = make_jobs(jobs, database, add_tenant(database, "small"), 1)
    taken = []
    for message in [*backlog, single][:4]:  # the broker delivers the backlog first
        lease = jobs.claim_in_turn(message)
        assert lease is not None
        taken.append(lease.job_id)
        lease.succeed()
    assert single in taken[:2]
    assert set(taken) - {single} < set(backlog) and len(set(taken)) == 4


def test_every_job_is_taken_once_though_messages_name_others(
    jobs: JobStore, database: Database, tenant: Tenant
) -> None:
    messages = make_jobs(jobs, database, tenant.id, 20) + make_jobs(jobs, database, add_tenant(database, "b"), 20)
    taken: list[str] = []
    lock = threading.Lock()

    def worker(own: list[str]) -> None:
        for message in own:
            lease = jobs.claim_in_turn(message)
            assert lease is not None
            with lock:
                taken.append(lease.job_id)
            lease.succeed()

    threads = [threading.Thread(target=worker, args=(messages[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(messages)
    assert jobs.claim_in_turn(messages[0]) is None  # a message that comes twice finds nothing


def test_urgent_before_old_and_running_work_counts(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    old = make_jobs(jobs, database, tenant.id, 3)
    (urgent,) = make_jobs(jobs, database, tenant.id, 1, priority=0)
    other = make_jobs(jobs, database, add_tenant(database, "b"), 2)
    order = []
    for message in [*old, urgent, *other]:  # nothing ends meanwhile
        lease = jobs.claim_in_turn(message)
        assert lease is not None
        order.append(lease.job_id)
    mine = [job for job in order if job not in other]
    assert mine[0] == urgent and sorted(mine[1:]) == sorted(old)
    assert {urgent, *other} < set(order[:4])


def test_queue_wait_is_told_apart_from_work(
    jobs: JobStore, database: Database, tenant: Tenant, clock: FakeClock
) -> None:
    (job_id,) = make_jobs(jobs, database, tenant.id, 1)
    clock.advance(30)
    lease = jobs.claim_in_turn(job_id)
    assert lease is not None
    clock.advance(5)
    lease.succeed()
    with database.read() as session:
        body = JobBody.model_validate(session.scalars(select(Job).where(Job.id == job_id)).one())
    assert (body.queued_s, body.work_s) == (30.0, 5.0)
