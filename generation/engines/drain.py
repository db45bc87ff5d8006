"""How fast the queue of a generator drains, for `Retry-After`.

Time is counted in row-seconds: seconds times the requests that ran in them. Nothing accrues while nothing runs, so an
idle night does not look like a slow generator, and requests that ran one at a time say something of many at once.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.errors import Unavailable

DEFAULT_S = 2.0
"""Seconds between two free places while no request has ended yet; silence of the generator raises it."""
LONGEST_S = 60
WINDOW = 32
"""Ends that the rate is taken from: four rounds of the batch on a CPU."""


class Drain:
    """Counts what runs and ends; thread-safe."""

    def __init__(self, *, window: int = WINDOW, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds that never go back."""
        self._clock = clock
        self._lock = threading.Lock()
        self._running = 0
        self._width = 1
        """How many ran when last any did: the moment between two rows of a batch is not a slow generator."""
        self._spent = 0.0
        """Row-seconds of all time, up to `_counted_at`."""
        self._counted_at = clock()
        self._marks: deque[float] = deque([0.0], window + 1)
        """Row-seconds at the last ends, after the mark that the first of them is measured from."""
        self._silent_since: float | None = None
        """Last end, or the first work after an idle time; None: idle."""
        self._promised_until = -math.inf
        """When the last place comes free that somebody was told of."""

    def running(self, count: int) -> None:
        """Say how many requests run now. If fewer than before, the others have ended."""
        with self._lock:
            self._set(count)

    @contextmanager
    def work(self) -> Iterator[None]:
        """One request runs in this block."""
        with self._lock:
            self._set(self._running + 1)
        try:
            yield
        finally:
            with self._lock:
                self._set(self._running - 1)

    def retry_after_s(self, waiting: int) -> int:
        """Seconds, 1 to `LONGEST_S`, until a place in a full queue of `waiting` is likely free for who asks now.

        A generator that has been silent for longer than it usually is counts as slow as that silence. Places that
        others were told of just now come first, or all who are refused together would come back for one place; but
        nobody is told to stay away for longer than what waits and runs will take, or the generator would fall idle.
        """
        with self._lock:
            now = self._count()
            if self._silent_since is None:
                self._silent_since = now
            ended = len(self._marks) - 1
            usual_s = (self._spent - self._marks[0]) / ended / self._width if ended else DEFAULT_S
            step_s = max(usual_s, now - self._silent_since)
            most_s = min(max(waiting + self._running, 1) * step_s, LONGEST_S)
            wait_s = min(max(self._promised_until - now, 0.0) + step_s, most_s)
            self._promised_until = now + wait_s
        return max(math.ceil(wait_s - 1e-6), 1)  # what floats lose in a sum is not a second more

    def queue_full(self, waiting: int) -> Unavailable:
        """The refusal of one more request where `waiting` wait already."""
        return Unavailable(
            f"{waiting} generations are waiting already",
            code="queue_full",
            extra={"retry_after_s": self.retry_after_s(waiting)},
        )

    def _set(self, running: int) -> None:
        now = self._count()
        ended = self._running - running
        if ended > 0:
            self._marks.extend([self._spent] * ended)
            self._silent_since = now if running else None
        elif ended < 0 and self._silent_since is None:
            self._silent_since = now
        self._running = running
        self._width = running or self._width

    def _count(self) -> float:
        """Add the row-seconds since the last call; the time now."""
        now = self._clock()
        self._spent += self._running * (now - self._counted_at)
        self._counted_at = now
        return now
