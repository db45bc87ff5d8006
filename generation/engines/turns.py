"""Turns by tenant at a generator that answers many requests side by side: whose request begins next, who may wait.

The request that begins is the oldest of the tenant of whose requests the fewest run. A tenant of whose requests none
runs has a place beside those of the others, and a few such tenants may wait although others fill the queue.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from core.errors import Unavailable
from generation.engines.drain import Drain

MAX_GUESTS = 8
"""Tenants with nothing in the queue that are let in although others fill it."""


def next_in_turn(waiting: Sequence[str], running: Counter[str]) -> int:
    """Place in the queue of the request that begins next. waiting: tenants of those in it, oldest first, not empty."""
    return min(range(len(waiting)), key=lambda at: running[waiting[at]])


def is_guest(tenant_id: str, waiting: Sequence[str], max_queue: int) -> bool:
    """Whether a request is let into a full queue: others alone fill it."""
    return bool(waiting) and len(waiting) < max_queue + MAX_GUESTS and tenant_id not in waiting


class FairPool:
    """Threads that requests to a server run in, by these turns. Thread-safe."""

    def __init__(self, max_parallel: int, max_queue: int, drain: Callable[[], Drain], name: str) -> None:
        """max_parallel: requests that run together, besides one guest. max_queue: those that may wait.

        drain: what says when to come back.
        """
        self._max_parallel = max_parallel
        self._max_queue = max_queue
        self._drain = drain
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, Callable[[], None]]] = []
        self._running: Counter[str] = Counter()
        self._threads = ThreadPoolExecutor(max_parallel + 1, thread_name_prefix=name)

    def submit(self, tenant_id: str, work: Callable[[], None]) -> None:
        """Have `work`, which raises nothing, run in its turn.

        Raises:
            Unavailable: `queue_full`; `engine_stopped`.
        """
        with self._lock:
            waiting = len(self._waiting)
            full = self._running.total() + waiting >= self._max_parallel + self._max_queue
            if full and not is_guest(tenant_id, self._tenants(), self._max_queue):
                raise self._drain().queue_full(waiting)
            try:
                self._threads.submit(self._take_turns)
            except RuntimeError as error:
                raise Unavailable("the generator has stopped", code="engine_stopped") from error
            self._waiting.append((tenant_id, work))

    def close(self) -> None:
        """Take no more, wait until all that was taken has run."""
        self._threads.shutdown(wait=True)

    def _tenants(self) -> list[str]:
        return [tenant_id for tenant_id, _ in self._waiting]

    def _take_turns(self) -> None:
        """Run what is next until there is nothing that may begin: who comes later has a call of its own."""
        ended: str | None = None
        while (taken := self._take(ended)) is not None:
            ended, work = taken
            work()

    def _take(self, ended: str | None) -> tuple[str, Callable[[], None]] | None:
        with self._lock:
            if ended is not None:
                self._running[ended] -= 1
                if not self._running[ended]:
                    del self._running[ended]
            if not self._waiting:
                return None
            at = next_in_turn(self._tenants(), self._running)
            tenant_id = self._waiting[at][0]
            places = self._max_parallel + (0 if self._running[tenant_id] else 1)
            if self._running.total() >= places:
                return None
            self._running[tenant_id] += 1
            return self._waiting.pop(at)
