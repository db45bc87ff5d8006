"""Jobs are found by whose turn it is without reading them all; audit rows know the order in which they were committed.

The indexes of these tables are made here on SQLite only; under PostgreSQL `core.migrate` makes them concurrently.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_audit_tenant_position": ("audit", ["tenant_id", "position", "created_at", "id"]),
    "ix_jobs_kind_status": ("jobs", ["kind", "status"]),
    "ix_jobs_turn": ("jobs", ["task", "status", "tenant_id", "priority", "created_at", "id"]),
}


def upgrade() -> None:
    # A constant first: with a default that differs for each row, PostgreSQL would write the table anew.
    op.add_column("audit", sa.Column("position", sa.BigInteger(), server_default="0", nullable=False))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE audit ALTER COLUMN position SET DEFAULT pg_current_xact_id()::text::bigint")
        return
    for name, (table, columns) in INDEXES.items():
        op.create_index(name, table, columns)


def downgrade() -> None:
    for name, (table, _columns) in INDEXES.items():
        op.drop_index(name, table_name=table, if_exists=True)
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.drop_column("position")
