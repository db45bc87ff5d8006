"""Where training rows come from, which runs saw them, and answers that people wrote themselves."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, created_column, id_column

EVALUATED = "evaluated"
"""`RunDocument.use` of a document that was only asked about."""


class RowSource(Base):
    """One thing a training row was made from: a document, an answer, a feedback, a curated answer."""

    __tablename__ = "row_sources"
    __table_args__ = (Index("ix_row_sources_kind_source", "kind", "source_id"),)

    row_id: Mapped[str] = mapped_column(ForeignKey("dataset_rows.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(12), primary_key=True)
    """document, answer, feedback, curated."""
    source_id: Mapped[str] = mapped_column(String(48), primary_key=True)
    generation: Mapped[int | None] = mapped_column(default=None)
    """Of a document."""


class RunRow(Base):
    """A row that a tuning run used, and for what. No foreign key to the row: what was seen stays seen."""

    __tablename__ = "run_rows"

    run_id: Mapped[str] = mapped_column(ForeignKey("tuning_runs.id", ondelete="CASCADE"), primary_key=True)
    row_id: Mapped[str] = mapped_column(String(48), primary_key=True, index=True)
    part: Mapped[str] = mapped_column(String(12))
    """train, held_out, or parent: not shown by this run, but its weights started from those that learnt it."""


class RunDocument(Base):
    """A document whose text a run put before the model: through a row, or as a passage that misleads."""

    __tablename__ = "run_documents"

    run_id: Mapped[str] = mapped_column(ForeignKey("tuning_runs.id", ondelete="CASCADE"), primary_key=True)
    document_id: Mapped[str] = mapped_column(String(48), primary_key=True, index=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    use: Mapped[str] = mapped_column(String(12), primary_key=True)
    """row, negative, parent (seen by the version that training started from), or evaluated: the gate asked about it and
    no weights learnt from it."""


class CuratedAnswer(Base):
    """An answer that people wrote for a question: given instead of a generated one until a champion has learnt it."""

    __tablename__ = "curated_answers"
    __table_args__ = (Index("ix_curated_answers_tenant_key", "tenant_id", "question_key"),)

    id: Mapped[str] = id_column("cur")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    question: Mapped[str] = mapped_column(Text)
    question_key: Mapped[str] = mapped_column(String(64))
    """sha256 over the folded question (`generation.curated.question_key`)."""
    answer: Mapped[str] = mapped_column(Text)
    groups: Mapped[list[Any] | None] = mapped_column(default=None)
    """Who may be told; None is the whole tenant."""
    passages: Mapped[list[Any]] = mapped_column(default=list)
    """[{document_id, generation, title, text}] that it rests on, for training."""
    created_by: Mapped[str] = mapped_column(String(120))
    created_at: Mapped[datetime] = created_column()
    retired_at: Mapped[datetime | None] = mapped_column(default=None)
    retired_reason: Mapped[str | None] = mapped_column(String(200), default=None)


class JudgeCalibration(Base):
    """How well a judge agreed with people; a judge without one may not gate."""

    __tablename__ = "judge_calibrations"

    id: Mapped[str] = id_column("jdg")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    judge: Mapped[str] = mapped_column(String(200), index=True)
    """Models and rubric version: another ensemble or another rubric is another judge."""
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = created_column()
