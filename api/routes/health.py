"""Alive, ready, figures. Alive says only that the loop turns; ready asks each dependency."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from api.readiness import readiness
from api.security import authenticate_request, require_operator
from api.services import Check, Probe, Services
from core.errors import TsumugiError, Unavailable
from core.storage import folders_of, free_bytes, require_room

log = structlog.stdlib.get_logger("api.health")

router = APIRouter(tags=["operations"])

PROBE_TIMEOUT_S: Final = 5.0

_probes = ThreadPoolExecutor(16, thread_name_prefix="probe")
_asking = threading.Lock()


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers. Ask /readyz before sending work."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"description": "Not ready; `checks` says why."}})
async def readyz(request: Request) -> JSONResponse:
    """Every dependency with its state and latency. 503 while nothing can be answered or the service drains.

    `degraded` names what is away while the service goes on without it.
    """
    services: Services = request.app.state.services
    checks = await run_in_threadpool(run_checks, services)
    status, body = readiness(checks, draining=services.draining.is_set())
    return JSONResponse(body, status_code=status, headers={} if status == 200 else {"Retry-After": "2"})


def run_checks(services: Services) -> dict[str, dict[str, Any]]:
    """Probe all dependencies at once; one that does not answer in PROBE_TIMEOUT_S counts as failing.

    A dependency that hangs is asked once, however many look: further looks wait for that answer, shortly, and show the
    last one. Forty of them would hold every thread otherwise, and then all checks would fail.
    """
    begun = time.perf_counter()
    own = (Check("database", lambda: _probe_database(services)), Check("disk", lambda: _probe_disk(services)))
    checks = [*own, *services.checks]
    with _asking:
        asked = {check.name: _ask(services, check, begun) for check in checks}
    results: dict[str, dict[str, Any]] = {}
    for name, probe in asked.items():
        waited = time.perf_counter() - probe.begun
        try:
            results[name] = probe.answer.result(timeout=max(0.0, PROBE_TIMEOUT_S - waited))
        except FutureTimeout:
            waited = time.perf_counter() - probe.begun
            results[name] = {"state": "failing", "detail": f"no answer for {waited:.0f} s"}
            if probe.last is not None:
                results[name]["last"] = probe.last
    return results


def _ask(services: Services, check: Check, now: float) -> Probe:
    before = services.probes.get(check.name)
    if before is not None and not before.answer.done():
        return before
    last = before.answer.result() if before is not None else None
    probe = services.probes[check.name] = Probe(_probes.submit(_timed, check), now, last)
    return probe


def _timed(check: Check) -> dict[str, Any]:
    begun = time.perf_counter()
    try:
        facts = check.probe()
    except Exception as error:  # noqa: BLE001 - a probe that breaks is an answer: not ready
        detail = error.detail if isinstance(error, TsumugiError) else type(error).__name__
        log.warning("probe failed", check=check.name, error=repr(error))
        return {"state": "failing", "latency_ms": _ms(begun), "detail": detail}
    result: dict[str, Any] = {"state": "ok", "latency_ms": _ms(begun)}
    if facts is not None:
        result["detail"] = facts
    return result


def _probe_database(services: Services) -> None:
    try:
        with services.db.read() as session:
            session.execute(text("SELECT 1 FROM tenants LIMIT 1"))
    except SQLAlchemyError as error:
        raise Unavailable(f"the database does not answer: {type(error).__name__}") from error


def _probe_disk(services: Services) -> dict[str, int]:
    require_room(services.settings)
    return {"free_bytes": min(map(free_bytes, folders_of(services.settings)))}


def _ms(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1000, 2)


@router.get("/metrics", response_class=Response)
def metrics(request: Request) -> Response:
    """Prometheus figures. Needs an admin key of the default tenant, unless `http.metrics_open` is set."""
    services: Services = request.app.state.services
    if not services.settings.http.metrics_open:
        principal = authenticate_request(request, services)
        require_operator(principal, services)
    return Response(request.app.state.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
