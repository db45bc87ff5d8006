"""Adapter families, immutable versions, aliases, and the history of every move of an alias."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, created_column, id_column


class AdapterFamily(Base):
    """A named style of a tenant."""

    __tablename__ = "adapter_families"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[str] = id_column("fam")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    version_counter: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = created_column()


class AdapterVersion(Base):
    """An immutable adapter. `digest` is the SHA-256 over its files; the folder is adapters/<digest>."""

    __tablename__ = "adapter_versions"
    __table_args__ = (UniqueConstraint("family_id", "version"), UniqueConstraint("family_id", "digest"))

    id: Mapped[str] = id_column("adv")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    family_id: Mapped[str] = mapped_column(ForeignKey("adapter_families.id", ondelete="CASCADE"), index=True)
    version: Mapped[str] = mapped_column(String(32))
    """v1, v2, ... within its family; never reused."""
    digest: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    reasons: Mapped[list[Any]] = mapped_column(default=list)
    """Why it was rejected or retired."""
    manifest: Mapped[dict[str, Any]] = mapped_column(default=dict)
    gate_report: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    run_id: Mapped[str | None] = mapped_column(String(48), default=None, index=True)
    source: Mapped[str] = mapped_column(String(16), default="run")
    """run or import."""
    created_at: Mapped[datetime] = created_column()


class AdapterAlias(Base):
    """`champion` (and `canary`) of a family. No version: the base answers. `revision` is the compare-and-swap token."""

    __tablename__ = "adapter_aliases"

    family_id: Mapped[str] = mapped_column(ForeignKey("adapter_families.id", ondelete="CASCADE"), primary_key=True)
    alias: Mapped[str] = mapped_column(String(16), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(48), index=True)
    version_id: Mapped[str | None] = mapped_column(String(48), default=None)
    percent: Mapped[int] = mapped_column(default=100)
    revision: Mapped[int] = mapped_column(default=0)
    updated_at: Mapped[datetime] = created_column()


class AliasEvent(Base):
    """One move of an alias: who, when, from, to, why."""

    __tablename__ = "alias_history"

    id: Mapped[str] = id_column("evt")
    tenant_id: Mapped[str] = mapped_column(String(48), index=True)
    family_id: Mapped[str] = mapped_column(ForeignKey("adapter_families.id", ondelete="CASCADE"), index=True)
    alias: Mapped[str] = mapped_column(String(16))
    action: Mapped[str] = mapped_column(String(16))
    """promote, rollback, retire (it must be forgotten); refused: asked for and not made, with the reason."""
    from_version: Mapped[str | None] = mapped_column(String(32), default=None)
    to_version: Mapped[str | None] = mapped_column(String(32), default=None)
    reason: Mapped[str | None] = mapped_column(Text, default=None)
    forced: Mapped[bool] = mapped_column(default=False)
    actor: Mapped[str] = mapped_column(String(120))
    revision: Mapped[int]
    effective_ms: Mapped[float | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = created_column()
