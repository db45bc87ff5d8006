"""Evaluations: sets of questions with known answers, runs over them, and what became of each question."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, created_column, id_column


class EvaluationSet(Base):
    """A stored set of questions under a name of its tenant. Never changed: another set takes its place."""

    __tablename__ = "evaluation_sets"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[str] = id_column("evs")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    questions: Mapped[list[Any]] = mapped_column(default=list)
    """`generation.evaluation.questions.Question`, as checked."""
    question_count: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = created_column()


class EvaluationRun(Base):
    """Questions asked of the service; its live state is that of its job."""

    __tablename__ = "evaluation_runs"
    __table_args__ = (Index("ix_evaluation_runs_tenant_name", "tenant_id", "name"),)

    id: Mapped[str] = id_column("evr")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    job_id: Mapped[str | None] = mapped_column(String(48), default=None)
    name: Mapped[str] = mapped_column(String(200))
    """Of the set, or as given: runs of one name are compared."""
    question_count: Mapped[int] = mapped_column(default=0)
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{adapter, collection}: how every question is asked."""
    asked_by: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{key_id, scopes, groups}: whose eyes the documents are read with."""
    compared_with: Mapped[str | None] = mapped_column(String(48), default=None)
    """An earlier run."""
    conditions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What answered: index version, adapter, prompt, calibration, settings."""
    report: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = created_column()


class EvaluationOutcome(Base):
    """One question of a run, and its outcome once there is one: kept, so that a later attempt asks the rest only."""

    __tablename__ = "evaluation_outcomes"

    run_id: Mapped[str] = mapped_column(ForeignKey("evaluation_runs.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """From 1, in the order of the set."""
    digest: Mapped[str] = mapped_column(String(32))
    """Of the question with its labels."""
    question: Mapped[dict[str, Any]] = mapped_column(default=dict)
    status: Mapped[str | None] = mapped_column(String(16), default=None)
    """`generation.evaluation.outcome.Status`; None until it has been asked."""
    outcome: Mapped[dict[str, Any] | None] = mapped_column(default=None)
