"""Whose rows a run may take: the groups of the key that asked for it, or for its schedule."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("tuning_runs", "schedules"):
        op.add_column(table, sa.Column("reader_groups", sa.JSON(), nullable=True))


def downgrade() -> None:
    for table in ("tuning_runs", "schedules"):
        op.drop_column(table, "reader_groups")
