"""Jobs and the outbox. The database owns a job's state; a broker message is only a hint that it may be worked on."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, false
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, created_column, id_column, only_where

READY = "status = 'queued' AND not_before IS NULL"
DELAYED = "status = 'queued' AND not_before IS NOT NULL"
SENT = "status = 'queued' AND sent_at IS NOT NULL"


class Job(Base):
    """One unit of background work. `attempt` is the fencing token: a write carrying an older one is refused."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_status_heartbeat", "status", "heartbeat_at"),
        Index("ix_jobs_tenant_created", "tenant_id", "created_at"),
        Index("ix_jobs_turn", "task", "tenant_id", "priority", "created_at", "id", **only_where(READY)),
        Index("ix_jobs_delayed", "task", "tenant_id", "not_before", **only_where(DELAYED)),
        Index("ix_jobs_sent", "task", "sent_at", "not_before", **only_where(SENT)),
        Index("ix_jobs_kind_status", "kind", "status"),
        Index("ix_jobs_listed", "tenant_id", "status", "created_at", "id"),
    )

    id: Mapped[str] = id_column("job")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    stage: Mapped[str | None] = mapped_column(String(40), default=None)
    progress: Mapped[float] = mapped_column(default=0.0)
    attempt: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    """Attempts that ended in a transient error."""
    crashes: Mapped[int] = mapped_column(default=0)
    """Attempts that ended without a word: the worker died."""
    attempts_log: Mapped[list[Any]] = mapped_column(default=list)
    """One {attempt, ended_at, reason, code} per ended attempt."""
    subject_id: Mapped[str] = mapped_column(String(48), index=True)
    """What it works on: a document or a tuning run."""
    task: Mapped[str] = mapped_column(String(80))
    """Task that does it now (`core.queue.Task`); a job of two parts moves from one task to the next."""
    arguments: Mapped[dict[str, Any]] = mapped_column(default=dict)
    priority: Mapped[int] = mapped_column(default=5)
    """0 is the most urgent, 9 the least, as Celery's Redis transport counts."""
    error: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    irrevocable: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It has begun what cannot be taken back: it is no longer cancelled, only redone until it is whole."""
    worker: Mapped[str | None] = mapped_column(String(120), default=None)
    created_at: Mapped[datetime] = created_column()
    not_before: Mapped[datetime | None] = mapped_column(default=None)
    sent_at: Mapped[datetime | None] = mapped_column(default=None)
    started_at: Mapped[datetime | None] = mapped_column(default=None)
    heartbeat_at: Mapped[datetime | None] = mapped_column(default=None)
    finished_at: Mapped[datetime | None] = mapped_column(default=None)


class OutboxMessage(Base):
    """A task to publish, written in the transaction that makes it necessary, dropped when published."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_due", "not_before", **only_where("not_before IS NOT NULL")),
        Index("ix_outbox_undelayed", "created_at", "id", **only_where("not_before IS NULL")),
    )

    id: Mapped[str] = id_column("msg")
    task: Mapped[str] = mapped_column(String(80))
    arguments: Mapped[dict[str, Any]]
    queue: Mapped[str] = mapped_column(String(40))
    priority: Mapped[int] = mapped_column(default=5)
    created_at: Mapped[datetime] = created_column()
    not_before: Mapped[datetime | None] = mapped_column(default=None)
    send_attempts: Mapped[int] = mapped_column(default=0)
