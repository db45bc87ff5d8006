"""Keys, tenants, audit."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, Field

from api.schemas.base import RequestBody, ResponseBody
from core.types import Scope


class KeyRequest(RequestBody):
    """A key to make. `tenant` (name or id) may name another tenant only for the operator."""

    name: str = Field(min_length=1, max_length=100)
    scopes: list[Scope] = Field(min_length=1, max_length=10)
    tenant: str | None = Field(None, min_length=1, max_length=100)
    groups: list[str] | None = Field(None, max_length=200)
    expires_at: AwareDatetime | None = None


class KeyBody(ResponseBody):
    """A key, without its secret."""

    id: str
    tenant_id: str
    name: str
    scopes: list[str]
    groups: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewKeyBody(KeyBody):
    """A key as it is answered once, with its secret."""

    secret: str | None


class RotateRequest(RequestBody):
    """How long the old key works on."""

    overlap_s: int = Field(86_400, ge=0, le=30 * 86_400)


class RotatedKeyBody(NewKeyBody):
    """The successor, and the key that it replaces with its new end."""

    replaces: KeyBody


class KeyList(ResponseBody):
    """A page of keys, newest first."""

    items: list[KeyBody]
    next_cursor: str | None


class TenantRequest(RequestBody):
    """A tenant to make."""

    name: str = Field(min_length=1, max_length=100)


class TenantBody(ResponseBody):
    """A tenant."""

    id: str
    name: str
    created_at: datetime


class TenantList(ResponseBody):
    """All tenants, newest first."""

    items: list[TenantBody]
    next_cursor: str | None


class AuditBody(ResponseBody):
    """Who did what to which object, and when."""

    id: str
    tenant_id: str
    actor: str
    action: str
    object_id: str | None
    detail: dict[str, Any]
    request_id: str | None
    created_at: datetime


class AuditList(ResponseBody):
    """A page of the audit trail, newest first."""

    items: list[AuditBody]
    next_cursor: str | None
