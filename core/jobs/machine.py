"""The transitions of a job. Each runs inside a write transaction whose caller has locked the row and checked its state.

Two budgets, because they mean different things: `failures` counts attempts that ended in a transient error and said
so, `crashes` attempts whose worker died without a word (out of memory, power, `kill -9`). What the environment does
to a job (`core.environment`) counts in neither: it waits.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from core.database import WriteSession
from core.notify import Notifier, job_topic
from core.outbox import Outbox
from core.queue import Task
from core.settings import Settings
from core.tables.jobs import Job
from core.types import JobKind, JobStatus

log = structlog.stdlib.get_logger(__name__)

JobListener = Callable[[WriteSession, Job], None]
"""Called in the transaction of each change of a job's status, so that what it works on never disagrees with it."""

MAX_BACKOFF_S = 300.0
MAX_WAIT_S = 60.0
"""Longest pause of a job that waits for something outside of it: it goes on within a minute of its return."""
MAX_LOG_ENTRIES = 50
WAITING = "waiting"


class JobMachine:
    """Moves jobs between states; wakes waiters and writes outbox rows as a consequence."""

    def __init__(
        self, settings: Settings, outbox: Outbox, notifier: Notifier | None, clock: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._notifier = notifier
        self._listeners: dict[JobKind, list[JobListener]] = {}
        self.now = clock

    def listen(self, kind: JobKind, listener: JobListener) -> None:
        """Register a listener for one kind. Listeners run in the order of registration."""
        self._listeners.setdefault(kind, []).append(listener)

    def enqueue(self, session: WriteSession, job: Job, *, delay_s: float = 0.0) -> None:
        """Make the job queued and write its message, to be published now or after a delay."""
        not_before = self.now() + timedelta(seconds=delay_s) if delay_s > 0 else None
        job.status = JobStatus.QUEUED.value
        job.not_before = not_before
        job.sent_at = None
        job.worker = None
        job.heartbeat_at = None
        job.finished_at = None
        self._outbox.add(session, Task(job.task), {"job_id": job.id}, priority=job.priority, not_before=not_before)
        self._changed(session, job)

    def start(self, session: WriteSession, job: Job, worker: str) -> None:
        """Give the job to a worker under a new attempt number."""
        now = self.now()
        job.status = JobStatus.RUNNING.value
        job.attempt += 1
        job.worker = worker[:120]
        job.stage = None
        job.progress = 0.0
        job.started_at = job.started_at or now
        job.heartbeat_at = now
        job.not_before = None
        self._changed(session, job)

    def succeed(self, session: WriteSession, job: Job) -> None:
        """End well."""
        job.progress = 1.0
        job.error = None
        self._finish(session, job, JobStatus.SUCCEEDED)

    def cancel(self, session: WriteSession, job: Job) -> None:
        """End because a user asked."""
        if job.status == JobStatus.RUNNING.value:
            self._log_attempt(job, "cancelled", "cancelled")
        self._finish(session, job, JobStatus.CANCELLED)

    def fail(self, session: WriteSession, job: Job, code: str, detail: str, *, transient: bool) -> None:
        """End an attempt with an error: back to the queue while the budget lasts, else failed for good."""
        job.error = {"code": code, "detail": detail, "retryable": transient}
        if not transient:
            self._log_attempt(job, "permanent_error", code)
            self._finish(session, job, JobStatus.FAILED)
            return
        self._log_attempt(job, "transient_error", code)
        job.failures += 1
        if job.failures >= self._settings.ingest.max_attempts:
            self._finish(session, job, JobStatus.FAILED)
        else:
            self.enqueue(session, job, delay_s=self._backoff_s(job.failures))

    def crash(self, session: WriteSession, job: Job, *, delay: bool = True) -> None:
        """End an attempt whose worker is gone: redo it while the budget lasts, else failed for good."""
        self._log_attempt(job, "worker_lost", "worker_lost")
        job.crashes += 1
        if job.cancel_requested:
            self._finish(session, job, JobStatus.CANCELLED)
            return
        if job.crashes >= self._settings.ingest.max_crashes:
            job.error = {
                "code": "worker_lost",
                "detail": f"{job.crashes} workers died on this job, the last at stage '{job.stage}'",
                "retryable": True,
            }
            self._finish(session, job, JobStatus.FAILED)
        else:
            # The first crash is redone at once; one that comes again may be this job's own doing.
            self.enqueue(session, job, delay_s=self._backoff_s(job.crashes - 1) if delay and job.crashes > 1 else 0.0)

    def release(self, session: WriteSession, job: Job) -> None:
        """Put it back unfinished because this process stops: costs no budget."""
        self._log_attempt(job, "interrupted", "interrupted")
        self.enqueue(session, job)

    def postpone(self, session: WriteSession, job: Job, code: str, detail: str, delay_s: float) -> None:
        """Put it back for a while because something that it needs is taken: costs no budget, and says why it waits."""
        self._log_attempt(job, "postponed", code)
        job.error = {"code": code, "detail": detail, "retryable": True}
        self.enqueue(session, job, delay_s=delay_s)

    def wait(self, session: WriteSession, job: Job, code: str, detail: str, least_s: float) -> None:
        """Put it back because something outside of it is away: costs no budget, says for what it waits, goes on alone.

        Pauses double up to `MAX_WAIT_S`: an outage of seconds costs seconds, one of a night no busy loop.
        """
        last = job.attempts_log[-1] if job.attempts_log else {}
        times = int(last.get("times", 1)) + 1 if last.get("reason") == WAITING else 1
        if times > 1:  # one entry for one outage, or it would push everything else out of the log
            job.attempts_log = job.attempts_log[:-1]
        self._log_attempt(job, WAITING, code, times=times)
        job.error = {"code": code, "detail": detail, "retryable": True}
        pause_s = min(MAX_WAIT_S, self._settings.jobs.retry_base_s * 2.0 ** min(times - 1, 20))
        self.enqueue(session, job, delay_s=max(least_s, pause_s))

    def hand_over(self, session: WriteSession, job: Job, task: Task) -> None:
        """Queue the next part of the job, for another worker."""
        self._log_attempt(job, "handed_over", task.value)
        job.task = task.value
        job.stage = None
        self.enqueue(session, job)

    def retry(self, session: WriteSession, job: Job) -> None:
        """Queue a failed or cancelled job again with fresh budgets."""
        job.failures = 0
        job.crashes = 0
        job.cancel_requested = False
        job.error = None
        job.stage = None
        job.progress = 0.0
        self.enqueue(session, job)

    def touched(self, session: WriteSession, job_id: str) -> None:
        """Wake waiters after a change that is no transition (progress, a request to cancel)."""
        if self._notifier is not None:
            notifier = self._notifier
            session.after_commit(lambda: notifier.publish(job_topic(job_id)))

    def _finish(self, session: WriteSession, job: Job, status: JobStatus) -> None:
        job.status = status.value
        job.finished_at = self.now()
        job.worker = None
        job.heartbeat_at = None
        job.not_before = None
        log.info("job.finished", job_id=job.id, kind=job.kind, status=status.value, attempt=job.attempt)
        self._changed(session, job)

    def _changed(self, session: WriteSession, job: Job) -> None:
        session.flush()
        for listener in self._listeners.get(JobKind(job.kind), ()):
            listener(session, job)
        self.touched(session, job.id)

    def _log_attempt(self, job: Job, reason: str, code: str, **more: int) -> None:
        entry = {
            "attempt": job.attempt,
            "ended_at": self.now().isoformat(),
            "reason": reason,
            "code": code,
            "stage": job.stage,
            "worker": job.worker,
            **more,
        }
        job.attempts_log = [*job.attempts_log, entry][-MAX_LOG_ENTRIES:]

    def _backoff_s(self, count: int) -> float:
        base = self._settings.jobs.retry_base_s
        return float(min(MAX_BACKOFF_S, base * 2.0 ** max(0, count - 1)))
