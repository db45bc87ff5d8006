"""Outermost layer of every request: its id, log context, security headers, access log, figures, last resort for bugs.

Plain ASGI, because Starlette's BaseHTTPMiddleware runs the app in another task, where cancellation and
context get lost.
"""

from __future__ import annotations

import re
import time
import uuid
from contextlib import nullcontext
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem_response
from api.metrics import HttpMetrics
from core.tracing import TRACEPARENT, span

log = structlog.stdlib.get_logger("api.errors")
access_log = structlog.stdlib.get_logger("api.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")
QUIET_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Logged at debug level: probes come every few seconds."""
_OPEN_PATHS: Final = QUIET_PATHS | {"/docs", "/openapi.json"}

_DOCS_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page at /docs has a style of its own and no script; everything else may load nothing at all."""


class ContextMiddleware:
    """Gives each request an id (the caller's own if it is sane), and answers bugs with a problem that says nothing."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        parent = Headers(scope=scope).get(TRACEPARENT)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.perf_counter()
        status = 0
        sent_bytes = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                _add_headers(headers, scope["path"], request_id)
                headers.update(scope["state"].get("headers", {}))
            elif message["type"] == "http.response.body":
                sent_bytes += len(message.get("body", b""))
            await send(message)

        self._metrics.in_flight.inc()
        quiet = scope["path"] in QUIET_PATHS
        trace = nullcontext() if quiet else span(f"http {scope['method']}", parent, request_id=request_id)
        try:
            with trace:
                await self.app(scope, receive, send_with_headers)
        except Exception:
            log.exception("unexpected error", method=scope["method"], path=scope["path"])
            if status:
                raise  # too late for an answer; the server drops the connection
            response = problem_response(
                scope,
                status=500,
                code="internal",
                detail="an unexpected error happened; the log holds it under this request id",
            )
            await response(scope, receive, send_with_headers)
        finally:
            if "held" in scope["state"]:
                scope["state"]["held"].close()
            seconds = time.perf_counter() - started
            self._metrics.in_flight.dec()
            route = route_template(scope)
            self._metrics.observe(scope["method"], route, status, seconds)
            write = access_log.debug if scope["path"] in QUIET_PATHS else access_log.info
            write(
                "request",
                method=scope["method"],
                path=scope["path"],
                route=route,
                status=status,
                duration_ms=round(seconds * 1000, 1),
                sent_bytes=sent_bytes,
            )


def route_template(scope: Scope) -> str:
    """Path with its parameters unfilled (`/v1/jobs/{job_id}`): a metric label must not be made of ids."""
    if scope["path"] in _OPEN_PATHS:
        return str(scope["path"])
    return str(scope.get("state", {}).get("route_template", "unmatched"))


def _add_headers(headers: MutableHeaders, path: str, request_id: str) -> None:
    headers["X-Request-ID"] = request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "DENY"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers["Cross-Origin-Opener-Policy"] = "same-origin"
    headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=()"
    headers.setdefault("Cache-Control", "no-store")
    policy = _DOCS_POLICY if path == "/docs" else "default-src 'none'; frame-ancestors 'none'; sandbox"
    headers.setdefault("Content-Security-Policy", policy)
