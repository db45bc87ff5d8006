"""The jobs of all tenants: made, claimed, read, cancelled, retried, listed, swept. Other files hold the rules."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select

from core import audit
from core.database import Database, WriteSession
from core.errors import Conflict, NotFound
from core.jobs.lease import JobLease
from core.jobs.machine import JobListener, JobMachine
from core.jobs.sweep import Sweeper, SweepReport
from core.jobs.turns import first_waiting, tenants_waiting
from core.jobs.worker_id import worker_id
from core.notify import Notifier, job_topic
from core.outbox import Outbox
from core.paging import Page, cut_page, newest_page
from core.ports import TaskQueue
from core.queue import FIRST_TASK_OF_KIND, Task
from core.settings import Settings
from core.tables.base import utc_now
from core.tables.jobs import Job
from core.tracing import with_trace
from core.types import JobKind, JobStatus

FINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})
"""States in which nothing more happens unless a user asks."""

CLOCK_SKEW_S = 1.0
"""A delayed message may reach a worker whose clock is a little behind the sender's."""


class JobStore:
    """Jobs of one database. One object per process; thread-safe.

    `queue` is None in processes that only read, and in tests: messages then wait in the outbox.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        queue: TaskQueue | None,
        notifier: Notifier | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._db = db
        self._settings = settings
        self._clock = clock
        self.notifier = notifier or Notifier()
        self.outbox = Outbox(db, queue, self.notifier, clock)
        self._machine = JobMachine(settings, self.outbox, self.notifier, clock)
        self._sweeper = Sweeper(db, self._machine, self.outbox, queue, settings.jobs)
        self._turn = itertools.count(1)
        self._turns: dict[str, int] = {}
        """{tenant: number of its last turn in this process}."""
        self.stopping = threading.Event()
        """Set when this process stops and waits no longer: each of its leases raises Interrupted at the next check."""

    def listen(self, kind: JobKind, listener: JobListener) -> None:
        """Call `listener(session, job)` in the transaction of every status change of a kind, whoever causes it.

        Register in each process that may move such jobs (API, worker, beat), or its changes go unnoticed.
        """
        self._machine.listen(kind, listener)

    def create(
        self,
        session: WriteSession,
        *,
        tenant_id: str,
        kind: JobKind,
        subject_id: str,
        arguments: Mapping[str, Any] | None = None,
        priority: int = 5,
        task: Task | None = None,
    ) -> Job:
        """Add a queued job and its message to a transaction; the message goes out after the commit.

        priority: 0 (first) to 9. task: where to begin, if not at the first task of the kind.
        """
        job = Job(
            tenant_id=tenant_id,
            kind=kind.value,
            status=JobStatus.QUEUED.value,
            task=(task or FIRST_TASK_OF_KIND[kind]).value,
            subject_id=subject_id,
            arguments=with_trace(arguments or {}),
            priority=priority,
            created_at=self._clock(),
        )
        session.add(job)
        session.flush()
        self._machine.enqueue(session, job)
        return job

    def claim(self, job_id: str, worker: str | None = None) -> JobLease | None:
        """Take a queued job. None when there is nothing to do: taken, ended, not yet due, or unknown.

        worker: default is a name by which sweepers of the same machine see that this process has died.
        """
        due = self._clock() + timedelta(seconds=CLOCK_SKEW_S)
        with self._db.write() as session:
            job = session.scalars(
                select(Job)
                .where(
                    Job.id == job_id,
                    Job.status == JobStatus.QUEUED.value,
                    or_(Job.not_before.is_(None), Job.not_before <= due),
                )
                .with_for_update(skip_locked=True)
            ).one_or_none()
            if job is None:
                return None
            self._machine.start(session, job, worker or worker_id())
        return JobLease(self._db, self._machine, self._settings.jobs, self.stopping, job)

    def claim_in_turn(self, job_id: str, worker: str | None = None) -> JobLease | None:
        """Take the queued job whose turn it is among those of the same task; `job_id` only says that there is one.

        The turn goes to the tenant with the fewest running jobs, then to the one served longest ago by this process; in
        it to the most urgent job, then to the oldest; of those that waited for a moment, to the one whose moment came
        first. So 10,000 files of one tenant delay another's single file by one file. As many jobs are taken as messages
        come, whichever jobs the messages name.
        """
        due = self._clock() + timedelta(seconds=CLOCK_SKEW_S)
        with self._db.write() as session:
            named = session.get(Job, job_id)
            if named is None:
                return None
            waiting = tenants_waiting(session, named.task, due)
            running: dict[str, int] = {}
            for tenant, count in session.execute(
                select(Job.tenant_id, func.count())
                .where(Job.task == named.task, Job.status == JobStatus.RUNNING.value)
                .group_by(Job.tenant_id)
            ):
                running[tenant] = count
            job = None
            for tenant in sorted(waiting, key=lambda name: (running.get(name, 0), self._turns.get(name, 0), name)):
                job = first_waiting(session, named.task, tenant, due)
                if job is not None:
                    break
            if job is None:
                return None
            self._turns[job.tenant_id] = next(self._turn)
            self._machine.start(session, job, worker or worker_id())
        return JobLease(self._db, self._machine, self._settings.jobs, self.stopping, job)

    def get(self, job_id: str, tenant_id: str) -> Job:
        """Read a job.

        Raises:
            NotFound: this tenant has no such job.
        """
        with self._db.read() as session:
            job = session.scalars(select(Job).where(Job.id == job_id, Job.tenant_id == tenant_id)).one_or_none()
        if job is None:
            raise NotFound(f"no job '{job_id}'")
        return job

    def latest_of(self, subject_id: str, tenant_id: str, kind: JobKind) -> Job | None:
        """The newest job of a kind that works, or worked, on a document or a run."""
        with self._db.read() as session:
            return session.scalars(
                select(Job)
                .where(Job.subject_id == subject_id, Job.tenant_id == tenant_id, Job.kind == kind.value)
                .order_by(Job.created_at.desc(), Job.id.desc())
                .limit(1)
            ).one_or_none()

    def list(
        self,
        tenant_id: str,
        *,
        limit: int = 50,
        cursor: str | None = None,
        kind: JobKind | None = None,
        status: JobStatus | None = None,
        subject_id: str | None = None,
        error_code: str | None = None,
    ) -> Page[Job]:
        """A tenant's jobs, newest first. `status=failed` with an `error_code` is the inbox of failed work.

        Raises:
            InvalidInput: limit out of range, or a cursor of another service.
        """
        query = select(Job).where(Job.tenant_id == tenant_id)
        if kind is not None:
            query = query.where(Job.kind == kind.value)
        if status is not None:
            query = query.where(Job.status == status.value)
        if subject_id is not None:
            query = query.where(Job.subject_id == subject_id)
        if error_code is not None:
            query = query.where(Job.error["code"].as_string() == error_code)
        query = newest_page(query, Job, cursor, limit)
        with self._db.read() as session:
            return cut_page(session.scalars(query).all(), limit)

    def request_cancel(
        self,
        job_id: str,
        tenant_id: str,
        *,
        actor: str | None = None,
        request_id: str | None = None,
        session: WriteSession | None = None,
    ) -> Job:
        """Cancel: at once while queued, at the worker's next check while running. Cancelling twice is fine.

        Raises:
            NotFound: this tenant has no such job.
            Conflict: it has succeeded or failed, or is past its point of no return (`job_irrevocable`).
        """
        with self._transaction(session) as write:
            job = self._locked(write, job_id, tenant_id)
            if job.status in {JobStatus.SUCCEEDED.value, JobStatus.FAILED.value}:
                raise Conflict(f"job '{job_id}' has already {job.status}", code="job_finished")
            if job.status == JobStatus.CANCELLED.value or job.cancel_requested:
                return job
            if job.irrevocable:
                raise Conflict(f"job '{job_id}' has begun what cannot be taken back", code="job_irrevocable")
            job.cancel_requested = True
            if job.status == JobStatus.QUEUED.value:
                self._machine.cancel(write, job)
            else:
                self._machine.touched(write, job_id)
            self._audit(write, job, "job.cancel", actor, request_id)
        return job

    def retry(
        self,
        job_id: str,
        tenant_id: str,
        *,
        actor: str | None = None,
        request_id: str | None = None,
        session: WriteSession | None = None,
    ) -> Job:
        """Queue a failed or cancelled job again, with fresh budgets.

        Raises:
            NotFound: this tenant has no such job.
            Conflict: it is queued, running or succeeded.
        """
        with self._transaction(session) as write:
            job = self._locked(write, job_id, tenant_id)
            if job.status not in {JobStatus.FAILED.value, JobStatus.CANCELLED.value}:
                raise Conflict(
                    f"job '{job_id}' is {job.status}; only failed and cancelled jobs can be retried",
                    code="job_not_retryable",
                )
            self._machine.retry(write, job)
            self._audit(write, job, "job.retry", actor, request_id)
        return job

    def wait(self, job_id: str, tenant_id: str, timeout_s: float) -> Job:
        """Block until the job has ended or the time is up; returns it as it is then.

        Raises:
            NotFound: this tenant has no such job.
        """
        deadline = time.monotonic() + timeout_s
        with self.notifier.subscribe(job_topic(job_id)) as subscription:
            while True:
                job = self.get(job_id, tenant_id)
                left = deadline - time.monotonic()
                if JobStatus(job.status) in FINAL or left <= 0:
                    return job
                subscription.wait(min(1.0, left))  # other processes cannot wake us: look again each second

    def sweep(self, *, stalled: bool = True) -> SweepReport:
        """Write off stalled attempts, publish left-over messages, send lost ones again. Idempotent, any process."""
        return self._sweeper.sweep(stalled=stalled)

    def recover_orphans(self) -> int:
        """At a start that owns the data dir alone: queue all running jobs again; returns how many."""
        return self._sweeper.recover_orphans()

    @contextmanager
    def _transaction(self, session: WriteSession | None) -> Iterator[WriteSession]:
        if session is not None:
            yield session
            return
        with self._db.write() as write:
            yield write

    def _locked(self, session: WriteSession, job_id: str, tenant_id: str) -> Job:
        job = session.scalars(
            select(Job).where(Job.id == job_id, Job.tenant_id == tenant_id).with_for_update()
        ).one_or_none()
        if job is None:
            raise NotFound(f"no job '{job_id}'")
        return job

    def _audit(self, session: WriteSession, job: Job, action: str, actor: str | None, request_id: str | None) -> None:
        if actor is not None:
            audit.record(
                session, tenant_id=job.tenant_id, actor=actor, action=action, object_id=job.id, request_id=request_id
            )
