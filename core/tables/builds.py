"""Training sets that a teacher writes: what was asked for, and the outcome of every piece of work."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, created_column, id_column


class DatasetBuild(Base):
    """A requested set; its live state is that of its job."""

    __tablename__ = "dataset_builds"

    id: Mapped[str] = id_column("bld")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    job_id: Mapped[str | None] = mapped_column(String(48), default=None)
    name: Mapped[str] = mapped_column(String(200))
    request: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """`tuning.teacher.requests`, as checked."""
    teacher: Mapped[str] = mapped_column(String(120))
    """Model that writes."""
    asked_by: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{key_id, scopes, groups}: whose eyes the documents are read with."""
    plan: Mapped[list[Any] | None] = mapped_column(default=None)
    """Pieces of work in order: ids of chunks or rows. Drawn once, so that a later attempt works on the same ones."""
    dataset_ids: Mapped[list[Any]] = mapped_column(default=list)
    report: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = created_column()


class DatasetBuildStep(Base):
    """What one piece of work gave: kept, because an answer of the teacher costs money."""

    __tablename__ = "dataset_build_steps"

    build_id: Mapped[str] = mapped_column(ForeignKey("dataset_builds.id", ondelete="CASCADE"), primary_key=True)
    piece_id: Mapped[str] = mapped_column(String(48), primary_key=True)
    outcome: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{rows: [...], left_out: [{piece, code, detail}]}"""
