"""Commands of the server topology: `tsumugi api`, `tsumugi worker ingest|tuning`, `tsumugi beat`.

Logs are JSON lines on stderr. Each process is ready when it says so: api by /readyz, the others by their port for
figures, which also serves /healthz (`worker.port`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from cli.output import DataDirOption
from cli.serving import CHATTY, ENDING, listen, serve, stop_starting, url_of
from core.settings import Settings

if TYPE_CHECKING:
    from workers.figures import FiguresPort

log = structlog.stdlib.get_logger(__name__)


class WorkerKind(StrEnum):
    """What a worker process takes."""

    INGEST = "ingest"
    TUNING = "tuning"


def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: settings, 127.0.0.1].")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="TCP port, 0 for a free one [default: settings, 8080].")
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Run an api process of the server topology until SIGTERM; more of them may run beside it."""
    from cli.server.api import api_process

    settings = _settings(data_dir)
    wanted = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = settings.model_copy(update={"http": settings.http.model_copy(update=wanted)})
    for number in ENDING:
        signal.signal(number, stop_starting)
    with listen(settings.http.host, settings.http.port) as listener, api_process(settings) as process:
        if process.bootstrap.created:
            log.warning("keys.admin_made", file=str(process.bootstrap.admin_key_file))

        def on_listening() -> None:
            log.info("api.listening", url=url_of(listener), pid=os.getpid())

        asyncio.run(serve(process, listener, settings.http, on_listening))
        log.info("api.stopped")


def worker(
    kind: Annotated[WorkerKind, typer.Argument(help="Which jobs it takes.")], data_dir: DataDirOption = None
) -> None:
    """Run a worker process of the server topology until SIGTERM; more of them may run beside it."""
    from cli.server.parts import on_stop_signal
    from cli.server.worker import run_ingest_worker, run_tuning_worker

    settings = _settings(data_dir)
    wait_for_stop = on_stop_signal()
    with _figures(settings) as on_ready:
        if kind is WorkerKind.INGEST:
            code = run_ingest_worker(settings, wait_for_stop, on_ready)
        else:
            on_ready()
            code = run_tuning_worker(settings, wait_for_stop)
    _leave(code)


def beat(data_dir: DataDirOption = None) -> None:
    """Run the clock of the server topology until SIGTERM: sweeps, schedules, canaries."""
    from cli.server.beat import run_beat
    from cli.server.parts import on_stop_signal

    settings = _settings(data_dir)
    wait_for_stop = on_stop_signal()
    with _figures(settings) as on_ready:
        code = run_beat(settings, wait_for_stop, on_ready)
    _leave(code)


def _settings(data_dir: object) -> Settings:
    from cli.server.parts import server_settings
    from core.log import configure

    settings = server_settings(**({"data_dir": data_dir} if data_dir is not None else {}))
    configure(settings.log_level, json=True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    return settings


def _figures(settings: Settings) -> FiguresPort:
    from workers.figures import FiguresPort

    return FiguresPort(settings.worker.host, settings.worker.port)


def _leave(code: int) -> None:
    """End without waiting for threads of libraries: what matters has been closed, and jobs are fenced."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
