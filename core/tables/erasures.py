"""Erasures: what is to be forgotten, what was found of it, and the certificate. And the ids of documents forgotten."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, created_column, id_column, utc_now


class Erasure(Base):
    """One request to forget; its live state is that of its job."""

    __tablename__ = "erasures"

    id: Mapped[str] = id_column("era")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    """Who asked, and whose job it is."""
    subject_tenant_id: Mapped[str] = mapped_column(String(48), index=True)
    """Whose data. No foreign key: the certificate outlives a tenant that was erased."""
    job_id: Mapped[str | None] = mapped_column(String(48), default=None)
    kind: Mapped[str] = mapped_column(String(16))
    """document, text or tenant."""
    selector: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{documents: [id]}, {text} until all of it is gone and {text_sha256} from then on, or {tenant}."""
    retire: Mapped[str] = mapped_column(String(16), default="now")
    """What becomes of adapter versions that saw it: now, or after_retrain."""
    status: Mapped[str] = mapped_column(String(16), default="planning")
    """planning, planned, erasing, waiting (for a clean training) or done."""
    plan: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """What was held where when it was planned: counts and ids, never text."""
    found: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{documents, runs, versions}: ids of what has traces outside of its row. It only grows."""
    tally: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """`erasure.tally.Tally` of what has been erased so far."""
    retrains: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{family id: {run_id, problem}}: trainings that are to take the place of versions that saw it."""
    certificate: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    asked_by: Mapped[str] = mapped_column(String(120))
    created_at: Mapped[datetime] = created_column()
    begun_at: Mapped[datetime | None] = mapped_column(default=None)
    """When it could no longer be cancelled."""
    finished_at: Mapped[datetime | None] = mapped_column(default=None)


class ErasedDocument(Base):
    """A document that was erased: what was read of it before, and is only being stored now, is not stored."""

    __tablename__ = "erased_documents"

    document_id: Mapped[str] = mapped_column(String(48), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(48), index=True)
    erasure_id: Mapped[str] = mapped_column(String(48))
    erased_at: Mapped[datetime] = mapped_column(default=utc_now)
