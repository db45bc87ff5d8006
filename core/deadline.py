"""How long the work at hand may still take, known to whatever it calls without being handed down.

Set around a whole search, so that five calls to a server that hangs cost one limit and not five.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_until: ContextVar[float | None] = ContextVar("until", default=None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Whatever the block calls has so long together; an outer limit that ends sooner holds."""
    outer, mine = _until.get(), time.monotonic() + seconds
    token = _until.set(mine if outer is None else min(outer, mine))
    try:
        yield
    finally:
        _until.reset(token)


def left_s(most: float) -> float:
    """Seconds left, `most` at best; 0 or less when the time is up."""
    until = _until.get()
    return most if until is None else min(most, until - time.monotonic())
