"""A small HTTP port of a process that serves no requests: /healthz for whoever restarts it, /metrics for Prometheus.

/healthz is 503 until the process is ready, so that `depends_on: service_healthy` means what it says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import structlog
from prometheus_client import REGISTRY, generate_latest

log = structlog.stdlib.get_logger(__name__)


class FiguresPort:
    """Serves within a `with` block, whose value is called when the process is ready. Port 0: serves nothing."""

    def __init__(self, host: str, port: int) -> None:
        self._ready = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        if port:
            self._server = ThreadingHTTPServer((host, port), _handler(self._ready))

    def __enter__(self) -> Callable[[], None]:
        """Listen; not ready yet."""
        if self._server is not None:
            threading.Thread(target=self._server.serve_forever, name="figures", daemon=True).start()
            log.info("figures.listening", port=self._server.server_port)
        return self._ready.set

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _handler(ready: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/healthz":
                self._answer(200 if ready.is_set() else 503, b"ready\n" if ready.is_set() else b"starting\n")
            elif self.path == "/metrics":
                self._answer(200, generate_latest(REGISTRY))
            else:
                self._answer(404, b"not found\n")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes come every few seconds: say nothing."""

    return Handler
