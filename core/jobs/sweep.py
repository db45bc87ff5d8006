"""Finds jobs that nobody works on. Stalled and starved are different illnesses.

Stalled: running, no heartbeat, or its process is gone from this machine. The worker is dead; the attempt is written
off and the job queued again.
Starved: queued for long. Mostly the workers are just busy, so nothing is done; only when the broker holds fewer
messages than there are jobs waiting has a message been lost, and then the oldest ones are sent again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, TextClause, func, or_, select, text
from sqlalchemy.orm import Session

from core.database import Database, WriteSession
from core.errors import Unavailable
from core.jobs.machine import JobMachine
from core.jobs.worker_id import is_dead
from core.outbox import Outbox
from core.ports import TaskQueue
from core.queue import QUEUE_OF_TASK, InspectableQueue, Queue, Task
from core.settings import JobSettings
from core.tables.jobs import SENT, Job, OutboxMessage
from core.types import JobStatus

_AT_ONCE = 1_000
"""Jobs that one sweep calls starved or sends again at most; the next one goes on."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class SweepReport:
    """What one sweep did. Counts are jobs, `dispatched` messages."""

    stalled: int = 0
    """Running without a living worker: written off and queued again, or failed when the budget was spent."""
    resent: int = 0
    """Queued, message lost: sent again."""
    starved: int = 0
    """Queued for long with their messages in place: the workers are busy, or there are none."""
    dispatched: int = 0
    """Left-over and delayed outbox messages published."""
    errors: list[str] = field(default_factory=list)
    """Jobs that could not be swept, and why; the others were."""


class Sweeper:
    """One pass over all jobs. Safe to run in several processes at once."""

    def __init__(
        self, db: Database, machine: JobMachine, outbox: Outbox, queue: TaskQueue | None, settings: JobSettings
    ) -> None:
        self._db = db
        self._machine = machine
        self._outbox = outbox
        self._queue = queue
        self._settings = settings

    def sweep(self, *, stalled: bool = True) -> SweepReport:
        """Do everything; `stalled=False` leaves running jobs alone (the clock has just jumped, say)."""
        report = SweepReport()
        if stalled:
            self._write_off_stalled(report)
        report.dispatched = self._outbox.dispatch_due()
        for queue in Queue:
            self._resend_lost(queue, report)
        if report.stalled or report.resent or report.errors:
            log.warning(
                "jobs.swept", stalled=report.stalled, resent=report.resent, starved=report.starved, errors=report.errors
            )
        return report

    def recover_orphans(self) -> int:
        """Queue every running job again, because its worker is known to be dead, and send all hints anew.

        Only at a start that owns the data dir alone. Returns how many jobs were running. A broker that does not answer
        yet is no obstacle: the rows wait in the outbox.
        """
        with self._db.read() as session:
            running = session.execute(select(Job.id, Job.attempt).where(Job.status == JobStatus.RUNNING.value)).all()
        if isinstance(self._queue, InspectableQueue):
            try:
                self._queue.reset()
            except Unavailable as error:
                log.warning("jobs.recover_without_broker", detail=error.detail)
        with self._db.write() as session:
            waiting = {message.arguments.get("job_id") for message in session.scalars(select(OutboxMessage))}
            queued = session.scalars(
                select(Job).where(Job.status == JobStatus.QUEUED.value).order_by(Job.created_at, Job.id)
            ).all()
            for job in queued:
                if job.id not in waiting:
                    self._send_again(session, job)
        recovered = sum(self._write_off(job_id, None, attempt) for job_id, attempt in running)
        self._outbox.dispatch_due()
        if recovered or queued:
            log.warning("jobs.recovered", running=recovered, queued=len(queued))
        return recovered

    def _write_off_stalled(self, report: SweepReport) -> None:
        cutoff = self._machine.now() - timedelta(seconds=self._settings.stalled_after_s)
        with self._db.read() as session:
            running = session.execute(
                select(Job.id, Job.attempt, Job.worker, _silent_since(cutoff)).where(
                    Job.status == JobStatus.RUNNING.value
                )
            ).all()
        for job_id, attempt, worker, silent in running:
            if not silent and not is_dead(worker):
                continue
            try:
                report.stalled += self._write_off(job_id, cutoff if silent else None, attempt)
            except Exception as error:
                log.exception("jobs.sweep_failed", job_id=job_id)
                report.errors.append(f"{job_id}: {error}")

    def _write_off(self, job_id: str, cutoff: datetime | None, attempt: int) -> bool:
        with self._db.write() as session:
            condition = [Job.id == job_id, Job.status == JobStatus.RUNNING.value, Job.attempt == attempt]
            if cutoff is not None:
                condition.append(_silent_since(cutoff))
            job = session.scalars(select(Job).where(*condition).with_for_update(skip_locked=True)).one_or_none()
            if job is None:  # it ended, or beat again, since it was listed
                return False
            log.warning("job.worker_lost", job_id=job.id, attempt=job.attempt, worker=job.worker, stage=job.stage)
            self._machine.crash(session, job)
        return True

    def _resend_lost(self, queue: Queue, report: SweepReport) -> None:
        now = self._machine.now()
        tasks = [task.value for task, place in QUEUE_OF_TASK.items() if place is queue]
        old = now - timedelta(seconds=self._settings.resend_after_s)
        # A job whose message is still in the outbox is the dispatcher's business.
        waiting = (text(SENT), Job.task.in_(tasks), or_(Job.not_before.is_(None), Job.not_before <= now))
        with self._db.read() as session:
            starved = _up_to(session, _AT_ONCE, *waiting, Job.sent_at <= old)
        depth = self._depth(queue) if starved else None
        missing = 0
        if depth is not None:
            with self._db.read() as session:
                missing = _up_to(session, depth + starved, *waiting) - depth
        report.starved += starved - max(0, missing)
        if missing <= 0:
            return
        with self._db.write() as session:
            lost = session.scalars(
                select(Job)
                .where(*waiting, Job.sent_at <= old)
                .order_by(Job.sent_at, Job.id)
                .limit(missing)
                .with_for_update(skip_locked=True)
            ).all()
            for job in lost:
                self._send_again(session, job)
        report.resent += len(lost)

    def _depth(self, queue: Queue) -> int | None:
        if not isinstance(self._queue, InspectableQueue):
            return None
        try:
            return self._queue.depth(queue.value)
        except Unavailable as error:
            log.warning("jobs.broker_unavailable", queue=queue.value, detail=error.detail)
            return None

    def _send_again(self, session: WriteSession, job: Job) -> None:
        job.sent_at = None
        not_before = job.not_before if job.not_before is not None and job.not_before > self._machine.now() else None
        self._outbox.add(session, Task(job.task), {"job_id": job.id}, priority=job.priority, not_before=not_before)


def _up_to(session: Session, most: int, *conditions: ColumnElement[bool] | TextClause) -> int:
    """How many jobs there are, `most` at most: a queue of 200,000 is not counted to see that some wait."""
    some = select(Job.id).where(*conditions).limit(most).subquery()
    return session.scalar(select(func.count()).select_from(some)) or 0


def _silent_since(cutoff: datetime) -> ColumnElement[bool]:
    return or_(Job.heartbeat_at.is_(None), Job.heartbeat_at < cutoff)
