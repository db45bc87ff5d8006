"""An HTTP server around the application, from the bound socket to the last answered request: `up` and `api` share it.

uvicorn's own signal handlers are left out: a signal here drains more than the HTTP server.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Protocol

import structlog
import uvicorn

from cli.connections import bounded_protocol
from cli.output import CommandFailed
from core.settings import HttpSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from api.draining import Draining

log = structlog.stdlib.get_logger(__name__)

CHATTY = ("uvicorn.error", "celery.app.trace", "celery.worker.consumer.connection", "sentence_transformers")
"""Loggers whose INFO says what our own lines say already."""


class Served(Protocol):
    """What stands behind the server, and how it ends."""

    @property
    def app(self) -> FastAPI:
        """The application."""
        ...

    def begin_drain(self) -> None:
        """Take nothing new; what runs goes on."""
        ...

    def finish_drain(self, timeout_s: float) -> None:
        """Wait for what runs besides HTTP requests."""
        ...

    def hurry(self) -> None:
        """Asked to stop a second time: let go of what runs."""
        ...


ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that drain: a terminal that goes away asks for no less care than a supervisor."""
LAST_ANSWERS_S = 2.0
"""For what was stopped to be told so, before its connection is dropped."""
LAST_THREADS_S = 20.0
"""For threads that still compute for nobody when everything else has ended."""
KEEP_ALIVE_S = 75
"""Longer than load balancers (60 s) and clients that wait for `Retry-After` keep an idle connection: who sends
must be first to close, or a request meets a closing connection and is lost without an answer."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, as ours drain the whole service; it says when it listens."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self._on_listening()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the handlers alone."""
        yield


async def serve(
    service: Served, listener: socket.socket, settings: HttpSettings, on_listening: Callable[[], None]
) -> None:
    """Serve until a signal comes, then let running requests and jobs end, both within the same time.

    For `drain_notice_s` before that, new requests are still taken while /readyz says no: a load balancer that looks
    meanwhile sends the next ones elsewhere, and none of them fails. What runs on when the time is over is answered 503.
    """
    drain_timeout_s = settings.drain_timeout_s
    config = uvicorn.Config(
        service.app,
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(drain_timeout_s + LAST_ANSWERS_S),
        server_header=False,
        http=bounded_protocol(settings),
        ws="none",  # there are none, and its import is a twentieth of a second
    )
    server = _Server(config, on_listening)
    draining: Draining = service.app.state.draining
    loop = asyncio.get_running_loop()
    jobs_ended = threading.Thread(target=service.finish_drain, args=(drain_timeout_s,), name="drain")

    def on_signal(number: signal.Signals) -> None:
        if jobs_ended.ident is not None:  # asked twice: whoever asks has no more time
            log.warning("drain.hurried", signal=number.name)
            service.hurry()
            stop_rest()
            loop.call_later(LAST_ANSWERS_S, drop_connections)
            return
        log.info("drain.begun", signal=number.name, timeout_s=drain_timeout_s)
        service.begin_drain()
        jobs_ended.start()
        loop.call_later(settings.drain_notice_s, stop_listening)

    def stop_listening() -> None:
        draining.refuse_new()
        server.should_exit = True
        loop.call_later(drain_timeout_s, stop_rest)

    def stop_rest() -> None:
        server.should_exit = True
        stopped = draining.stop_rest()
        if stopped:
            log.warning("drain.requests_stopped", count=stopped)

    def drop_connections() -> None:
        server.force_exit = True

    for number in ENDING:
        loop.add_signal_handler(number, on_signal, number)
    await server.serve(sockets=[listener])
    if jobs_ended.ident is None:  # the server ended by itself, which it has no reason to
        service.begin_drain()
        jobs_ended.start()
    await asyncio.to_thread(jobs_ended.join)


def end_by_force(after_s: float = LAST_THREADS_S) -> None:
    """End this process after so long, whatever threads still run in it: nothing that they do counts any more."""

    def end() -> None:
        names = [one.name for one in threading.enumerate() if not one.daemon]
        log.warning("service.threads_abandoned", threads=names)
        os._exit(0)

    watchdog = threading.Timer(after_s, end)
    watchdog.daemon = True
    watchdog.start()


def stop_starting(_number: int, _frame: FrameType | None) -> None:
    """A signal before the server runs: unwind what has been started."""
    raise SystemExit(0)


def listen(host: str, port: int) -> socket.socket:
    """Take the port before anything else starts. Connections are refused until the server listens on it.

    The protocol is named because asyncio sets TCP_NODELAY only on sockets that name it. Without, head and body of an
    answer are two segments, the second waits for the client's delayed acknowledgement, and every request that
    follows another on its connection takes 40 ms more.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CommandFailed(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Address of a bound socket as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
