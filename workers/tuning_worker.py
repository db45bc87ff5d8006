"""The training worker: a process of its own, so that a training can neither stall nor crash the service.

    python -m workers.tuning_worker --data-dir DIR --broker redis+socket:///path/to.sock

SIGTERM: the training saves what it has and its job goes back to the queue. A dead parent: everything ends at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import structlog

from core import log as logs
from core.database import Database, open_database
from core.jobs import JobStore
from core.notify_redis import RedisNotifier
from core.processes import end_descendants, end_with_parent
from core.queue import CeleryTaskQueue, Queue
from core.settings import Settings, load_settings
from core.tracing import start_tracing, stop_tracing
from workers.context import WorkerContext, set_context

log = structlog.stdlib.get_logger(__name__)

SAVE_TIMEOUT_S = 60.0
"""After SIGTERM, how long the training may take to write its checkpoint."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT."""
    options = _parser().parse_args(arguments)
    settings = load_settings(data_dir=options.data_dir)
    logs.configure(settings.log_level, json=True)
    if options.parent_pid is not None:
        end_with_parent(options.parent_pid)
    broker_url = options.broker or (settings.broker.url.get_secret_value() if settings.broker.url else None)
    if broker_url is None:
        log.error("worker.no_broker", hint="give --broker, or set TSUMUGI_BROKER__URL")
        return 2
    return run(settings, broker_url, wait_for_stop=on_stop_signal())


def on_stop_signal() -> Callable[[], None]:
    """Install handlers for SIGTERM and SIGINT; returns a function that blocks until one comes.

    A pipe, not an Event: a handler that runs while the main thread is inside `Event.wait` could deadlock on its lock.
    """
    reader, writer = os.pipe()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        os.write(writer, b"x")

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)

    def wait() -> None:
        os.read(reader, 1)

    return wait


def run(settings: Settings, broker_url: str, wait_for_stop: Callable[[], None]) -> int:
    """Consume the tuning queue, one training at a time, until told to stop."""
    from workers.app import create_celery
    from workers.threads import ThreadsWorker

    start_tracing(settings.telemetry, "tuning")
    db = open_database(settings)
    queue = CeleryTaskQueue(broker_url, visibility_timeout_s=settings.broker.visibility_timeout_s)
    notifier = RedisNotifier(broker_url)
    jobs = JobStore(db, settings, queue, notifier)
    set_context(build_context(settings, db, jobs))
    worker = ThreadsWorker(create_celery(settings, broker_url), [Queue.TUNING], concurrency=1, name="tuning")
    worker.start()
    log.info("worker.started", pid=os.getpid())
    wait_for_stop()
    worker.begin_stop()
    jobs.stopping.set()  # the lease raises Interrupted at its next check; the runner saves, the job goes back
    ended = worker.join(SAVE_TIMEOUT_S)
    left = end_descendants()
    log.info("worker.stopped", clean=ended, processes_ended=left)
    notifier.close()
    queue.close()
    db.close()
    stop_tracing()
    return 0 if ended else 1


def build_context(settings: Settings, db: Database, jobs: JobStore) -> WorkerContext:
    """Composition root of this process: no index, no engine; both live in the service."""
    from tuning.build import build_runner

    return WorkerContext(settings=settings, jobs=jobs, tuning_runner=build_runner(settings, db, jobs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers.tuning_worker", description="Trains adapters.")
    parser.add_argument("--data-dir", type=Path, required=True, help="Folder with all state.")
    parser.add_argument("--broker", help="Redis URL; default: the settings.")
    parser.add_argument("--parent-pid", type=int, help="End when this process, our parent, ends.")
    return parser


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # A training thread that ignored the stop must not hold up the exit: its job is fenced, its children are gone.
    os._exit(code)
