"""API keys. An admin manages the keys of its own tenant; the operator (admin of `default`) those of every tenant."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select

from api.errors import request_id_of
from api.paging import PageQuery
from api.schemas.admin import KeyBody, KeyList, KeyRequest, NewKeyBody, RotatedKeyBody, RotateRequest
from api.security import Caller, GuardedRoute, ServicesOf, is_operator, needs
from api.services import Services
from core import audit, keys
from core.access import Principal
from core.errors import Forbidden, NotFound
from core.paging import cut_page, newest_page
from core.tables import ApiKey
from core.tenants import find_tenant
from core.types import Scope

router = APIRouter(route_class=GuardedRoute, prefix="/v1/admin/keys", tags=["admin"])

TenantQuery = Annotated[str | None, Query(max_length=100, description="Operator only: name or id of a tenant.")]


class SecretResponse(JSONResponse):
    """An answer that is not kept whole for replays (see `api.idempotency`)."""

    holds_secret = True


def tenant_id_of(services: Services, caller: Principal, tenant: str | None) -> str:
    """Tenant to act on: the caller's own, or the named one for the operator.

    Raises:
        Forbidden: another tenant was named by somebody who is not the operator, whether it exists or not.
        NotFound: the operator named one that does not exist.
    """
    if tenant is None or tenant == caller.tenant_id:
        return caller.tenant_id
    if is_operator(caller, services):
        with services.db.read() as session:
            return find_tenant(session, tenant).id
    with services.db.read() as session:
        own = find_tenant(session, caller.tenant_id)
    if own.name == tenant:
        return caller.tenant_id
    raise Forbidden("keys of another tenant are for admin keys of the default tenant")


@router.post("", status_code=201, response_model=NewKeyBody, dependencies=[needs(Scope.ADMIN)])
def create_key(body: KeyRequest, request: Request, caller: Caller, services: ServicesOf) -> Response:
    """Make a key. Its secret is in this answer and nowhere else."""
    tenant_id = tenant_id_of(services, caller, body.tenant)
    with services.db.write() as session:
        key, secret = keys.create_key(
            session,
            tenant_id=tenant_id,
            name=body.name,
            scopes=body.scopes,
            groups=body.groups or [],
            expires_at=body.expires_at,
        )
        audit.record(
            session,
            tenant_id=tenant_id,
            actor=caller.actor,
            action="key.create",
            object_id=key.id,
            detail={"name": key.name, "scopes": key.scopes, "groups": key.groups},
            request_id=request_id_of(request.scope),
        )
        shown = KeyBody.model_validate(key)
    return SecretResponse({**shown.model_dump(mode="json"), "secret": secret}, status_code=201)


@router.post("/{key_id}/rotate", status_code=201, response_model=RotatedKeyBody, dependencies=[needs(Scope.ADMIN)])
def rotate_key(key_id: str, body: RotateRequest, request: Request, caller: Caller, services: ServicesOf) -> Response:
    """Make a successor with the same rights. The old key works on for `overlap_s`, so that nobody is cut off."""
    with services.db.read() as session:
        found = session.get(ApiKey, key_id)
    if found is None or (found.tenant_id != caller.tenant_id and not is_operator(caller, services)):
        raise NotFound(f"no key {key_id!r}")
    with services.db.write() as session:
        new, secret, old = keys.rotate_key(
            session, tenant_id=found.tenant_id, key_id=key_id, overlap=timedelta(seconds=body.overlap_s)
        )
        audit.record(
            session,
            tenant_id=found.tenant_id,
            actor=caller.actor,
            action="key.rotate",
            object_id=key_id,
            detail={"successor": new.id, "overlap_s": body.overlap_s},
            request_id=request_id_of(request.scope),
        )
        shown, replaced = KeyBody.model_validate(new), KeyBody.model_validate(old)
    content = {**shown.model_dump(mode="json"), "secret": secret, "replaces": replaced.model_dump(mode="json")}
    return SecretResponse(content, status_code=201)


@router.get("", dependencies=[needs(Scope.ADMIN)])
def list_keys(caller: Caller, services: ServicesOf, page: PageQuery, tenant: TenantQuery = None) -> KeyList:
    """Keys, newest first, revoked ones too."""
    query = select(ApiKey).where(ApiKey.tenant_id == tenant_id_of(services, caller, tenant))
    query = newest_page(query, ApiKey, page.cursor, page.limit)
    with services.db.read() as session:
        rows = session.scalars(query).all()
    cut = cut_page(rows, page.limit)
    return KeyList(items=[KeyBody.model_validate(key) for key in cut.items], next_cursor=cut.next_cursor)


@router.delete("/{key_id}", dependencies=[needs(Scope.ADMIN)])
def revoke_key(key_id: str, request: Request, caller: Caller, services: ServicesOf) -> KeyBody:
    """Revoke a key: its next request is answered 401."""
    with services.db.read() as session:
        key = session.get(ApiKey, key_id)
    if key is None or (key.tenant_id != caller.tenant_id and not is_operator(caller, services)):
        raise NotFound(f"no key {key_id!r}")
    with services.db.write() as session:
        revoked = keys.revoke_key(session, tenant_id=key.tenant_id, key_id=key_id)
        audit.record(
            session,
            tenant_id=key.tenant_id,
            actor=caller.actor,
            action="key.revoke",
            object_id=key_id,
            request_id=request_id_of(request.scope),
        )
        return KeyBody.model_validate(revoked)
