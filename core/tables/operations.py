"""Audit, idempotency records, index versions and calibrations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, created_column, id_column


class AuditEntry(Base):
    """Something that changed or removed state on request. Written in the same transaction as the change."""

    __tablename__ = "audit"

    id: Mapped[str] = id_column("aud")
    tenant_id: Mapped[str] = mapped_column(String(48), index=True)
    actor: Mapped[str] = mapped_column(String(120))
    """key:<id>, schedule:<id> or system."""
    action: Mapped[str] = mapped_column(String(64), index=True)
    """noun.verb, such as document.delete."""
    object_id: Mapped[str | None] = mapped_column(String(120), default=None)
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    request_id: Mapped[str | None] = mapped_column(String(64), default=None)
    created_at: Mapped[datetime] = created_column()


class IdempotencyRecord(Base):
    """First answer to a write that carried an Idempotency-Key; the same key with another body is a conflict."""

    __tablename__ = "idempotency"

    key_id: Mapped[str] = mapped_column(String(48), primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(String(200), primary_key=True)
    route: Mapped[str] = mapped_column(String(200))
    body_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[int | None] = mapped_column(default=None)
    """None while the first request still runs."""
    response: Mapped[str | None] = mapped_column(Text, default=None)
    created_at: Mapped[datetime] = created_column()


class IndexVersion(Base):
    """Embedder, chunker and tokeniser of one index. Exactly one is active."""

    __tablename__ = "index_versions"

    id: Mapped[str] = mapped_column(String(48), primary_key=True)
    """First 16 hex digits of the SHA-256 over `spec`."""
    spec: Mapped[dict[str, Any]]
    active: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = created_column()


class Calibration(Base):
    """A measured relevance model and refusal threshold for one index version; the newest one is in force."""

    __tablename__ = "calibrations"

    id: Mapped[str] = id_column("cal")
    index_version: Mapped[str] = mapped_column(String(48), index=True)
    parameters: Mapped[dict[str, Any]]
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = created_column()
