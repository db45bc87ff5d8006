"""`tsumugi api`: an HTTP process of the server topology; as many as are wanted behind one load balancer.

It accepts documents and answers questions; it ingests and trains nothing. With an embedder and a generator over HTTP
(`retrieval.embedder = endpoint`, `generation.engine = vllm` or `openai`) it never imports torch and starts in seconds.
What it keeps in memory between requests, and how it follows changes made by others: docs/server.md.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from cli.server.parts import Parts, open_parts
from core.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from api.services import Check
    from core.jobs import JobStore
    from core.keys import Bootstrap

log = structlog.stdlib.get_logger(__name__)


@dataclass
class ApiProcess:
    """A running api process without its HTTP server."""

    app: FastAPI
    draining: threading.Event
    bootstrap: Bootstrap
    jobs: JobStore

    def begin_drain(self) -> None:
        """Say so in /readyz and end long event streams."""
        self.draining.set()

    def finish_drain(self, timeout_s: float) -> None:
        """Nothing runs here but requests."""

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
    from core.migrate import start_alone
    from generation.build import build_generation
    from ingest.accept import IngestService
    from retrieval.build import build_retrieval
    from retrieval.switch import IndexService
    from tuning.build import build_tuning

    settings, db, jobs = parts.settings, parts.db, parts.jobs
    with start_alone(db):  # the first process registers the index version and makes its collection
        retrieval = build_retrieval(settings, db)
    stack.callback(retrieval.close)
    generation = build_generation(settings, db, retrieval)
    stack.callback(generation.close)
    tuning = build_tuning(settings, db, parts.blobs, jobs, generation.registry, retrieval, generation.base)
    services = Services(
        settings=settings,
        db=db,
        jobs=jobs,
        notifier=parts.notifier,
        redis_url=parts.broker_url,
        blobs=parts.blobs,
        ingest=IngestService(db, parts.blobs, jobs, settings),
        searcher=retrieval.searcher,
        index=IndexService(db, jobs, retrieval, settings),
        answers=generation.answers,
        registry=generation.registry,
        router=generation.router,
        engine=generation.engine,
        tuning=tuning.service,
        datasets=tuning.datasets,
        schedules=tuning.schedules,
        checks=_checks(parts, retrieval.count, generation.engine.ping),
    )
    return ApiProcess(create_app(services), services.draining, parts.bootstrap, jobs)


def _checks(parts: Parts, count: object, ping: object) -> tuple[Check, ...]:
    """Dependencies of a request. A dead worker is none: documents wait for it, and answers need it not."""
    from api.services import Check
    from core.blobs_s3 import S3BlobStore

    assert callable(count) and callable(ping)
    checks = [Check("broker", parts.queue.ping), Check("index", count), Check("generator", ping)]
    if isinstance(parts.blobs, S3BlobStore):
        checks.append(Check("blobs", parts.blobs.ping))
    return tuple(checks)
