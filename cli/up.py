"""`tsumugi up`: the embedded service behind its HTTP server, from the lock on the data dir to the last clean-up."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import Annotated, Any

import structlog
import typer
from rich.markup import escape

from cli.data_dir import exclusive, remove_service_note, write_service_note
from cli.embedded import EmbeddedService, embedded_service
from cli.output import DataDirOption, JsonOption, console, print_json
from cli.serving import CHATTY, ENDING, end_by_force, listen, serve, stop_starting, url_of
from core.settings import Settings, load_settings

log = structlog.stdlib.get_logger(__name__)


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
    with exclusive(settings.data_dir, "tsumugi up", until_exit=True):
        from core.log import configure

        configure(settings.log_level, json=json_output)
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        for number in ENDING:
            signal.signal(number, stop_starting)
        listener = listen(settings.http.host, settings.http.port)
        started = time.monotonic()
        with listener, embedded_service(settings, lambda line: None if json_output else _say(line)) as service:
            url = url_of(listener)

            def on_listening() -> None:
                write_service_note(settings.data_dir, url)
                _announce(settings, service, url, time.monotonic() - started, json_output=json_output)
                service.settle()

            try:
                asyncio.run(serve(service, listener, settings.http, on_listening))
            finally:
                for number in ENDING:
                    signal.signal(number, signal.SIG_IGN)  # the rest takes seconds and must not be cut short
                remove_service_note(settings.data_dir)
        log.info("service.stopped")
        end_by_force()


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
