"""Training sets that a teacher writes, and runs that start from an adapter version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from core.tables import base as tables

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dataset_builds",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("tenant_id", sa.String(length=48), nullable=False),
        sa.Column("job_id", sa.String(length=48), nullable=True),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("teacher", sa.String(length=120), nullable=False),
        sa.Column("asked_by", sa.JSON(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=True),
        sa.Column("dataset_ids", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("created_at", tables.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_dataset_builds_tenant_id_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_builds")),
    )
    with op.batch_alter_table("dataset_builds", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_dataset_builds_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_dataset_builds_tenant_id"), ["tenant_id"], unique=False)
    op.create_table(
        "dataset_build_steps",
        sa.Column("build_id", sa.String(length=48), nullable=False),
        sa.Column("piece_id", sa.String(length=48), nullable=False),
        sa.Column("outcome", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["build_id"],
            ["dataset_builds.id"],
            name=op.f("fk_dataset_build_steps_build_id_dataset_builds"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("build_id", "piece_id", name=op.f("pk_dataset_build_steps")),
    )
    with op.batch_alter_table("tuning_runs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("parent_version_id", sa.String(length=48), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("tuning_runs", schema=None) as batch_op:
        batch_op.drop_column("parent_version_id")
    op.drop_table("dataset_build_steps")
    with op.batch_alter_table("dataset_builds", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_dataset_builds_tenant_id"))
        batch_op.drop_index(batch_op.f("ix_dataset_builds_created_at"))
    op.drop_table("dataset_builds")
