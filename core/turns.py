"""Turns at uploads that take work before they are answered: few at a time, one of a tenant, few of a tenant waiting.

Who waits holds one of the threads that store uploads, so one tenant's archives must not fill them all.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import Unavailable

AT_ONCE = 2
MAX_WAITING = 4
"""Of one tenant; more are told to come back."""


class Turns:
    """Hands out turns. Thread-safe."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._free = at_once
        self._change = threading.Condition()
        self._busy: set[str] = set()
        self._waiting: Counter[str] = Counter()

    def waiting(self, tenant_id: str) -> int:
        """How many of a tenant wait."""
        with self._change:
            return self._waiting[tenant_id]

    @contextmanager
    def turn(self, tenant_id: str, timeout_s: float) -> Iterator[None]:
        """Hold a turn for the length of the block.

        Raises:
            Unavailable: `uploads_busy`: others have been at it for too long, or too many of the tenant wait.
        """
        with self._change:
            if self._waiting[tenant_id] >= MAX_WAITING:
                raise _busy()
            self._waiting[tenant_id] += 1
            try:
                if not self._change.wait_for(lambda: self._free > 0 and tenant_id not in self._busy, timeout_s):
                    raise _busy()
                self._free -= 1
                self._busy.add(tenant_id)
            finally:
                self._waiting[tenant_id] -= 1
        try:
            yield
        finally:
            with self._change:
                self._free += 1
                self._busy.discard(tenant_id)
                self._change.notify_all()


def _busy() -> Unavailable:
    return Unavailable("other uploads of this kind are being looked through", code="uploads_busy")
