"""Evaluations of answers on a tenant's own questions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from core.tables import base as tables

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evaluation_sets",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("tenant_id", sa.String(length=48), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("questions", sa.JSON(), nullable=False),
        sa.Column("question_count", sa.Integer(), nullable=False),
        sa.Column("created_at", tables.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_evaluation_sets_tenant_id_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_sets")),
        sa.UniqueConstraint("tenant_id", "name", name=op.f("uq_evaluation_sets_tenant_id_name")),
    )
    with op.batch_alter_table("evaluation_sets", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_evaluation_sets_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_evaluation_sets_tenant_id"), ["tenant_id"], unique=False)
    op.create_table(
        "evaluation_runs",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("tenant_id", sa.String(length=48), nullable=False),
        sa.Column("job_id", sa.String(length=48), nullable=True),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("question_count", sa.Integer(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("asked_by", sa.JSON(), nullable=False),
        sa.Column("compared_with", sa.String(length=48), nullable=True),
        sa.Column("conditions", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=True),
        sa.Column("created_at", tables.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_evaluation_runs_tenant_id_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_runs")),
    )
    with op.batch_alter_table("evaluation_runs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_evaluation_runs_created_at"), ["created_at"], unique=False)
        batch_op.create_index("ix_evaluation_runs_tenant_name", ["tenant_id", "name"], unique=False)
    op.create_table(
        "evaluation_outcomes",
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("ordinal", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(length=32), nullable=False),
        sa.Column("question", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=True),
        sa.Column("outcome", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["evaluation_runs.id"],
            name=op.f("fk_evaluation_outcomes_run_id_evaluation_runs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("run_id", "ordinal", name=op.f("pk_evaluation_outcomes")),
    )


def downgrade() -> None:
    op.drop_table("evaluation_outcomes")
    with op.batch_alter_table("evaluation_runs", schema=None) as batch_op:
        batch_op.drop_index("ix_evaluation_runs_tenant_name")
        batch_op.drop_index(batch_op.f("ix_evaluation_runs_created_at"))
    op.drop_table("evaluation_runs")
    with op.batch_alter_table("evaluation_sets", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_evaluation_sets_tenant_id"))
        batch_op.drop_index(batch_op.f("ix_evaluation_sets_created_at"))
    op.drop_table("evaluation_sets")
