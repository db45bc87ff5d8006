"""The HTTP application. `create_app` wires routes to services that a process root has built."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.to_thread
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from api import errors
from api.context import ContextMiddleware
from api.draining import Draining, DrainMiddleware
from api.idempotency import forget_interrupted
from api.json_bodies import BodyRoom
from api.limits import BodyLimitMiddleware
from api.metrics import HttpMetrics, JobCounts
from api.quotas import Quotas
from api.routes import ROUTERS
from api.services import Services
from api.streaming import StreamPool
from api.tenant_threads import ASKING_EACH, STORING, STORING_EACH, TenantThreads
from core.turns import Turns

THREADS: Final = 128
"""Threads for routes that block on SQL, the index or a file. Streams have their own (`api.streaming`)."""

_DESCRIPTION = """Documents in, cited answers out, styles tuned and promoted.

Send `Authorization: Bearer <key>`. Errors are RFC 9457 problem details with a stable `code`.
Lists take `limit` and `cursor`; writes accept `Idempotency-Key`.
"""


def create_app(services: Services) -> FastAPI:
    """Build the application over services that are ready to be called."""
    metrics = HttpMetrics()
    metrics.add_job_gauge(JobCounts(services.db))
    metrics.add_truncation_counter(lambda: {} if services.index is None else services.index.truncated())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        if services.settings.topology == "embedded":
            await run_in_threadpool(forget_interrupted, services.db)
        yield
        app.state.streams.close()
        app.state.quotas.close()

    app = FastAPI(
        title="Tsumugi",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to wherever the Host header says, and by http behind a proxy that ends TLS
        strict_content_type=False,  # a body without a type is taken for JSON: keys are no cookies, nothing to forge
    )
    app.state.services = services
    app.state.metrics = metrics
    app.state.draining = Draining()
    app.state.streams = StreamPool()
    app.state.storing = TenantThreads(STORING_EACH, STORING)
    app.state.body_room = BodyRoom()
    app.state.dataset_turns = Turns()
    app.state.asking = TenantThreads(ASKING_EACH)
    app.state.quotas = Quotas(services.settings.http, services.redis_url)
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    # Added last runs first: the context sees everything, also what the body limit refuses.
    app.add_middleware(BodyLimitMiddleware, settings=services.settings)
    if services.settings.http.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=services.settings.http.cors_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy"],
        )
    app.add_middleware(DrainMiddleware, draining=app.state.draining)
    app.add_middleware(ContextMiddleware, metrics=metrics)
    return app
