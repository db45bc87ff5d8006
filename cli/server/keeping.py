"""What a process of the server topology does every minute beside its work: settle its index, clear its own disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

log = structlog.stdlib.get_logger(__name__)

EVERY_S = 60.0


@contextmanager
def kept_up(name: str, action: Callable[[], object]) -> Iterator[None]:
    """Do it now and every minute, in a thread, for the length of the block."""
    stop = threading.Event()

    def keep() -> None:
        while True:
            try:
                action()
            except Exception:
                log.exception("keeping.failed", name=name)  # the next round tries again
            if stop.wait(EVERY_S):
                return

    thread = threading.Thread(target=keep, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
