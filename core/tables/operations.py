"""Audit, idempotency records, index versions and calibrations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, created_column, id_column


class AuditEntry(Base):
    """Something that changed or removed state on request. Written in the same transaction as the change."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_tenant_position", "tenant_id", "position", "created_at", "id"),)

    id: Mapped[str] = id_column("aud")
    tenant_id: Mapped[str] = mapped_column(String(48), index=True)
    actor: Mapped[str] = mapped_column(String(120))
    """key:<id>, schedule:<id> or system."""
    action: Mapped[str] = mapped_column(String(64), index=True)
    """noun.verb, such as document.delete."""
    object_id: Mapped[str | None] = mapped_column(String(120), default=None)
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    request_id: Mapped[str | None] = mapped_column(String(64), default=None)
    position: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Number of the transaction that wrote it, where writers overlap (PostgreSQL sets it); 0 elsewhere."""
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
    config: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """Settings that make this version's embedder, lexical side and chunker; never a secret."""
    chunk_set: Mapped[str] = mapped_column(String(16), default="", server_default=text("''"))
    """Which rows of `chunks` it indexes; versions that cut alike share them."""
    status: Mapped[str] = mapped_column(String(16), default="ready", server_default="ready")
    """building, ready or unusable."""
    active: Mapped[bool] = mapped_column(default=False)
    previous: Mapped[str | None] = mapped_column(String(48), default=None)
    """Version that served before this one was switched to: where a rollback goes."""
    activated_at: Mapped[datetime | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = created_column()


class IndexContent(Base):
    """An index version holds this generation of a document whole: rows, points, on disk."""

    __tablename__ = "index_contents"

    version_id: Mapped[str] = mapped_column(ForeignKey("index_versions.id", ondelete="CASCADE"), primary_key=True)
    document_id: Mapped[str] = mapped_column(
        ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    generation: Mapped[int]
    chunk_count: Mapped[int]


class Calibration(Base):
    """A measured relevance model and refusal threshold for one index version; the newest one is in force."""

    __tablename__ = "calibrations"

    id: Mapped[str] = id_column("cal")
    index_version: Mapped[str] = mapped_column(String(48), index=True)
    parameters: Mapped[dict[str, Any]]
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = created_column()


class EvidenceCalibration(Base):
    """Weights of the evidence stage fitted to a tenant's own questions; the newest of a tenant are in force."""

    __tablename__ = "evidence_calibrations"

    id: Mapped[str] = id_column("evc")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    parameters: Mapped[dict[str, Any]]
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = created_column()
