"""The beat sleeps until something is due, and survives whatever a step raises."""

from __future__ import annotations

import threading
from datetime import datetime

from core.database import Database
from core.errors import Unavailable
from core.jobs import JobStore
from core.settings import Settings
from core.tables import Tenant
from core.types import JobKind
from tests.fakes import FakeQueue
from workers.beat import Beat
from workers.context import WorkerContext


class Schedules:
    def __init__(self) -> None:
        self.asked = threading.Event()

    def run_due(self, now: datetime | None = None) -> object:
        self.asked.set()
        raise RuntimeError("a schedule that cannot be judged")


def test_a_delayed_message_goes_out_on_time_though_the_sweep_is_far(
    database: Database, settings: Settings, tenant: Tenant
) -> None:
    slow = settings.model_copy(
        update={"jobs": settings.jobs.model_copy(update={"sweep_every_s": 3600.0, "retry_base_s": 0.3})}
    )
    queue = FakeQueue()
    sent = threading.Event()
    jobs = JobStore(database, slow, queue)
    schedules = Schedules()
    beat = Beat(WorkerContext(settings=slow, jobs=jobs, schedules=schedules))
    beat.start()
    assert schedules.asked.wait(10)
    with database.write() as session:
        job = jobs.create(session, tenant_id=tenant.id, kind=JobKind.INGEST, subject_id="doc_1")
    lease = jobs.claim(job.id)
    assert lease is not None and queue.job_ids == [job.id]
    queue.send = lambda *_: sent.set()  # type: ignore[method-assign]
    lease.fail(Unavailable("not now"))  # back in 0.3 s, by a message that only the beat publishes
    assert sent.wait(10)
    assert beat.alive, "it survived the schedule that raised"
    assert beat.stop() and not beat.alive
    assert beat.rounds < 20, "it slept in between"


def test_an_unreachable_broker_makes_no_busy_loop(database: Database, settings: Settings, tenant: Tenant) -> None:
    queue = FakeQueue()
    queue.down = True
    jobs = JobStore(database, settings, queue)
    with database.write() as session:
        jobs.create(session, tenant_id=tenant.id, kind=JobKind.INGEST, subject_id="doc_1")
    beat = Beat(WorkerContext(settings=settings, jobs=jobs))
    beat.start()
    threading.Event().wait(0.5)
    assert beat.stop() and beat.rounds <= 3
