"""How requests end when the process does: none is cut off without an answer, and none is answered 500 for it.

First nothing new is taken: 503 with `Retry-After`. What runs may end. What still runs when the time is over is stopped
and told the same, a stream by its last event.
"""

from __future__ import annotations

from typing import Final

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem_of, request_id_of, response_of
from api.streaming import sse
from core.errors import Interrupted

RETRY_AFTER_S: Final = 5
"""A successor needs about so long to start."""
_PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})


class Draining:
    """Where the process is on its way out. Belongs to the event loop: call it from there."""

    def __init__(self) -> None:
        self.refuses = False
        """Whether new requests are refused."""
        self._running: set[anyio.CancelScope] = set()

    def refuse_new(self) -> None:
        """Take no more requests."""
        self.refuses = True

    def stop_rest(self) -> int:
        """Stop what still runs; how many requests."""
        self.refuses = True
        for scope in self._running:
            scope.cancel()
        return len(self._running)

    def begun(self, scope: anyio.CancelScope) -> None:
        """A request runs."""
        self._running.add(scope)

    def ended(self, scope: anyio.CancelScope) -> None:
        """It has ended."""
        self._running.discard(scope)


class DrainMiddleware:
    """Refuses and stops requests as `Draining` says."""

    def __init__(self, app: ASGIApp, draining: Draining) -> None:
        self.app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request, or say that another process must."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self.app(scope, receive, send)
            return
        if self._draining.refuses:
            await response_of(scope, _stopping())(scope, receive, send)
            return
        started: Message | None = None
        ended = False

        async def watched(message: Message) -> None:
            nonlocal started, ended
            if message["type"] == "http.response.start":
                started = message
            elif message["type"] == "http.response.body":
                ended = not message.get("more_body", False)
            await send(message)

        with anyio.CancelScope() as limit:
            self._draining.begun(limit)
            try:
                await self.app(scope, receive, watched)
            finally:
                self._draining.ended(limit)
        if not limit.cancelled_caught or ended:
            return
        if started is None:
            await response_of(scope, _stopping())(scope, receive, send)
        elif Headers(raw=started["headers"]).get("content-type", "").startswith("text/event-stream"):
            await send({"type": "http.response.body", "body": _last_event(scope), "more_body": False})
        # Any other body was cut in its middle, which only a dropped connection can say.


def _stopping() -> Interrupted:
    return Interrupted("this process is stopping; send the request again", extra={"retry_after_s": RETRY_AFTER_S})


def _last_event(scope: Scope) -> bytes:
    """An `error` event that both our clients and OpenAI's raise on."""
    problem = problem_of(_stopping(), request_id_of(scope))
    error = {"message": problem["detail"], "type": "server_error", "param": None, "code": problem["code"]}
    return sse("error", {**problem, "error": error})
