"""Forgetting a document, a tenant or a text to the last byte. Cancelled through the job, until it has begun."""

from __future__ import annotations

from fastapi import APIRouter, Request

from api.errors import request_id_of
from api.paging import PageQuery
from api.schemas.erasures import ErasureBody, ErasureChange, ErasureList, ErasureRequest
from api.security import Caller, GuardedRoute, ServicesOf, is_operator, needs
from api.services import Services
from core.types import Scope
from erasure.service import ErasureService
from erasure.service import Request as Asked

router = APIRouter(route_class=GuardedRoute, prefix="/v1/admin/erasures", tags=["admin"])

_ADMIN = needs(Scope.ADMIN)


@router.post("", status_code=202, dependencies=[_ADMIN])
def create_erasure(body: ErasureRequest, request: Request, caller: Caller, services: ServicesOf) -> ErasureBody:
    """Queue an erasure: a plan, and unless `dry_run`, its execution."""
    asked = Asked(**body.model_dump())
    operator = is_operator(caller, services)
    made = _erasures(services).create(caller, asked, operator=operator, request_id=request_id_of(request.scope))
    return ErasureBody.model_validate(made)


@router.get("", dependencies=[_ADMIN])
def list_erasures(caller: Caller, services: ServicesOf, page: PageQuery) -> ErasureList:
    """Erasures, newest first."""
    found = _erasures(services).list(caller, limit=page.limit, cursor=page.cursor)
    return ErasureList(items=[ErasureBody.model_validate(one) for one in found.items], next_cursor=found.next_cursor)


@router.get("/{erasure_id}", dependencies=[_ADMIN])
def get_erasure(erasure_id: str, caller: Caller, services: ServicesOf) -> ErasureBody:
    """One erasure with its plan and, once it is done, its certificate."""
    return ErasureBody.model_validate(_erasures(services).get(caller, erasure_id))


@router.post("/{erasure_id}/start", status_code=202, dependencies=[_ADMIN])
def start_erasure(erasure_id: str, request: Request, caller: Caller, services: ServicesOf) -> ErasureBody:
    """Carry out what was only planned. It is planned anew first, as things stand then."""
    started = _erasures(services).start(caller, erasure_id, request_id=request_id_of(request.scope))
    return ErasureBody.model_validate(started)


@router.patch("/{erasure_id}", dependencies=[_ADMIN])
def change_erasure(
    erasure_id: str, body: ErasureChange, request: Request, caller: Caller, services: ServicesOf
) -> ErasureBody:
    """Change when versions that saw it retire: `now` ends the waiting for a clean training."""
    changed = _erasures(services).change(caller, erasure_id, body.retire, request_id=request_id_of(request.scope))
    return ErasureBody.model_validate(changed)


def _erasures(services: Services) -> ErasureService:
    return ErasureService(services.db, services.jobs)
