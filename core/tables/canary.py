"""Policies of families, canary trials, shadow answers, and answers that failed: what automatic moves rest on."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, created_column, id_column, utc_now


class FamilyPolicy(Base):
    """How versions of a family come to serve, and whom it serves. A family without a row has the defaults."""

    __tablename__ = "family_policies"

    family_id: Mapped[str] = mapped_column(ForeignKey("adapter_families.id", ondelete="CASCADE"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(48), index=True)
    policy: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """`generation.canary.policy.Policy`"""
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class CanaryTrial(Base):
    """One canary from its start to its end; `alias_revision` says which move of the alias began it."""

    __tablename__ = "canary_trials"
    __table_args__ = (UniqueConstraint("family_id", "alias_revision"),)

    id: Mapped[str] = id_column("trl")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    family_id: Mapped[str] = mapped_column(ForeignKey("adapter_families.id", ondelete="CASCADE"), index=True)
    alias_revision: Mapped[int]
    version_id: Mapped[str] = mapped_column(String(48), index=True)
    champion_version_id: Mapped[str | None] = mapped_column(String(48), default=None)
    """None: the base."""
    percent: Mapped[int]
    policy: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """As it was at the start: a rule changed half-way would be chosen after seeing the figures."""
    slow_after_ms: Mapped[float | None] = mapped_column(default=None)
    """Fixed at the start, from answers before it."""
    counts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{conversations: {canary, champion}, figures: {name: {canary, champion}}, last_at: {canary, champion}},
    of what has settled.
    """
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """As last shown: shares and evidence."""
    settled_until: Mapped[datetime]
    """Conversations that began up to here are counted."""
    outcome: Mapped[str] = mapped_column(String(16), default="running")
    """running, rolled_back, promoted, passed (waits for a hand), no_traffic, ended (by hand)."""
    reason: Mapped[str | None] = mapped_column(Text, default=None)
    created_at: Mapped[datetime] = created_column()
    ended_at: Mapped[datetime | None] = mapped_column(default=None)


class ShadowAnswer(Base):
    """What a shadow version would have said; scored, never sent."""

    __tablename__ = "shadow_answers"

    id: Mapped[str] = id_column("shd")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    family_id: Mapped[str] = mapped_column(ForeignKey("adapter_families.id", ondelete="CASCADE"), index=True)
    version_id: Mapped[str] = mapped_column(String(48), index=True)
    answer_id: Mapped[str] = mapped_column(ForeignKey("answers.id", ondelete="CASCADE"), index=True)
    answer: Mapped[str] = mapped_column(Text)
    shadow: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{refused, uncited, chars, ms, error?}"""
    sent: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """The same of the answer that was sent."""
    created_at: Mapped[datetime] = created_column()


class AnswerFailure(Base):
    """An answer that broke off with an error: it has no row in `answers`, and an adapter may be the cause."""

    __tablename__ = "answer_failures"
    __table_args__ = (Index("ix_answer_failures_family_created", "family_id", "created_at"),)

    id: Mapped[str] = id_column("fai")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    family_id: Mapped[str | None] = mapped_column(String(48), default=None)
    arm: Mapped[str | None] = mapped_column(String(16), default=None)
    conversation_id: Mapped[str | None] = mapped_column(String(100), default=None)
    """Or what else was drawn for the arm (`generation.canary.draw`)."""
    adapter_version_id: Mapped[str | None] = mapped_column(String(48), default=None)
    code: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = created_column()
