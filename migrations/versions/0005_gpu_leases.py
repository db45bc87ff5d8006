"""Memory of GPUs that jobs hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from core.tables import base as tables

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gpu_leases",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("machine", sa.String(length=200), nullable=False),
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(length=48), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("pauses_serving", sa.Boolean(), nullable=False),
        sa.Column("created_at", tables.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_gpu_leases_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gpu_leases")),
    )
    with op.batch_alter_table("gpu_leases", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_gpu_leases_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_gpu_leases_job_id"), ["job_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_gpu_leases_machine"), ["machine"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("gpu_leases", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_gpu_leases_machine"))
        batch_op.drop_index(batch_op.f("ix_gpu_leases_job_id"))
        batch_op.drop_index(batch_op.f("ix_gpu_leases_created_at"))
    op.drop_table("gpu_leases")
