"""Events between threads of one process, so that an SSE stream or a waiter sleeps until something has happened.

Writers in other processes are not seen here: a waiter reads the database again when its timeout ends (a second does).
An event says only *that* something changed; what changed is in the database.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def job_topic(job_id: str) -> str:
    """Topic of everything that happens to one job."""
    return f"job:{job_id}"


OUTBOX_TOPIC = "outbox"
"""A message waits to be published."""


class Subscription:
    """Latches events of one topic between two waits, so that none falls between a read and the next wait."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def notify(self) -> None:
        """Wake the waiter, now or at its next wait."""
        self._event.set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep until an event came since the last wait; False when the time ran out."""
        came = self._event.wait(timeout_s)
        self._event.clear()
        return came


class AsyncSubscription:
    """The same for one asyncio task."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def notify(self) -> None:
        """Wake the waiter; called from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout_s: float) -> bool:
        """Sleep until an event came since the last wait; False when the time ran out."""
        try:
            await asyncio.wait_for(self._event.wait(), timeout_s)
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Notifier:
    """Topics to subscribers. Thread-safe; a topic without subscribers costs nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[str, list[Callable[[], None]]] = {}

    def publish(self, topic: str) -> None:
        """Wake everyone who waits for `topic`."""
        with self._lock:
            callbacks = list(self._callbacks.get(topic, ()))
        for callback in callbacks:
            callback()

    def wait(self, topic: str, timeout_s: float) -> bool:
        """Wait for one event. What was published before the call is missed: use `subscribe` around a read."""
        with self.subscribe(topic) as subscription:
            return subscription.wait(timeout_s)

    @contextmanager
    def subscribe(self, topic: str) -> Iterator[Subscription]:
        """Hold a subscription; every event from here on is latched."""
        subscription = Subscription()
        with self.callback(topic, subscription.notify):
            yield subscription

    @contextmanager
    def subscribe_async(self, topic: str) -> Iterator[AsyncSubscription]:
        """The same inside a running asyncio loop; waiting takes no thread."""
        subscription = AsyncSubscription()
        with self.callback(topic, subscription.notify):
            yield subscription

    @contextmanager
    def callback(self, topic: str, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` on each event, in the publisher's thread: it must be quick and must not raise."""
        with self._lock:
            self._callbacks.setdefault(topic, []).append(callback)
        try:
            yield
        finally:
            with self._lock:
                remaining = self._callbacks[topic]
                remaining.remove(callback)
                if not remaining:
                    del self._callbacks[topic]
