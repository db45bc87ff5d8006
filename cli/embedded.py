"""The embedded topology: everything in one process, Redis and the training worker as children. One composition root.

What is started is stopped in the reverse order: first nothing new comes in, then what runs ends or goes back to the
queue, then children, engine, index and database close.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cli.child import SupervisedChild
from cli.redis_child import RedisChild
from core.environment import STORAGE_CODES
from core.errors import Unavailable
from core.inference_imports import take_whole_torch
from core.interpreter import settle, starting, take_short_turns
from core.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from core.database import Database
    from core.jobs import JobStore
    from core.keys import Bootstrap
    from core.ports import BlobStore
    from erasure.retention import Retention
    from erasure.runner import ErasureRunner
    from generation.build import Generation
    from generation.evaluation.runner import EvaluationRunner
    from generation.evaluation.service import EvaluationService
    from ingest.rebuild import IndexBuilder
    from retrieval.live import Retrieval
    from workers.beat import Beat
    from workers.context import WorkerContext
    from workers.desk import Desk
    from workers.threads import ThreadsWorker

log = structlog.stdlib.get_logger(__name__)

REDIS_STOP_S = 10.0
TRAINER_STOP_S = 75.0
"""A training that is told to stop writes a checkpoint first, for which its worker allows it a minute."""

Say = Callable[[str], None]


@dataclass
class EmbeddedService:
    """A running service without its HTTP server, which `cli.up` puts in front."""

    app: FastAPI
    draining: threading.Event
    bootstrap: Bootstrap
    jobs: JobStore
    worker: ThreadsWorker
    desk: Desk
    beat: Beat

    def settle(self) -> None:
        """Do what a start leaves for later, in a thread, once requests are answered."""

        def work() -> None:
            if "torch" in sys.modules:
                take_whole_torch()
            settle()

        threading.Thread(target=work, name="settle", daemon=True).start()

    def begin_drain(self) -> None:
        """Take no new jobs and end long event streams; what runs goes on."""
        self.draining.set()
        self.worker.begin_stop()

    def hurry(self) -> None:
        """Hand the running jobs back to the queue now."""
        self.jobs.stopping.set()

    def finish_drain(self, timeout_s: float) -> None:
        """Wait for the running jobs; those that need longer are handed back to the queue."""
        if not self.worker.join(timeout_s):
            log.info("drain.jobs_handed_back", after_s=round(timeout_s, 1))
            self.jobs.stopping.set()
            if not self.worker.join(10.0):
                log.warning("drain.worker_abandoned")  # its lease is fenced by the next start
        self.desk.close(10.0)  # an evaluation has let go when the draining began
        self.beat.stop()


@contextmanager
def embedded_service(settings: Settings, say: Say) -> Iterator[EmbeddedService]:
    """Build and start everything for the length of the block. The caller holds the data dir's lock.

    say: told what happens, one short line a step.

    Raises:
        Unavailable: a part does not start.
    """
    with ExitStack() as stack:
        with starting():
            service = _start(settings, stack, say)
        yield service


def _start(settings: Settings, stack: ExitStack, say: Say) -> EmbeddedService:
    from core.tracing import start_tracing, stop_tracing

    started = time.monotonic()
    take_short_turns()
    start_tracing(settings.telemetry, "embedded")
    stack.callback(stop_tracing)
    for folder in (settings.data_dir, settings.redis_dir, settings.runs_dir, settings.adapters_dir):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ThreadPoolExecutor(1, thread_name_prefix="base-model") as pool:
        # The slowest part (seconds of imports, half a minute at the very first start) runs beside the others.
        base = pool.submit(_prepare_base, settings, say)
        db, bootstrap = _open_database(settings, stack)
        broker_url = _start_broker(settings, stack, say)
        base.result()

    from core.blobs import open_blobs
    from core.jobs import JobStore
    from core.notify import Notifier
    from core.queue import CeleryTaskQueue
    from generation.build import build_generation
    from retrieval.build import build_retrieval
    from retrieval.reconcile import note_clean_stop
    from retrieval.switch import IndexService

    queue = CeleryTaskQueue(broker_url, visibility_timeout_s=settings.broker.visibility_timeout_s)
    stack.callback(queue.close)
    notifier = Notifier()
    jobs = JobStore(db, settings, queue, notifier)
    blobs = open_blobs(settings)
    say("loading the models and opening the index")
    retrieval = build_retrieval(settings, db)
    stack.callback(retrieval.close)
    clean_stop = settings.index_dir / "clean-stop.json"
    generation = build_generation(settings, db, retrieval)
    stack.callback(generation.close)

    from api.app import create_app
    from api.services import Check, Services
    from ingest.build import build_ingest
    from tuning.build import build_tuning
    from workers.context import WorkerContext

    ingest = build_ingest(settings, db, blobs, jobs, retrieval)
    stack.callback(ingest.close)
    tuning = build_tuning(settings, db, blobs, jobs, generation.registry, retrieval, generation.base)
    if _recover(db, blobs, jobs, retrieval, ingest.builder, clean_stop, say):
        stack.callback(note_clean_stop, db, retrieval, clean_stop)
    index = IndexService(db, jobs, retrieval, settings)
    if not index.status()[0].configured:
        say("the settings make another index than the one that serves: `tsumugi index build`, then `switch`")
    draining = threading.Event()
    evaluations = _build_evaluations(settings, stack, db, jobs, generation, draining)
    context = WorkerContext(
        settings=settings,
        jobs=jobs,
        ingest_pipeline=ingest.pipeline,
        index_builder=ingest.builder,
        dataset_builder=tuning.builder,
        judge_calibrator=tuning.calibrator,
        evaluation_runner=evaluations.runner,
        erasure_runner=_build_erasure(settings, db, blobs, jobs, retrieval, generation),
        retention=_build_retention(settings, db, blobs),
        desk=evaluations.desk,
        tuning_runner=tuning.runner,
        schedules=tuning.schedules,
        canaries=generation.canaries,
    )
    worker, beat = _start_workers(settings, stack, context, broker_url)
    trainer = _start_trainer(settings, stack, broker_url)
    services = Services(
        settings=settings,
        db=db,
        jobs=jobs,
        notifier=notifier,
        redis_url=broker_url,
        blobs=blobs,
        ingest=ingest.service,
        searcher=retrieval.searcher,
        index=index,
        answers=generation.answers,
        registry=generation.registry,
        router=generation.router,
        engine=generation.engine,
        tuning=tuning.service,
        datasets=tuning.datasets,
        schedules=tuning.schedules,
        evaluations=evaluations.service,
        page_images=ingest.page_images,
        draining=draining,
        checks=(
            Check("broker", queue.ping),
            Check("index", retrieval.count),
            Check("index_incomplete", retrieval.check_complete),
            Check("generator", generation.engine.ping),
            Check("ingest_worker", lambda: _require(worker.alive and worker.ready.is_set(), "the ingest worker")),
            Check("beat", lambda: _require(beat.alive, "beat")),
            Check("tuning_worker", lambda: _require(trainer.alive, "the tuning worker")),
        ),
    )
    log.info("service.built", seconds=round(time.monotonic() - started, 2))
    return EmbeddedService(
        app=create_app(services),
        draining=draining,
        bootstrap=bootstrap,
        jobs=jobs,
        worker=worker,
        desk=evaluations.desk,
        beat=beat,
    )


@dataclass(frozen=True, slots=True)
class _Evaluations:
    service: EvaluationService
    runner: EvaluationRunner
    desk: Desk


def _build_evaluations(
    settings: Settings,
    stack: ExitStack,
    db: Database,
    jobs: JobStore,
    generation: Generation,
    draining: threading.Event,
) -> _Evaluations:
    from generation.evaluation.runner import EvaluationRunner
    from generation.evaluation.service import EvaluationService
    from workers.desk import Desk

    desk = Desk("evaluations")
    stack.callback(desk.close, 10.0)
    stack.callback(draining.set)
    runner = EvaluationRunner(db, generation.answers, settings, draining)
    return _Evaluations(EvaluationService(db, jobs, generation.router), runner, desk)


def _build_erasure(
    settings: Settings, db: Database, blobs: BlobStore, jobs: JobStore, retrieval: Retrieval, generation: Generation
) -> ErasureRunner:
    from erasure.build import build_erasure

    return build_erasure(settings, db, blobs, jobs, retrieval, lambda: generation.engine)


def _build_retention(settings: Settings, db: Database, blobs: BlobStore) -> Retention:
    from erasure.retention import Retention

    return Retention(db, settings, blobs)


def _prepare_base(settings: Settings, say: Say) -> None:
    from core.inference_imports import import_for_inference
    from generation.build import build_base

    if not any(settings.models_dir.glob("*/card.json")):
        say("preparing the base model (once, about half a minute)")
    build_base(settings)
    if settings.generation.engine == "transformers":
        import_for_inference()  # in this thread, beside database and broker


def _open_database(settings: Settings, stack: ExitStack) -> tuple[Database, Bootstrap]:
    from core.database import open_database
    from core.keys import ensure_bootstrap
    from core.migrate import upgrade

    db = open_database(settings)
    stack.callback(db.close)
    upgrade(db)
    return db, ensure_bootstrap(db, settings)


def _start_broker(settings: Settings, stack: ExitStack, say: Say) -> str:
    """URL of the broker: the configured one, else a Redis of our own."""
    if settings.broker.url is not None:
        return settings.broker.url.get_secret_value()
    redis = RedisChild(settings.data_dir, settings.redis_dir, settings.data_dir / "logs" / "redis.log")
    stack.callback(redis.stop, REDIS_STOP_S)
    redis.start()
    say(f"{redis.binary.name} {redis.binary.parent} is up")
    return redis.url


def _recover(
    db: Database,
    blobs: BlobStore,
    jobs: JobStore,
    retrieval: Retrieval,
    builder: IndexBuilder,
    clean_stop: Path,
    say: Say,
) -> bool:
    """Take up what a predecessor left: its messages are dropped and sent anew, its running jobs queued again.

    We hold the data dir's lock, so no worker of it can be alive, and the broker is ours alone. False: the disk has no
    room to bring the index in line; what it holds is served, and the next start compares again.
    """
    from core.blobs import FolderBlobStore
    from ingest.vectors import passage_vectors
    from retrieval.reconcile import reconcile, take_clean_stop

    orphans = jobs.recover_orphans()
    if orphans:
        say(f"{orphans} interrupted jobs go back to the queue")
    clean = take_clean_stop(db, retrieval, clean_stop)
    if not clean and isinstance(blobs, FolderBlobStore):
        blobs.drop_unfinished()
    try:
        if builder.lacks(retrieval.active):
            say("the index was made by an older version of this program: building it anew")
            builder.fill(
                retrieval.active, lambda done: log.info("index.filling", version=retrieval.index_version, done=done)
            )
        if not clean:  # after the filling: what that writes would be embedded twice
            report = reconcile(db, retrieval, repair=True, embed=passage_vectors)
            if not report.clean:
                log.warning("index.reconciled", report=str(report))
                say("the index was brought back in line with the database")
    except Unavailable as full:
        if full.code not in STORAGE_CODES:
            raise
        log.warning("index.not_reconciled", code=full.code, detail=full.detail)
        say(f"the index could not be brought in line with the database: {full.detail}")
        return False
    return True


def _start_workers(
    settings: Settings, stack: ExitStack, context: WorkerContext, broker_url: str
) -> tuple[ThreadsWorker, Beat]:
    from core.queue import Queue
    from workers.app import create_celery
    from workers.beat import Beat
    from workers.context import set_context
    from workers.threads import ThreadsWorker

    set_context(context)
    stack.callback(set_context, None)
    threads = settings.ingest.worker_threads
    app = create_celery(settings, broker_url)
    worker = ThreadsWorker(app, [Queue.INGEST, Queue.MAINTENANCE, Queue.EVALUATION], concurrency=threads)
    worker.start()
    stack.callback(worker.stop, 10.0)
    beat = Beat(context)
    beat.start()
    stack.callback(beat.stop)
    return worker, beat


def _start_trainer(settings: Settings, stack: ExitStack, broker_url: str) -> SupervisedChild:
    command = [sys.executable, "-m", "workers.tuning_worker", "--data-dir", str(settings.data_dir)]
    command += ["--broker", broker_url, "--parent-pid", str(os.getpid())]
    trainer = SupervisedChild(
        "tuning-worker",
        command,
        environment=dict(os.environ),
        log_file=settings.data_dir / "logs" / "tuning-worker.log",
        watches_parent=True,
    )
    trainer.start()
    stack.callback(trainer.stop, TRAINER_STOP_S)
    return trainer


def _require(alive: bool, name: str) -> None:
    if not alive:
        raise Unavailable(f"{name} does not run; it is started again by itself")
