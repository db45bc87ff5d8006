"""Words that stand for one another in a tenant's documents and questions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base


class TenantDictionary(Base):
    """One tenant's dictionary, read and replaced as a whole."""

    __tablename__ = "tenant_dictionaries"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    entries: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{"groups": [[word, word, ...], ...]}."""
    updated_at: Mapped[datetime]
    updated_by: Mapped[str] = mapped_column(String(200))
    """Actor, as the audit trail names it."""
