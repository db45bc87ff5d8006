"""Weights of the evidence stage that were fitted to a tenant's own questions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from core.tables import base as tables

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evidence_calibrations",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("tenant_id", sa.String(length=48), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("created_at", tables.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_evidence_calibrations_tenant_id_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evidence_calibrations")),
    )
    op.create_index(op.f("ix_evidence_calibrations_tenant_id"), "evidence_calibrations", ["tenant_id"])
    op.create_index(op.f("ix_evidence_calibrations_created_at"), "evidence_calibrations", ["created_at"])


def downgrade() -> None:
    op.drop_table("evidence_calibrations")
