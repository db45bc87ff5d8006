"""What every process of the server topology stands on: settings that fit, database, broker, events, jobs, blobs.

Processes of one service may start in any order and all at once. What only one of them may do (migrations, the first
key, the first index version) happens under `start_alone`.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from core.errors import InvalidInput
from core.settings import Settings, load_settings

if TYPE_CHECKING:
    from core.database import Database
    from core.jobs import JobStore
    from core.keys import Bootstrap
    from core.notify_redis import RedisNotifier
    from core.ports import BlobStore
    from core.queue import CeleryTaskQueue


@dataclass(frozen=True, slots=True)
class Parts:
    """Open parts of one process."""

    settings: Settings
    db: Database
    broker_url: str
    queue: CeleryTaskQueue
    notifier: RedisNotifier
    jobs: JobStore
    blobs: BlobStore
    bootstrap: Bootstrap


def server_settings(**overrides: object) -> Settings:
    """Settings of a server process.

    Raises:
        InvalidInput: `server_settings_missing`: names everything that several processes cannot do without.
    """
    settings = load_settings(**overrides).model_copy(update={"topology": "server"})
    missing = []
    if not settings.database_url.startswith("postgres"):
        missing.append("TSUMUGI_DATABASE__URL=postgresql://...")
    if settings.broker.url is None:
        missing.append("TSUMUGI_BROKER__URL=redis://...")
    if settings.retrieval.index != "qdrant":
        missing.append("TSUMUGI_RETRIEVAL__INDEX=qdrant (an Edge shard has one owner)")
    if missing:
        raise InvalidInput(f"the server topology needs {', '.join(missing)}", code="server_settings_missing")
    return settings


def open_parts(settings: Settings, stack: ExitStack, role: str = "server") -> Parts:
    """Open everything; `stack` closes it. role: what traces call this process.

    Raises:
        Unavailable: database or blob store cannot be used. A broker that is away is no obstacle: it is tried again.
    """
    from core.blobs import open_blobs
    from core.database import open_database
    from core.jobs import JobStore
    from core.keys import ensure_bootstrap
    from core.migrate import start_alone, upgrade
    from core.notify_redis import RedisNotifier
    from core.queue import CeleryTaskQueue
    from core.repositories.documents import follow_jobs
    from core.tracing import start_tracing, stop_tracing

    start_tracing(settings.telemetry, role)
    stack.callback(stop_tracing)
    for folder in (settings.data_dir, settings.adapters_dir, settings.runs_dir):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    assert settings.broker.url is not None
    broker_url = settings.broker.url.get_secret_value()
    db = open_database(settings)
    stack.callback(db.close)
    with start_alone(db):
        upgrade(db)
        bootstrap = ensure_bootstrap(db, settings)
    blobs = open_blobs(settings)
    queue = CeleryTaskQueue(broker_url, visibility_timeout_s=settings.broker.visibility_timeout_s)
    stack.callback(queue.close)
    notifier = RedisNotifier(broker_url)
    stack.callback(notifier.close)
    jobs = JobStore(db, settings, queue, notifier)
    follow_jobs(jobs)  # whoever moves a job moves its document with it
    return Parts(settings, db, broker_url, queue, notifier, jobs, blobs, bootstrap)


class StopSignal:
    """A request to stop by SIGTERM, SIGINT or SIGHUP. Calling it blocks until one comes.

    A pipe, not an Event: a handler that runs while the main thread is inside `Event.wait` could deadlock on its lock.
    """

    def __init__(self) -> None:
        self._reader, writer = os.pipe()

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            os.write(writer, b"x")

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, on_signal)

    def __call__(self) -> None:
        """Block until one comes."""
        self.within(None)

    def within(self, seconds: float | None) -> bool:
        """Whether one has come, or comes within so long; it stays so."""
        return bool(select.select([self._reader], [], [], seconds)[0])


def on_stop_signal() -> StopSignal:
    """Install handlers for SIGTERM, SIGINT and SIGHUP."""
    return StopSignal()
