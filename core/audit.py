"""The audit trail: one row per change made on request, written in the transaction that makes the change."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, or_, select

from core.database import ReadSession, WriteSession
from core.errors import NotFound
from core.paging import Page, after_cursor, checked_limit, cut_page
from core.tables.base import utc_now
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


SETTLE_S = 1.0
"""Younger rows are held back by `list_after`: an earlier transaction may yet commit a row with an older time."""


def list_after(session: ReadSession, tenant_id: str, after: str | None, *, limit: int) -> list[AuditEntry]:
    """A tenant's rows behind the row `after`, oldest first; from the first one where it is None.

    Raises:
        NotFound: this tenant has no row `after`.
    """
    settled = utc_now() - timedelta(seconds=SETTLE_S)
    query = select(AuditEntry).where(AuditEntry.tenant_id == tenant_id, AuditEntry.created_at <= settled)
    if after is not None:
        known = session.scalar(select(AuditEntry).where(AuditEntry.id == after, AuditEntry.tenant_id == tenant_id))
        if known is None:
            raise NotFound(f"no audit row {after!r}")
        behind = and_(AuditEntry.created_at == known.created_at, AuditEntry.id > known.id)
        query = query.where(or_(AuditEntry.created_at > known.created_at, behind))
    return list(session.scalars(query.order_by(AuditEntry.created_at, AuditEntry.id).limit(limit)))
