"""`tsumugi worker`: a process that takes jobs. `ingest` works where the index can be written, `tuning` where it trains.

A worker that is killed loses nothing: its jobs are fenced by their attempt number and queued again, by the sweeper of
the same machine at once, by that of another machine when the heartbeat is old.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog

from cli.server.index import open_retrieval
from cli.server.keeping import kept_up
from cli.server.parts import Parts, StopSignal, open_parts
from core.interpreter import take_short_turns
from core.settings import Settings

if TYPE_CHECKING:
    from core.ports import Engine

log = structlog.stdlib.get_logger(__name__)

HAND_BACK_S = 10.0
"""After the drain, how long jobs that were told to stop may take to go back to the queue."""


def run_ingest_worker(settings: Settings, wait_for_stop: StopSignal, on_ready: Callable[[], None]) -> int:
    """Consume the queues `ingest` and `maintenance` until told to stop; returns the exit code."""
    take_short_turns()
    with ExitStack() as stack:
        return _ingest(open_parts(settings, stack, "ingest"), stack, wait_for_stop, on_ready)


def run_tuning_worker(settings: Settings, wait_for_stop: Callable[[], None]) -> int:
    """Consume the queue `tuning`, one training at a time, until told to stop; returns the exit code."""
    from core.database import open_database
    from erasure.storage import drop_run_folders
    from workers.tuning_worker import run

    with ExitStack() as stack:
        parts = open_parts(settings, stack, "tuning")
        broker_url = parts.broker_url
    with ExitStack() as stack:
        db = open_database(settings)
        stack.callback(db.close)
        stack.enter_context(kept_up("run-folders", lambda: drop_run_folders(db, settings.runs_dir)))
        return run(settings, broker_url, wait_for_stop)


def _ingest(parts: Parts, stack: ExitStack, wait_for_stop: StopSignal, on_ready: Callable[[], None]) -> int:
    from core.queue import Queue
    from erasure.build import build_erasure
    from erasure.storage import drop_run_folders
    from generation.adapters.registry import AdapterRegistry
    from generation.build import build_remote
    from ingest.build import build_ingest
    from retrieval.switch import IndexService
    from tuning.build import build_tuning
    from workers.app import create_celery
    from workers.context import WorkerContext, set_context
    from workers.threads import ThreadsWorker

    settings, db, jobs = parts.settings, parts.db, parts.jobs
    retrieval = open_retrieval(parts, wait_for_stop.within)
    if retrieval is None:
        return 0
    stack.callback(retrieval.close)
    ingest = build_ingest(settings, db, parts.blobs, jobs, retrieval)
    stack.callback(ingest.close)
    tuning = build_tuning(settings, db, parts.blobs, jobs, AdapterRegistry(db, settings, None), retrieval)
    index = IndexService(db, jobs, retrieval, settings)
    index.fill_serving()
    stack.enter_context(kept_up("index-keeper", index.settle))
    stack.enter_context(kept_up("run-folders", lambda: drop_run_folders(db, settings.runs_dir)))

    @functools.cache
    def engine() -> Engine | None:
        """Proves an adapter that is to take a retired one's place; most workers never need it."""
        remote = build_remote(settings, db)
        if remote is None:
            return None
        stack.callback(remote.engine.close)
        return remote.engine

    set_context(
        WorkerContext(
            settings=settings,
            jobs=jobs,
            ingest_pipeline=ingest.pipeline,
            index_builder=ingest.builder,
            dataset_builder=tuning.builder,
            judge_calibrator=tuning.calibrator,
            erasure_runner=build_erasure(settings, db, parts.blobs, jobs, retrieval, engine),
            tuning_runner=tuning.runner,
            schedules=tuning.schedules,
        )
    )
    stack.callback(set_context, None)
    app = create_celery(settings, parts.broker_url)
    worker = ThreadsWorker(
        app, [Queue.INGEST, Queue.MAINTENANCE], concurrency=settings.ingest.worker_threads, name="ingest"
    )
    worker.start()
    log.info("worker.started", pid=os.getpid(), queues=[Queue.INGEST.value, Queue.MAINTENANCE.value])
    on_ready()
    wait_for_stop()
    worker.begin_stop()
    ended = worker.join(settings.http.drain_timeout_s)
    if not ended:
        jobs.stopping.set()
        ended = worker.join(HAND_BACK_S)
    log.info("worker.stopped", clean=ended)
    return 0 if ended else 1
