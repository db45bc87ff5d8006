"""Threads by tenant: what blocks or computes for one tenant takes a share of them and leaves the rest to others."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Final, TypeVar

import anyio
import anyio.to_thread

Result = TypeVar("Result")

ASKING_EACH: Final = max(4, os.cpu_count() or 1)
STORING: Final = 48
"""Threads in which bytes go to the blob store: a slow bucket fills these, and the others go on answering."""
STORING_EACH: Final = 12


class TenantThreads:
    """Runs calls in threads, so many at once of each tenant and, where that is bounded, of all tenants.

    What is searched and weighed before a question is handed to the generator takes CPU and the interpreter: in threads
    that all share, forty questions of one tenant would leave none to the others, and in as many of their own a fortieth
    of a core. What stores uploads waits for a bucket: in threads that all share, one tenant's would hold them all.
    """

    def __init__(self, each: int, together: int | None = None) -> None:
        """each: of one tenant. together: of all; None: no bound."""
        self._each = each
        self._together = None if together is None else anyio.CapacityLimiter(together)
        self._limiters: dict[str, anyio.CapacityLimiter] = {}

    async def run(self, tenant_id: str, call: Callable[[], Result]) -> Result:
        """Run a call in a thread when one of the tenant's share is free, and one of all."""
        if tenant_id not in self._limiters:
            self._limiters[tenant_id] = anyio.CapacityLimiter(self._each)
        own = self._limiters[tenant_id]
        async with own if self._together is not None else nullcontext():
            return await anyio.to_thread.run_sync(call, limiter=self._together or own)
