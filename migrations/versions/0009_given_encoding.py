"""The encoding that an upload says its text is in; groups in one spelling, as all other names are already."""

from __future__ import annotations

import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("document_generations", sa.Column("given_encoding", sa.String(length=40), nullable=True))
    groups = sa.table("document_groups", sa.column("document_id", sa.String), sa.column("group_name", sa.String))
    connection = op.get_bind()
    names = connection.execute(sa.select(groups.c.group_name).distinct()).scalars().all()
    for name in names:
        spelt = unicodedata.normalize("NFC", name)
        if spelt != name:
            other = groups.alias()
            both = sa.select(other.c.document_id).where(other.c.group_name == spelt)
            connection.execute(groups.delete().where(groups.c.group_name == name, groups.c.document_id.in_(both)))
            connection.execute(groups.update().where(groups.c.group_name == name).values(group_name=spelt))


def downgrade() -> None:
    with op.batch_alter_table("document_generations", schema=None) as batch_op:
        batch_op.drop_column("given_encoding")
