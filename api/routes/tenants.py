"""Tenants, for the operator; and the audit trail of the caller's own."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy import exists, func, select

from api.errors import request_id_of
from api.paging import PageQuery
from api.routes.keys import TenantQuery, tenant_id_of
from api.schemas.admin import AuditBody, AuditList, TenantBody, TenantList, TenantRequest
from api.security import Caller, GuardedRoute, ServicesOf, needs
from core import audit
from core.errors import Conflict
from core.paging import cut_page, newest_page
from core.tables import Document, Job, Tenant
from core.tenants import DEFAULT_TENANT, create_tenant, find_tenant
from core.types import JobStatus, Scope

router = APIRouter(route_class=GuardedRoute, prefix="/v1/admin", tags=["admin"])


@router.post("/tenants", status_code=201, dependencies=[needs(Scope.ADMIN, operator=True)])
def add_tenant(body: TenantRequest, request: Request, caller: Caller, services: ServicesOf) -> TenantBody:
    """Make a tenant with an empty collection `default`. Make its first key with `POST /v1/admin/keys`."""
    with services.db.write() as session:
        tenant = create_tenant(session, body.name)
        audit.record(
            session,
            tenant_id=caller.tenant_id,
            actor=caller.actor,
            action="tenant.create",
            object_id=tenant.id,
            detail={"name": tenant.name},
            request_id=request_id_of(request.scope),
        )
        return TenantBody.model_validate(tenant)


@router.get("/tenants", dependencies=[needs(Scope.ADMIN, operator=True)])
def list_tenants(services: ServicesOf, page: PageQuery) -> TenantList:
    """All tenants, newest first."""
    query = select(Tenant)
    query = newest_page(query, Tenant, page.cursor, page.limit)
    with services.db.read() as session:
        rows = session.scalars(query).all()
    cut = cut_page(rows, page.limit)
    return TenantList(items=[TenantBody.model_validate(tenant) for tenant in cut.items], next_cursor=cut.next_cursor)


@router.get("/tenants/{tenant_id}", dependencies=[needs(Scope.ADMIN, operator=True)])
def get_tenant(tenant_id: str, services: ServicesOf) -> TenantBody:
    """One tenant, by name or id."""
    with services.db.read() as session:
        return TenantBody.model_validate(find_tenant(session, tenant_id))


@router.delete("/tenants/{tenant_id}", dependencies=[needs(Scope.ADMIN, operator=True)])
def delete_tenant(tenant_id: str, request: Request, caller: Caller, services: ServicesOf) -> TenantBody:
    """Remove a tenant with its keys, datasets and adapters. Its documents must be deleted first, so that the index is
    clean before the rows that say what is in it are gone.
    """
    with services.db.write() as session:
        tenant = find_tenant(session, tenant_id)
        if tenant.name == DEFAULT_TENANT:
            raise Conflict("the default tenant stays: the operator's keys belong to it", code="tenant_is_default")
        documents = session.scalar(select(func.count()).where(Document.tenant_id == tenant.id)) or 0
        busy = session.scalar(
            select(exists().where(Job.tenant_id == tenant.id, Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING])))
        )
        if documents or busy:
            what = f"{documents} document(s)" if documents else "unfinished jobs"
            raise Conflict(f"tenant '{tenant.name}' still has {what}; delete them first", code="tenant_not_empty")
        shown = TenantBody.model_validate(tenant)
        audit.record(
            session,
            tenant_id=caller.tenant_id,
            actor=caller.actor,
            action="tenant.delete",
            object_id=tenant.id,
            detail={"name": tenant.name},
            request_id=request_id_of(request.scope),
        )
        session.delete(tenant)
        return shown


@router.get("/audit", dependencies=[needs(Scope.ADMIN)])
def list_audit(
    caller: Caller,
    services: ServicesOf,
    page: PageQuery,
    tenant: TenantQuery = None,
    action: Annotated[str | None, Query(max_length=64)] = None,
    object_id: Annotated[str | None, Query(max_length=120)] = None,
) -> AuditList:
    """What was changed on request, newest first."""
    with services.db.read() as session:
        found = audit.list_entries(
            session,
            tenant_id_of(services, caller, tenant),
            limit=page.limit,
            cursor=page.cursor,
            action=action,
            object_id=object_id,
        )
    return AuditList(items=[AuditBody.model_validate(entry) for entry in found.items], next_cursor=found.next_cursor)
