"""How the threads of one process share the interpreter, and what it gives back of its memory."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH_INTERVAL_S = 0.0005
"""How long a thread keeps the interpreter once another wants it. A query or a forward pass gives it up at every step,
to torch, index and database, and beside ingest would wait up to Python's usual 5 ms each time it comes back."""


def take_short_turns() -> None:
    """For processes in which ingest runs beside forward passes or queries. Holds for the whole process."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


@contextmanager
def starting() -> Iterator[None]:
    """For a start: nearly all that it makes stays, and looking for garbage among it takes a seventh of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def settle() -> None:
    """After a start: free what it was made with. What stands then stays, and the collector passes over it.

    It holds the interpreter for a third of a second, so it waits until there is an answer to who asks for readiness.
    """
    gc.collect()
    gc.freeze()
    trim()


def trim() -> None:
    """Return what was freed to the system, in milliseconds: the C library keeps what lies before anything in use."""
    of_glibc = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if of_glibc is not None:
        of_glibc(0)
