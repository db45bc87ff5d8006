"""The audit trail as a stream, oldest first, for whatever collects such trails."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Final

import anyio
from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.responses import Response

from api.routes.keys import TenantQuery, tenant_id_of
from api.schemas.admin import AuditBody
from api.security import Caller, GuardedRoute, ServicesOf, needs
from api.services import Services
from api.streaming import EventStream, sse, to_json
from core import audit
from core.types import Scope

router = APIRouter(route_class=GuardedRoute, prefix="/v1/admin/audit", tags=["admin"])

BATCH: Final = 500
POLL_S: Final = 1.0
KEEP_ALIVE_S: Final = 15.0
NDJSON: Final = "application/x-ndjson"


@router.get(
    "/events",
    dependencies=[needs(Scope.ADMIN)],
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}, NDJSON: {}}}},
)
async def stream_audit(
    request: Request,
    caller: Caller,
    services: ServicesOf,
    after: Annotated[str | None, Query(max_length=48, description="Id of the last row that is known.")] = None,
    tenant: TenantQuery = None,
    last_event_id: Annotated[str | None, Header(max_length=48)] = None,
) -> Response:
    """Rows after a known one. `Accept: application/x-ndjson` gives one a line up to now and ends; else server-sent
    events `audit` follow, each with its row's id, so that a client that comes back with `Last-Event-ID` misses none.
    """
    tenant_id = await run_in_threadpool(tenant_id_of, services, caller, tenant)
    cursor = last_event_id or after
    first = await run_in_threadpool(_read, services, tenant_id, cursor)
    if NDJSON in request.headers.get("accept", ""):
        return StreamingResponse(_lines(services, tenant_id, first), media_type=NDJSON)
    return EventStream(request, _events(services, tenant_id, cursor, first))


def _read(services: Services, tenant_id: str, after: str | None) -> list[AuditBody]:
    with services.db.read() as session:
        rows = audit.list_after(session, tenant_id, after, limit=BATCH)
        return [AuditBody.model_validate(row) for row in rows]


async def _lines(services: Services, tenant_id: str, rows: list[AuditBody]) -> AsyncGenerator[bytes, None]:
    while rows:
        for row in rows:
            yield f"{to_json(row.model_dump(mode='json'))}\n".encode()
        rows = await run_in_threadpool(_read, services, tenant_id, rows[-1].id)


async def _events(
    services: Services, tenant_id: str, cursor: str | None, rows: list[AuditBody]
) -> AsyncGenerator[bytes, None]:
    silent_s = 0.0
    yield b": audit\n\n"
    while not services.draining.is_set():
        for row in rows:
            yield sse("audit", row.model_dump(mode="json"), event_id=row.id)
        if rows:
            cursor, silent_s = rows[-1].id, 0.0
        if len(rows) < BATCH:
            await anyio.sleep(POLL_S)  # rows come from any process, and most of those send no event
            silent_s += POLL_S
            if silent_s >= KEEP_ALIVE_S:
                silent_s = 0.0
                yield b": still here\n\n"
        rows = await run_in_threadpool(_read, services, tenant_id, cursor)
