"""`tsumugi up`: the embedded service behind its HTTP server, from the lock on the data dir to the last clean-up."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import structlog
import typer
import uvicorn
from rich.markup import escape

from cli.data_dir import exclusive, remove_service_note, write_service_note
from cli.embedded import EmbeddedService, embedded_service
from cli.output import CommandFailed, DataDirOption, JsonOption, console, print_json
from core.settings import Settings, load_settings

log = structlog.stdlib.get_logger(__name__)

_CHATTY = ("uvicorn.error", "celery.app.trace", "celery.worker.consumer.connection", "sentence_transformers")
"""Loggers whose INFO says what our own lines say already."""


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1].")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="TCP port, 0 for a free one [default: 8080].")
    ] = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C. With --json, logs are JSON lines and the address is one as well."""
    settings = _settings(data_dir, host, port)
    with exclusive(settings.data_dir, "tsumugi up"):
        from core.log import configure

        configure(settings.log_level, json=json_output)
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop_starting)
        listener = _listen(settings.http.host, settings.http.port)
        started = time.monotonic()
        with listener, embedded_service(settings, lambda line: None if json_output else _say(line)) as service:
            address = listener.getsockname()
            url = f"http://[{address[0]}]:{address[1]}" if ":" in address[0] else f"http://{address[0]}:{address[1]}"

            def on_listening() -> None:
                write_service_note(settings.data_dir, url)
                _announce(settings, service, url, time.monotonic() - started, json_output=json_output)

            try:
                asyncio.run(_serve(service, listener, settings.http.drain_timeout_s, on_listening))
            finally:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the rest takes seconds and must not be cut short
                remove_service_note(settings.data_dir)
        log.info("service.stopped")


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


async def _serve(
    service: EmbeddedService, listener: socket.socket, drain_timeout_s: float, on_listening: Callable[[], None]
) -> None:
    """Serve until a signal comes, then let running requests and jobs end, both within the same time."""
    config = uvicorn.Config(
        service.app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, round(drain_timeout_s)),
        server_header=False,
    )
    server = _Server(config, on_listening)
    loop = asyncio.get_running_loop()
    jobs_ended = threading.Thread(target=service.finish_drain, args=(drain_timeout_s,), name="drain")

    def on_signal(number: signal.Signals) -> None:
        if server.should_exit:  # asked twice: whoever asks has no more time
            log.warning("drain.hurried", signal=number.name)
            service.jobs.stopping.set()
            server.force_exit = True
            return
        log.info("drain.begun", signal=number.name, timeout_s=drain_timeout_s)
        service.begin_drain()
        jobs_ended.start()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await server.serve(sockets=[listener])
    if jobs_ended.ident is None:  # the server ended by itself, which it has no reason to
        service.begin_drain()
        jobs_ended.start()
    await asyncio.to_thread(jobs_ended.join)


def _stop_starting(_number: int, _frame: FrameType | None) -> None:
    """A signal before the server runs: unwind what has been started."""
    raise SystemExit(0)


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before anything else starts. Connections are refused until the server listens on it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CommandFailed(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    return listener


def _announce(settings: Settings, service: EmbeddedService, url: str, seconds: float, *, json_output: bool) -> None:
    key_file = service.bootstrap.admin_key_file
    if json_output:
        print_json({"url": url, "data_dir": str(settings.data_dir), "admin_key_file": str(key_file)})
        return
    if service.bootstrap.created:
        key = key_file.read_text(encoding="ascii").strip()
        console.print(f"[bold]admin key[/bold] {escape(key)}", soft_wrap=True)
        _say(f"shown this once; it is also in {key_file}")
    console.print(f"[bold green]ready[/bold green] {url} [dim]after {seconds:.1f} s; Ctrl-C stops it[/dim]")


def _say(line: str) -> None:
    console.print(f"[dim]{escape(line)}[/dim]", soft_wrap=True)


def _settings(data_dir: Any, host: str | None, port: int | None) -> Settings:
    settings = load_settings(**({"data_dir": data_dir} if data_dir is not None else {}))
    wanted = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    return settings.model_copy(update={"http": settings.http.model_copy(update=wanted)}) if wanted else settings
