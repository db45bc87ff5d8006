"""Index versions, for the operator: what serves, build beside it, switch, go back, drop."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import select

from api.errors import request_id_of
from api.schemas.index import (
    IndexBuildBody,
    IndexBuildRequest,
    IndexRollbackRequest,
    IndexStatusBody,
    IndexSwitchBody,
    IndexSwitchRequest,
    IndexVersionBody,
    TenantMoveBody,
    TenantShardBody,
    TenantShardsBody,
)
from api.schemas.jobs import JobBody
from api.security import Caller, GuardedRoute, ServicesOf, needs
from api.services import Services
from core.access import Principal
from core.errors import Unavailable
from core.tables import Job, Tenant
from core.types import Scope, StoredVectors
from retrieval.switch import IndexService, Switched, VersionState, Who
from retrieval.vector_lines import encode_line

router = APIRouter(route_class=GuardedRoute, prefix="/v1/admin/index", tags=["index"])

NDJSON: Final = "application/x-ndjson"
LINES_AT_ONCE: Final = 256

_OPERATOR = needs(Scope.ADMIN, operator=True)


@router.get("", dependencies=[_OPERATOR])
def get_index(services: ServicesOf) -> IndexStatusBody:
    """All index versions and what each of them holds."""
    bodies = [_body(state) for state in _index(services).status()]
    return IndexStatusBody(
        serving=next((body.version for body in bodies if body.active), ""),
        configured=next((body.version for body in bodies if body.configured), None),
        versions=bodies,
    )


@router.get(
    "/{version}/vectors",
    dependencies=[_OPERATOR],
    response_class=StreamingResponse,
    responses={200: {"content": {NDJSON: {}}}},
)
def get_vectors(version: str, services: ServicesOf) -> StreamingResponse:
    """The vectors of all points, one JSON object a line (float32 in base64): what `tsumugi backup` takes while the
    service owns its index.
    """
    return StreamingResponse(_pages(_index(services).vectors(version)), media_type=NDJSON)


@router.post("/build", status_code=202, dependencies=[_OPERATOR])
def build_index(body: IndexBuildRequest, request: Request, caller: Caller, services: ServicesOf) -> IndexBuildBody:
    """Build a version beside the one that serves, from stored text. Building one that is there resumes it."""
    row, job = _index(services).build(body.model_dump(exclude_defaults=True), _who(caller, request))
    return IndexBuildBody(version=row.id, job=JobBody.model_validate(job))


@router.post("/switch", dependencies=[_OPERATOR])
def switch_index(body: IndexSwitchRequest, request: Request, caller: Caller, services: ServicesOf) -> IndexSwitchBody:
    """Serve another version from the next search on; running searches end on the one they began with."""
    return _switched(_index(services).switch(body.version, _who(caller, request), reason=body.reason))


@router.post("/rollback", dependencies=[_OPERATOR])
def rollback_index(
    body: IndexRollbackRequest, request: Request, caller: Caller, services: ServicesOf
) -> IndexSwitchBody:
    """Serve the version that served before; it was kept up to date."""
    return _switched(_index(services).rollback(_who(caller, request), reason=body.reason))


@router.get("/shards", dependencies=[_OPERATOR])
def list_tenant_shards(services: ServicesOf) -> TenantShardsBody:
    """Tenants that have a shard of their own on the Qdrant cluster, or are on their way to one or back."""
    found = _index(services).tenant_shards()
    with services.db.read() as session:
        tenants = {tenant.id: tenant for tenant in session.scalars(select(Tenant))}
    items = [
        TenantShardBody(
            tenant_id=shard.tenant_id,
            tenant=tenants[shard.tenant_id].name if shard.tenant_id in tenants else None,
            wanted=shard.tenant_id in tenants and tenants[shard.tenant_id].apart,
            version=version,
            serves=shard.serves,
            points=shard.points,
            left=shard.left,
        )
        for version, shard in found
    ]
    return TenantShardsBody(items=items)


@router.put("/shards/{tenant}", status_code=202, dependencies=[_OPERATOR])
def promote_tenant(tenant: str, request: Request, caller: Caller, services: ServicesOf) -> TenantMoveBody:
    """Give a tenant that outgrew the rest a shard of its own, while everything serves. Again is fine: it goes on."""
    return _moved(*_index(services).keep_apart(tenant, True, _who(caller, request)))


@router.delete("/shards/{tenant}", status_code=202, dependencies=[_OPERATOR])
def demote_tenant(tenant: str, request: Request, caller: Caller, services: ServicesOf) -> TenantMoveBody:
    """Move a tenant back into the shard that all others share."""
    return _moved(*_index(services).keep_apart(tenant, False, _who(caller, request)))


@router.delete("/{version}", status_code=204, dependencies=[_OPERATOR])
def drop_index(version: str, request: Request, caller: Caller, services: ServicesOf) -> None:
    """Remove a version that does not serve; a rollback to it is then no longer possible."""
    _index(services).drop(version, _who(caller, request))


def _pages(vectors: Iterator[StoredVectors]) -> Iterator[bytes]:
    """Many lines at once: each piece goes through a thread of its own."""
    while page := b"".join(map(encode_line, islice(vectors, LINES_AT_ONCE))):
        yield page


def _index(services: Services) -> IndexService:
    if services.index is None:
        raise Unavailable("this process does not reach the index", code="index_not_here")
    return services.index


def _who(caller: Principal, request: Request) -> Who:
    return Who(caller.tenant_id, caller.actor, request_id_of(request.scope))


def _moved(tenant: Tenant, jobs: list[Job]) -> TenantMoveBody:
    return TenantMoveBody(
        tenant_id=tenant.id,
        tenant=tenant.name,
        wanted=tenant.apart,
        jobs=[JobBody.model_validate(job) for job in jobs],
    )


def _switched(done: Switched) -> IndexSwitchBody:
    return IndexSwitchBody(from_version=done.before, to_version=done.after, effective_ms=round(done.effective_ms, 3))


def _body(state: VersionState) -> IndexVersionBody:
    row = state.row
    return IndexVersionBody(
        version=row.id,
        status=row.status,
        active=row.active,
        configured=state.configured,
        calibrated=state.calibrated,
        previous=row.previous,
        embedder=row.spec["embedder"]["name"],
        documents=state.documents,
        documents_wanted=state.documents_wanted,
        spec=row.spec,
        created_at=row.created_at,
        activated_at=row.activated_at,
        job=JobBody.model_validate(state.job) if state.job is not None else None,
    )
