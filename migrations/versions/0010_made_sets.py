"""Training sets that the service made name no file: there is none, and a backup looked for it in vain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_DATASETS = sa.table("datasets", sa.column("source_sha256", sa.String), sa.column("content_sha256", sa.String))


def upgrade() -> None:
    with op.batch_alter_table("datasets", schema=None) as batch_op:
        batch_op.alter_column("source_sha256", existing_type=sa.String(length=64), nullable=True)
    # Of an upload the two differ: one is of the file's bytes, the other of format and rows.
    made = _DATASETS.c.source_sha256 == _DATASETS.c.content_sha256
    op.execute(_DATASETS.update().where(made).values(source_sha256=None))


def downgrade() -> None:
    op.execute(
        _DATASETS.update().where(_DATASETS.c.source_sha256.is_(None)).values(source_sha256=_DATASETS.c.content_sha256)
    )
    with op.batch_alter_table("datasets", schema=None) as batch_op:
        batch_op.alter_column("source_sha256", existing_type=sa.String(length=64), nullable=False)
