"""How many connections are open, and how long one may take to say what it wants.

uvicorn waits for ever for the rest of a request's head, so that whoever opens connections and sends half a line takes
every descriptor of the process. Here a head has a time in all, which more bytes do not lengthen, a body a longest
silence, and at the limit a connection that has not asked for anything makes room for the next one.
"""

from __future__ import annotations

import asyncio
import resource
import time

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from core.settings import HttpSettings

log = structlog.stdlib.get_logger(__name__)

_DESCRIPTORS_KEPT = 256
"""For files, the database, the index and the broker."""
_LOG_EVERY_S = 60.0
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: 21\r\n\r\nToo many connections."
)


class Rarely:
    """A warning said once, then at most once a minute with how often it happened meanwhile."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._said = float("-inf")
        self._count = 0

    def __call__(self, **values: object) -> None:
        """It happened."""
        self._count += 1
        now = time.monotonic()
        if now - self._said >= _LOG_EVERY_S:
            log.warning(self._event, count=self._count, **values)
            self._said, self._count = now, 0


def most_connections(settings: HttpSettings) -> int:
    """The limit in force: what is set, or what the process's descriptors allow. Raises their soft limit as it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + _DESCRIPTORS_KEPT
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return settings.max_connections
    return max(1, min(settings.max_connections, soft - _DESCRIPTORS_KEPT))


def bounded_protocol(settings: HttpSettings) -> type[H11Protocol]:
    """A protocol class for `uvicorn.Config(http=...)` that keeps to the settings."""
    limit = most_connections(settings)
    crowded, slow = Rarely("http.connections_full"), Rarely("http.request_too_slow")

    class BoundedProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _in_head = False
        _refused = False
        _since = 0.0
        """When it came, or its last answer ended; `time.monotonic()`."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Take it, in place of the one that has waited longest where there are too many."""
            if len(self.connections) >= limit:
                crowded(limit=limit)
                idle = (other for other in self.connections if isinstance(other, BoundedProtocol) and other._waits())
                oldest = min(idle, key=lambda other: other._since, default=None)
                if oldest is None:
                    transport.write(_FULL)
                    transport.close()
                    self._refused = True
                    return
                self.connections.discard(oldest)
                oldest.transport.abort()
            super().connection_made(transport)
            self._since = time.monotonic()
            self._watch()

        def data_received(self, data: bytes) -> None:
            """Read on, and see what is awaited then."""
            if self._refused:
                return
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            """Forget it."""
            self._stop()
            if not self._refused:
                super().connection_lost(exc)

        def on_response_complete(self) -> None:
            """The next request may come late (uvicorn's own keep-alive), but then its head is timed."""
            self._stop()
            self._since = time.monotonic()
            super().on_response_complete()
            if self._waits() and self.conn.trailing_data[0]:
                self._watch()

        def _waits(self) -> bool:
            """Whether no request is under way."""
            return self.conn.their_state is h11.IDLE and (self.cycle is None or self.cycle.response_complete)

        def _watch(self) -> None:
            if self._waits():
                if not self._in_head:
                    self._in_head = True
                    self._arm(settings.header_timeout_s)
                return
            self._stop()
            if self.conn.their_state is h11.SEND_BODY:
                self._arm(settings.body_silence_s)

        def _arm(self, seconds: float) -> None:
            self._timer = self.loop.call_later(seconds, self._too_slow)

        def _stop(self) -> None:
            self._in_head = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            if self.conn.their_state is h11.SEND_BODY and not self.transport.is_reading():
                self._arm(settings.body_silence_s)  # it is we who do not read
                return
            slow(head_timeout_s=settings.header_timeout_s, body_silence_s=settings.body_silence_s)
            self.transport.abort()

    return BoundedProtocol
