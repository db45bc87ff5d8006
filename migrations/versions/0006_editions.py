"""Which edition of a thing a document is, and when it holds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_COLUMNS = ("valid_from", "valid_until", "validity_source", "supersedes", "edition_family", "edition")


def upgrade() -> None:
    op.add_column("documents", sa.Column("valid_from", sa.Date(), nullable=True))
    op.add_column("documents", sa.Column("valid_until", sa.Date(), nullable=True))
    op.add_column("documents", sa.Column("validity_source", sa.String(length=8), nullable=True))
    op.add_column("documents", sa.Column("supersedes", sa.String(length=512), nullable=True))
    op.add_column("documents", sa.Column("edition_family", sa.String(length=300), nullable=True))
    op.add_column("documents", sa.Column("edition", sa.JSON(), nullable=True))
    op.create_index("ix_documents_family", "documents", ["collection_id", "edition_family"], unique=False)
    op.create_index("ix_documents_supersedes", "documents", ["supersedes"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_documents_supersedes", table_name="documents")
    op.drop_index("ix_documents_family", table_name="documents")
    with op.batch_alter_table("documents", schema=None) as batch_op:
        for name in _COLUMNS:
            batch_op.drop_column(name)
