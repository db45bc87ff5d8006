"""The clock of the service: delayed messages, the sweep of jobs, schedules, canaries, retention. Sleeps on events."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import structlog

from core.interpreter import trim
from core.notify import OUTBOX_TOPIC
from core.tables.base import utc_now
from workers.context import WorkerContext

log = structlog.stdlib.get_logger(__name__)

SCHEDULES_EVERY_S = 15.0
"""Schedules are as fine as a minute, so looking four times a minute starts each within 15 seconds."""

TRIM_EVERY_S = 60.0
"""How soon memory that work has freed is the system's again; a file that was read leaves 100 MB and more."""

CANARIES_EVERY_S = 15.0
"""How soon a canary whose figures break its policy is ended. One look reads what is new, some milliseconds."""

RETENTION_EVERY_S = 600.0
"""Retention is counted in days."""

SHORTEST_SLEEP_S = 0.05


class Beat:
    """Runs until stopped. Several at once do no harm: all they do is guarded by the rows themselves."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)
        self.rounds = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """End after the current step; False if that takes longer."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        settings = self._context.settings.jobs
        next_sweep = next_schedules = next_canaries = next_retention = next_trim = last_round = utc_now()
        away = False
        with self._context.jobs.notifier.callback(OUTBOX_TOPIC, self._wake.set):
            while not self._stopping.is_set():
                self._wake.clear()
                now = utc_now()
                # After a suspend every heartbeat looks old. Give the workers a chance to beat before judging them.
                jumped = now - last_round > timedelta(seconds=settings.sweep_every_s + settings.stalled_after_s / 2)
                last_round = now
                if now >= next_sweep:
                    skip = jumped or away  # nobody could beat while the database was away, either
                    away = self._step("sweep", lambda skip=skip: self._context.jobs.sweep(stalled=not skip)) is None
                    next_sweep = now + timedelta(seconds=settings.sweep_every_s)
                else:
                    self._step("outbox", self._context.jobs.outbox.dispatch_due)
                if now >= next_schedules and self._context.schedules is not None:
                    self._step("schedules", self._context.schedules.run_due)
                    next_schedules = now + timedelta(seconds=SCHEDULES_EVERY_S)
                if now >= next_canaries and self._context.canaries is not None:
                    self._step("canaries", self._context.canaries.look)
                    next_canaries = now + timedelta(seconds=CANARIES_EVERY_S)
                if now >= next_retention and self._context.retention is not None:
                    self._step("retention", self._context.retention.sweep)
                    next_retention = now + timedelta(seconds=RETENTION_EVERY_S)
                if now >= next_trim:
                    self._step("memory", trim)
                    next_trim = now + timedelta(seconds=TRIM_EVERY_S)
                self.rounds += 1
                self._wake.wait(self._sleep_s(next_sweep, next_schedules, next_canaries))

    def _sleep_s(self, next_sweep: datetime, next_schedules: datetime, next_canaries: datetime) -> float:
        moments = [next_sweep]
        if self._context.schedules is not None:
            moments.append(next_schedules)
        if self._context.canaries is not None:
            moments.append(next_canaries)
        due = self._step("outbox", self._context.jobs.outbox.next_due)
        now = utc_now()
        # What is overdue could not be sent just now: the next sweep tries again, not a loop without rest.
        if isinstance(due, datetime) and due > now:
            moments.append(due)
        return max(SHORTEST_SLEEP_S, (min(moments) - now).total_seconds())

    def _step(self, name: str, action: object) -> object:
        assert callable(action)
        try:
            return action()
        except Exception:
            # The beat must outlive a busy database or a bad schedule: it is what repairs everything else.
            log.exception("beat.step_failed", step=name)
            return None
