"""A thread for jobs that take long and little: one at a time, in their order, and no thread of the pool for them.

What waits here is not claimed. Should the process die, it is a queued job like any other, and its message is sent anew.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import structlog

log = structlog.stdlib.get_logger(__name__)


class Desk:
    """Takes work until it is closed."""

    def __init__(self, name: str) -> None:
        self._waiting: queue.Queue[tuple[str, Callable[[], object]] | None] = queue.Queue()
        self._known: set[str] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self, job_id: str, work: Callable[[], object]) -> None:
        """Take the work of a job; that of one which waits here already is dropped, as messages may come twice."""
        with self._lock:
            if job_id in self._known:
                return
            self._known.add(job_id)
        self._waiting.put((job_id, work))

    def close(self, timeout_s: float) -> bool:
        """Begin nothing new, and wait for what runs; whoever calls has told it to stop. False if that takes longer."""
        self._closing.set()
        self._waiting.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None and not self._closing.is_set():
            job_id, work = item
            with self._lock:
                self._known.discard(job_id)  # from now on a message may mean that it has been queued again
            try:
                work()
            except Exception:
                # The job's own errors are states of the job; this is a database that is away. The next one may work.
                log.exception("desk.work_failed", job_id=job_id)
