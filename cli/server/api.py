"""`tsumugi api`: an HTTP process of the server topology; as many as are wanted behind one load balancer.

It accepts documents, answers questions and works on evaluations, which only ask; it ingests and trains nothing. With
an embedder and a generator over HTTP
(`retrieval.embedder = endpoint`, `generation.engine = vllm` or `openai`) it never imports torch and starts in seconds.
What it keeps in memory between requests, and how it follows changes made by others: docs/server.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from cli.server.index import open_retrieval
from cli.server.parts import Parts, open_parts
from core.errors import Unavailable
from core.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from api.services import Check
    from core.jobs import JobStore
    from core.keys import Bootstrap
    from retrieval.live import Retrieval
    from workers.context import WorkerContext
    from workers.threads import ThreadsWorker

log = structlog.stdlib.get_logger(__name__)


@dataclass
class ApiProcess:
    """A running api process without its HTTP server."""

    app: FastAPI
    draining: threading.Event
    bootstrap: Bootstrap
    jobs: JobStore
    worker: ThreadsWorker

    def begin_drain(self) -> None:
        """Say so in /readyz, end long event streams and hand a running evaluation back to the queue."""
        self.draining.set()
        self.worker.begin_stop()

    def finish_drain(self, timeout_s: float) -> None:
        """Nothing runs here but requests, and an evaluation that has been told to stop."""
        if not self.worker.join(timeout_s):
            log.warning("drain.evaluation_abandoned")  # its lease is fenced by the next attempt

    def hurry(self) -> None:
        """The server drops its connections; there is nothing else to drop."""


@contextmanager
def api_process(settings: Settings) -> Iterator[ApiProcess]:
    """Build the process for the length of the block.

    Raises:
        Unavailable: a part cannot be used.
    """
    with ExitStack() as stack:
        yield _build(open_parts(settings, stack, "api"), stack)


def _build(parts: Parts, stack: ExitStack) -> ApiProcess:
    from api.app import create_app
    from api.services import Services
    from generation.build import build_generation
    from generation.evaluation.runner import EvaluationRunner
    from generation.evaluation.service import EvaluationService
    from ingest.accept import IngestService
    from ingest.page_images import PageImages
    from ingest.sandbox import Sandbox
    from retrieval.switch import IndexService
    from tuning.build import build_tuning
    from workers.context import WorkerContext

    settings, db, jobs = parts.settings, parts.db, parts.jobs
    retrieval = open_retrieval(parts, threading.Event().wait)
    if retrieval is None:
        raise Unavailable("stopped while it waited for the index", code="index_unreachable")
    stack.callback(retrieval.close)
    index = IndexService(db, jobs, retrieval, settings)
    index.fill_serving()
    index.settle()
    generation = build_generation(settings, db, retrieval)
    stack.callback(generation.close)
    tuning = build_tuning(settings, db, parts.blobs, jobs, generation.registry, retrieval, generation.base)
    draining = threading.Event()
    runner = EvaluationRunner(db, generation.answers, settings, draining)
    worker = _start_worker(parts, stack, WorkerContext(settings, jobs, evaluation_runner=runner))
    stack.callback(draining.set)
    sandbox = Sandbox(settings.ingest, settings.data_dir / "tmp" / "unpack")
    stack.callback(sandbox.close)
    page_images = PageImages(db, parts.blobs, settings)
    stack.callback(page_images.close)
    services = Services(
        settings=settings,
        db=db,
        jobs=jobs,
        notifier=parts.notifier,
        redis_url=parts.broker_url,
        blobs=parts.blobs,
        ingest=IngestService(db, parts.blobs, jobs, settings, retrieval, sandbox),
        searcher=retrieval.searcher,
        index=index,
        answers=generation.answers,
        registry=generation.registry,
        router=generation.router,
        engine=generation.engine,
        tuning=tuning.service,
        datasets=tuning.datasets,
        schedules=tuning.schedules,
        evaluations=EvaluationService(db, jobs, generation.router),
        page_images=page_images,
        draining=draining,
        checks=_checks(parts, retrieval, generation.engine.ping),
    )
    return ApiProcess(create_app(services), draining, parts.bootstrap, jobs, worker)


def _start_worker(parts: Parts, stack: ExitStack, context: WorkerContext) -> ThreadsWorker:
    """Evaluations are worked on where questions are answered, one at a time."""
    from core.queue import Queue
    from workers.app import create_celery
    from workers.context import set_context
    from workers.threads import ThreadsWorker

    set_context(context)
    stack.callback(set_context, None)
    app = create_celery(parts.settings, parts.broker_url)
    worker = ThreadsWorker(app, [Queue.EVALUATION], concurrency=1, name="evaluation")
    worker.start()
    stack.callback(worker.stop, 10.0)
    return worker


def _checks(parts: Parts, retrieval: Retrieval, ping: Callable[[], object]) -> tuple[Check, ...]:
    """Dependencies of a request. A dead worker is none: documents wait for it, and answers need it not."""
    from api.services import Check
    from core.blobs_s3 import S3BlobStore

    checks = [
        Check("broker", parts.queue.ping),
        Check("index", retrieval.count),
        Check("index_incomplete", retrieval.check_complete),
        Check("generator", ping),
    ]
    if isinstance(parts.blobs, S3BlobStore):
        checks.append(Check("blobs", parts.blobs.ping))
    return tuple(checks)
