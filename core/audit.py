"""The audit trail: one row per change made on request, written in the transaction that makes the change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select, text, tuple_

from core.database import ReadSession, WriteSession
from core.errors import NotFound
from core.paging import Page, cut_page, newest_page
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
    query = newest_page(query, AuditEntry, cursor, limit)
    return cut_page(session.scalars(query).all(), limit)


def list_after(session: ReadSession, tenant_id: str, after: str | None, *, limit: int) -> list[AuditEntry]:
    """A tenant's rows behind the row `after`, oldest first; from the first one where it is None.

    No row ever appears before one that was listed. SQLite's writers are alone, so rows commit in the order of their
    times. PostgreSQL's overlap: there rows go by the number of their transaction, and those that came after one which
    still runs wait for it.

    Raises:
        NotFound: this tenant has no row `after`.
    """
    query = select(AuditEntry).where(AuditEntry.tenant_id == tenant_id)
    if session.get_bind().dialect.name == "postgresql":
        query = query.where(AuditEntry.position < text("pg_snapshot_xmin(pg_current_snapshot())::text::bigint"))
    place = tuple_(AuditEntry.position, AuditEntry.created_at, AuditEntry.id)
    if after is not None:
        known = session.scalar(select(AuditEntry).where(AuditEntry.id == after, AuditEntry.tenant_id == tenant_id))
        if known is None:
            raise NotFound(f"no audit row {after!r}")
        query = query.where(place > (known.position, known.created_at, known.id))
    ordered = query.order_by(AuditEntry.position, AuditEntry.created_at, AuditEntry.id)
    return list(session.scalars(ordered.limit(limit)))
