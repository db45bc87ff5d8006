"""Tuning runs and schedules."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, created_column, id_column


class TuningRun(Base):
    """A requested or scheduled training; its live state is that of its job."""

    __tablename__ = "tuning_runs"

    id: Mapped[str] = id_column("run")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    family_id: Mapped[str] = mapped_column(ForeignKey("adapter_families.id", ondelete="CASCADE"), index=True)
    job_id: Mapped[str | None] = mapped_column(String(48), default=None, index=True)
    schedule_id: Mapped[str | None] = mapped_column(String(48), default=None)
    method: Mapped[str] = mapped_column(String(20))
    recipe: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """The recipe with all overrides applied."""
    dataset_ids: Mapped[list[Any]] = mapped_column(default=list)
    dataset_version: Mapped[str | None] = mapped_column(String(64), default=None)
    """sha256 over the row digests that were used, in order."""
    parent_version_id: Mapped[str | None] = mapped_column(String(48), default=None)
    """Adapter version whose weights training starts from; None starts from the base."""
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    loss_curve: Mapped[list[Any]] = mapped_column(default=list)
    """[{step, loss, learning_rate, tokens}]"""
    gate_report: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    adapter_version_id: Mapped[str | None] = mapped_column(String(48), default=None)
    requested_by: Mapped[str | None] = mapped_column(String(48), default=None)
    reader_groups: Mapped[list[Any] | None] = mapped_column(default=None)
    """Groups of the key that asked: rows that it may not read are left out. None reads all, as an admin does."""
    created_at: Mapped[datetime] = created_column()


class Schedule(Base):
    """Cron plus conditions for a family. `next_at` is when beat looks again."""

    __tablename__ = "schedules"

    id: Mapped[str] = id_column("sch")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    family: Mapped[str] = mapped_column(String(64))
    cron: Mapped[str] = mapped_column(String(120))
    timezone: Mapped[str] = mapped_column(String(64), default="UTC")
    conditions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """`tuning.schedules.Conditions`"""
    request: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Body of the tuning run it makes: method, recipe, dataset_ids, overrides."""
    enabled: Mapped[bool] = mapped_column(default=True)
    next_at: Mapped[datetime | None] = mapped_column(default=None, index=True)
    last_checked_at: Mapped[datetime | None] = mapped_column(default=None)
    last_outcome: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    last_run_id: Mapped[str | None] = mapped_column(String(48), default=None)
    reader_groups: Mapped[list[Any] | None] = mapped_column(default=None)
    """Groups of the key that made or last changed it; as of a run."""
    created_at: Mapped[datetime] = created_column()
