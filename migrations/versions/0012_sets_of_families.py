"""Training sets belong to families, can be retired as a whole, and can be deleted.

A set of before goes to the family whose runs took it, where that is one family only, else to `house`.
"""

from __future__ import annotations

import json
from collections import defaultdict

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_COLUMNS = ("family", "retired_at", "retired_reason", "deleted_at")


def upgrade() -> None:
    op.add_column("datasets", sa.Column("family", sa.String(length=64), nullable=False, server_default="house"))
    op.add_column("datasets", sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("datasets", sa.Column("retired_reason", sa.String(length=200), nullable=True))
    op.add_column("datasets", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_datasets_tenant_family", "datasets", ["tenant_id", "family"], unique=False)
    connection = op.get_bind()
    used: dict[str, set[str]] = defaultdict(set)
    runs = connection.execute(
        sa.text("SELECT r.dataset_ids, f.name FROM tuning_runs r JOIN adapter_families f ON f.id = r.family_id")
    )
    for given, family in runs:
        for dataset_id in json.loads(given) if isinstance(given, str) else given or []:
            used[str(dataset_id)].add(family)
    datasets = sa.table("datasets", sa.column("id", sa.String), sa.column("family", sa.String))
    for dataset_id, families in used.items():
        if len(families) == 1:
            connection.execute(datasets.update().where(datasets.c.id == dataset_id).values(family=families.pop()))


def downgrade() -> None:
    op.drop_index("ix_datasets_tenant_family", table_name="datasets")
    with op.batch_alter_table("datasets", schema=None) as batch_op:
        for name in _COLUMNS:
            batch_op.drop_column(name)
