"""Answers as given, and what people said of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, created_column, id_column


class Answer(Base):
    """A stored answer with all that is needed to reproduce and to audit it."""

    __tablename__ = "answers"
    __table_args__ = (Index("ix_answers_family_created", "family_id", "created_at"),)

    id: Mapped[str] = id_column("ans")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    key_id: Mapped[str | None] = mapped_column(String(48), default=None)
    conversation_id: Mapped[str | None] = mapped_column(String(100), default=None, index=True)
    question: Mapped[str] = mapped_column(Text)
    answer: Mapped[str] = mapped_column(Text)
    refused: Mapped[bool] = mapped_column(default=False)
    refusal_reason: Mapped[str | None] = mapped_column(String(80), default=None)
    citations: Mapped[list[Any]] = mapped_column(default=list)
    passages: Mapped[list[Any]] = mapped_column(default=list)
    """What the model read: [{chunk_id, document_id, generation, score, relevance}] in prompt order."""
    groups: Mapped[list[Any] | None] = mapped_column(default=None)
    """Union of the access groups of the passages: a training row made of this answer inherits them."""
    confidence: Mapped[float | None] = mapped_column(default=None)
    evidence: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    """{"lines", "alternatives", "nearest"}: units as the asker saw them."""
    provenance: Mapped[dict[str, Any]] = mapped_column(default=dict)
    usage: Mapped[dict[str, Any]] = mapped_column(default=dict)
    timings_ms: Mapped[dict[str, Any]] = mapped_column(default=dict)
    parameters: Mapped[dict[str, Any]] = mapped_column(default=dict)
    adapter_version_id: Mapped[str | None] = mapped_column(String(48), default=None, index=True)
    family_id: Mapped[str | None] = mapped_column(String(48), default=None)
    """Family whose alias chose the adapter; None where a version or the base was named."""
    arm: Mapped[str | None] = mapped_column(String(16), default=None)
    """`canary` or `champion`: which side of a running canary its conversation was drawn for."""
    created_at: Mapped[datetime] = created_column()


class Feedback(Base):
    """A rating, with a correction that may become a training row if `consent`."""

    __tablename__ = "feedback"

    id: Mapped[str] = id_column("fbk")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    answer_id: Mapped[str] = mapped_column(ForeignKey("answers.id", ondelete="CASCADE"), index=True)
    key_id: Mapped[str | None] = mapped_column(String(48), default=None)
    rating: Mapped[str] = mapped_column(String(8))
    correction: Mapped[str | None] = mapped_column(Text, default=None)
    comment: Mapped[str | None] = mapped_column(Text, default=None)
    consent: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = created_column()
