"""A worker's right to work on one attempt of a job. Each write checks in its transaction that it still holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from core.database import Database, WriteSession
from core.errors import Cancelled, Interrupted, LeaseLost, Postponed, TsumugiError, Unavailable
from core.jobs.machine import JobMachine
from core.measures import observe_stage
from core.queue import Task
from core.settings import JobSettings
from core.tables.jobs import Job
from core.tracing import record
from core.types import JobKind, JobStatus

log = structlog.stdlib.get_logger(__name__)

REREAD_S = 0.5
"""`check` asks the database at most so often, and `progress` writes at most so often within one stage."""

SILENT_AFTER_S = 1800.0
"""Code that neither checked, wrote nor reported for so long hangs: the heartbeat stops, and the job is redone."""


class JobLease:
    """One attempt. Use from the worker's thread; the heartbeat has its own."""

    def __init__(
        self, db: Database, machine: JobMachine, settings: JobSettings, stopping: threading.Event, job: Job
    ) -> None:
        self.job_id: str = job.id
        self.tenant_id: str = job.tenant_id
        self.kind = JobKind(job.kind)
        self.task: str = job.task
        self.subject_id: str = job.subject_id
        self.arguments: Mapping[str, Any] = dict(job.arguments)
        self.attempt: int = job.attempt
        self.stage: str | None = None
        self._db = db
        self._machine = machine
        self._settings = settings
        self._stopping = stopping
        self._lost = threading.Event()
        self._cancel_requested = threading.Event()
        self._open = threading.local()
        self._last_read = 0.0
        self._last_progress = 0.0
        self._last_sign = self._stage_began = time.monotonic()
        self.finished = False
        self.queued_s = (machine.now() - max(job.not_before or job.created_at, job.created_at)).total_seconds()
        """Seconds between when it could have begun and this attempt."""

    def check(self) -> None:
        """Call between steps, a few times a second at best. Cheap: reads the database at most twice a second.

        Raises:
            LeaseLost: another attempt owns the job.
            Cancelled: a user asked to cancel.
            Interrupted: this process is stopping.
        """
        self._last_sign = time.monotonic()
        if self._last_sign - self._last_read >= REREAD_S:
            self._last_read = self._last_sign
            with self._db.read() as session:
                row = session.execute(
                    select(Job.status, Job.attempt, Job.cancel_requested).where(Job.id == self.job_id)
                ).one_or_none()
            self._take_in(row)
        if self._lost.is_set():
            raise self._lease_lost()
        if self._cancel_requested.is_set():
            raise Cancelled(f"job {self.job_id} was cancelled")
        if self._stopping.is_set():
            raise Interrupted(f"the process that ran job {self.job_id} is stopping")

    @contextmanager
    def write(self) -> Iterator[WriteSession]:
        """A write transaction that commits only if this attempt still owns the job; nested calls share it.

        Raises:
            LeaseLost: another attempt owns the job; nothing was written.
        """
        held = self._held()
        if held is not None:
            yield held[0]
            return
        with self._db.write() as session:
            self._open.held = (session, self._locked(session))
            try:
                yield session
            finally:
                self._open.held = None
        self._last_sign = time.monotonic()

    def go_past_return(self) -> None:
        """From the commit of this transaction of `write` on, the job is no longer cancelled.

        Raises:
            Cancelled: a user asked for that before.
        """
        held = self._held()
        assert held is not None
        if held[1].cancel_requested:
            raise Cancelled(f"job {self.job_id} was cancelled")
        held[1].irrevocable = True

    def progress(self, stage: str, fraction: float) -> None:
        """Report where the work is; fraction in 0..1 over the whole job. Written at most twice a second.

        A stage of a small document is over sooner than anybody could look, and each write waits for the disk.

        Raises:
            LeaseLost: another attempt owns the job.
        """
        now = self._last_sign = time.monotonic()
        self._enter(stage, now)
        if now - self._last_progress < REREAD_S:
            return
        self._last_progress = now
        with self.write() as session:
            held = self._held()
            assert held is not None
            job = held[1]
            job.stage = stage[:40]
            job.progress = min(1.0, max(0.0, fraction))
            job.heartbeat_at = self._machine.now()
            self._machine.touched(session, self.job_id)

    def _enter(self, stage: str | None, now: float) -> None:
        """Measure the stage that ends with this one."""
        if stage == self.stage:
            return
        if self.stage is not None:
            observe_stage(self.stage, now - self._stage_began)
            record(self.stage, now - self._stage_began)
        self.stage = stage if stage is not None else self.stage
        self._stage_began = now

    def note(self, **arguments: Any) -> None:
        """Merge into the job's arguments what a later attempt has to know; inside `write()`, part of that transaction.

        Raises:
            LeaseLost: another attempt owns the job.
        """
        with self.write() as session:
            held = self._held()
            assert held is not None
            merged = held[1].arguments = {**held[1].arguments, **arguments}

            def take() -> None:
                self.arguments = merged

            session.after_commit(take)

    def succeed(self) -> None:
        """End well. Inside `write()` the end is part of that transaction, so effect and end are one."""
        self._end(self._machine.succeed)

    def cancelled(self) -> None:
        """End because `check` raised Cancelled."""
        self._end(self._machine.cancel)

    def release(self) -> None:
        """Back to the queue because this process stops; costs no attempt."""
        self._end(self._machine.release)

    def postpone(self, reason: Postponed) -> None:
        """Back to the queue for as long as the reason says; costs no attempt."""
        delay_s = float(reason.extra.get("retry_after_s", 30))
        self._end(lambda session, job: self._machine.postpone(session, job, reason.code, reason.detail, delay_s))

    def wait(self, fault: Unavailable) -> None:
        """Back to the queue until what is away is there again; costs no attempt, with growing pauses."""
        least_s = float(fault.extra.get("retry_after_s", 0))
        self._end(lambda session, job: self._machine.wait(session, job, fault.code, fault.detail, least_s))

    def fail(self, error: BaseException) -> None:
        """End the attempt with an error.

        A TsumugiError says itself whether it is transient; anything else is unexpected, counts as transient, and is
        shown to users only as `internal`.
        """
        if isinstance(error, TsumugiError):
            code, detail, transient = error.code, error.detail, error.retryable
        else:
            code, detail, transient = "internal", f"unexpected {type(error).__name__}; the log has more", True
        self._end(lambda session, job: self._machine.fail(session, job, code, detail, transient=transient))

    def hand_over(self, task: Task, arguments: Mapping[str, Any] | None = None) -> None:
        """Queue the job's next part as `task`, with `arguments` merged into the job's; ends this attempt."""

        def move(session: WriteSession, job: Job) -> None:
            if arguments:
                job.arguments = {**job.arguments, **arguments}
            self._machine.hand_over(session, job, task)

        self._end(move)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Beat in the background for the length of the block."""
        stop = threading.Event()
        thread = threading.Thread(target=self._beat, args=(stop,), name=f"heartbeat-{self.job_id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def sleep(self, seconds: float) -> bool:
        """Pause; True when this process is stopping."""
        return self._stopping.wait(seconds)

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(self._settings.heartbeat_s):
            if time.monotonic() - self._last_sign > SILENT_AFTER_S:
                log.error("job.silent", job_id=self.job_id, attempt=self.attempt, stage=self.stage)
                return
            try:
                if not self._beat_once():
                    return
            except SQLAlchemyError as error:
                # A busy database is no reason to stop: the next beat tries again, the fence guards meanwhile.
                log.warning("job.heartbeat_failed", job_id=self.job_id, detail=str(error))

    def _beat_once(self) -> bool:
        owned = (Job.id == self.job_id, Job.attempt == self.attempt, Job.status == JobStatus.RUNNING.value)
        with self._db.write() as session:
            beaten = session.execute(
                update(Job).where(*owned).values(heartbeat_at=self._machine.now()).returning(Job.cancel_requested)
            ).one_or_none()
        if beaten is None:
            if not self.finished:
                self._lost.set()
            return False
        if beaten[0]:
            self._cancel_requested.set()
        return True

    def _take_in(self, row: Any) -> None:
        if row is None or row.status != JobStatus.RUNNING.value or row.attempt != self.attempt:
            self._lost.set()
        elif row.cancel_requested:
            self._cancel_requested.set()

    def _held(self) -> tuple[WriteSession, Job] | None:
        held: tuple[WriteSession, Job] | None = getattr(self._open, "held", None)
        return held

    def _locked(self, session: WriteSession) -> Job:
        job = session.get(Job, self.job_id, with_for_update=True, populate_existing=True)
        if job is None or job.status != JobStatus.RUNNING.value or job.attempt != self.attempt:
            if not self.finished:
                self._lost.set()
            raise self._lease_lost()
        return job

    def _end(self, transition: Any) -> None:
        self._enter(None, time.monotonic())
        with self.write() as session:
            held = self._held()
            assert held is not None
            transition(session, held[1])
            session.after_commit(self._mark_finished)

    def _mark_finished(self) -> None:
        self.finished = True

    def _lease_lost(self) -> LeaseLost:
        return LeaseLost(f"attempt {self.attempt} no longer owns job {self.job_id}")
