"""Index versions beside one another: what each holds, which chunks it indexes, and the blocks to cut others from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from core.tables import base as tables

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("index_versions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("config", sa.JSON(), nullable=False, server_default="{}"))
        batch_op.add_column(sa.Column("chunk_set", sa.String(length=16), nullable=False, server_default=sa.text("''")))
        batch_op.add_column(sa.Column("status", sa.String(length=16), nullable=False, server_default="ready"))
        batch_op.add_column(sa.Column("previous", sa.String(length=48), nullable=True))
        batch_op.add_column(sa.Column("activated_at", tables.UtcDateTime(timezone=True), nullable=True))
    with op.batch_alter_table("chunks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("chunk_set", sa.String(length=16), nullable=False, server_default=sa.text("''")))
        batch_op.create_index("ix_chunks_chunk_set", ["chunk_set"], unique=False)
    with op.batch_alter_table("document_generations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("blocks", sa.JSON(), nullable=True))
    op.create_table(
        "index_contents",
        sa.Column("version_id", sa.String(length=48), nullable=False),
        sa.Column("document_id", sa.String(length=48), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("chunk_count", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["document_id"], ["documents.id"], name=op.f("fk_index_contents_document_id_documents"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["index_versions.id"],
            name=op.f("fk_index_contents_version_id_index_versions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "document_id", name=op.f("pk_index_contents")),
    )
    with op.batch_alter_table("index_contents", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_index_contents_document_id"), ["document_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("index_contents", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_index_contents_document_id"))
    op.drop_table("index_contents")
    with op.batch_alter_table("document_generations", schema=None) as batch_op:
        batch_op.drop_column("blocks")
    with op.batch_alter_table("chunks", schema=None) as batch_op:
        batch_op.drop_index("ix_chunks_chunk_set")
        batch_op.drop_column("chunk_set")
    with op.batch_alter_table("index_versions", schema=None) as batch_op:
        for name in ("activated_at", "previous", "status", "chunk_set", "config"):
            batch_op.drop_column(name)
