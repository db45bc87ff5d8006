"""The audit trail: one row per change made on request, written in the transaction that makes the change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from core.database import ReadSession, WriteSession
from core.paging import Page, after_cursor, checked_limit, cut_page
from core.tables.operations import AuditEntry

SYSTEM = "system"
"""Actor of what nobody asked for by name: bootstrap, recovery."""


def record(
    session: WriteSession,
    *,
    tenant_id: str,
    actor: str,
    action: str,
    object_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
    request_id: str | None = None,
) -> AuditEntry:
    """Add a row. action: noun.verb, such as `document.delete`; detail: JSON values, never a secret."""
    entry = AuditEntry(
        tenant_id=tenant_id,
        actor=actor,
        action=action,
        object_id=object_id,
        detail=dict(detail or {}),
        request_id=request_id,
    )
    session.add(entry)
    return entry


def list_entries(
    session: ReadSession,
    tenant_id: str,
    *,
    limit: int = 50,
    cursor: str | None = None,
    action: str | None = None,
    object_id: str | None = None,
) -> Page[AuditEntry]:
    """A tenant's rows, newest first."""
    query = select(AuditEntry).where(AuditEntry.tenant_id == tenant_id)
    if action is not None:
        query = query.where(AuditEntry.action == action)
    if object_id is not None:
        query = query.where(AuditEntry.object_id == object_id)
    behind = after_cursor(AuditEntry.created_at, AuditEntry.id, cursor)
    if behind is not None:
        query = query.where(behind)
    query = query.order_by(AuditEntry.created_at.desc(), AuditEntry.id.desc()).limit(checked_limit(limit) + 1)
    return cut_page(session.scalars(query).all(), limit)
