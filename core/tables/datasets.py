"""Training sets: immutable, content-addressed, every row with its lineage."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, created_column, id_column


class Dataset(Base):
    """One uploaded set. The same valid rows again are the same set (`content_sha256`)."""

    __tablename__ = "datasets"
    __table_args__ = (
        UniqueConstraint("tenant_id", "content_sha256"),
        Index("ix_datasets_tenant_family", "tenant_id", "family"),
    )

    id: Mapped[str] = id_column("dst")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    format: Mapped[str] = mapped_column(String(20))
    """alpaca, sharegpt, messages, preference; the first row decides, others must agree."""
    content_sha256: Mapped[str] = mapped_column(String(64))
    source_sha256: Mapped[str | None] = mapped_column(String(64), default=None)
    """The uploaded file, which is kept as a blob; None for rows that the service made itself: there is no file."""
    row_count: Mapped[int]
    invalid_count: Mapped[int]
    report: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{invalid: [{line, code, detail}], languages: {...}, ...}"""
    quality: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """`tuning.datasets.quality` of the rows in force, made when asked for."""
    family: Mapped[str] = mapped_column(String(64), default="house", server_default="house")
    """Name of the family whose runs take it when they name no sets; it need not have a version yet."""
    retired_at: Mapped[datetime | None] = mapped_column(default=None)
    """Out of force as a whole: no new run takes it."""
    retired_reason: Mapped[str | None] = mapped_column(String(200), default=None)
    deleted_at: Mapped[datetime | None] = mapped_column(default=None)
    """Gone for callers. The row stays, without any text, while runs saw rows of it."""
    created_at: Mapped[datetime] = created_column()


class DatasetRow(Base):
    """One valid row in canonical form: {"messages": [...]} or {"messages", "chosen", "rejected"}."""

    __tablename__ = "dataset_rows"

    id: Mapped[str] = id_column("row")
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), index=True)
    tenant_id: Mapped[str] = mapped_column(String(48), index=True)
    ordinal: Mapped[int]
    line: Mapped[int]
    content: Mapped[dict[str, Any]]
    content_sha256: Mapped[str] = mapped_column(String(64))
    lineage: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{source: upload|feedback, answer_id?, documents: [{document_id, generation}], groups, consent}"""
    retired_at: Mapped[datetime | None] = mapped_column(default=None)
    retired_reason: Mapped[str | None] = mapped_column(String(200), default=None)
    created_at: Mapped[datetime] = created_column()
