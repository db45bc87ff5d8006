"""Metadata as rows that an index finds; jobs and messages found by turn and by time, however many wait.

The indexes of tables that grow without end are made here on SQLite only; under PostgreSQL `core.migrate` makes them
concurrently.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from core.document_values import values_of
from core.tables.base import only_where

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_BATCH = 1_000
READY = "status = 'queued' AND not_before IS NULL"
DELAYED = "status = 'queued' AND not_before IS NOT NULL"
SENT = "status = 'queued' AND sent_at IS NOT NULL"


def upgrade() -> None:
    op.create_table(
        "document_values",
        sa.Column("key", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("value", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("document_id", sa.String(48), nullable=False),
        sa.Column("number", sa.Double(), nullable=True),
        sa.Column("moment", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["document_id"], ["documents.id"], name="fk_document_values_document_id_documents", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", "value", "document_id", name="pk_document_values"),
        sqlite_with_rowid=False,
    )
    _fill()
    op.create_index("ix_document_values_document", "document_values", ["document_id", "key"])
    for column in ("number", "moment"):
        op.create_index(
            f"ix_document_values_{column}", "document_values", ["key", column], **only_where(f"{column} IS NOT NULL")
        )
    op.create_index("ix_outbox_due", "outbox", ["not_before"], **only_where("not_before IS NOT NULL"))
    op.create_index("ix_outbox_undelayed", "outbox", ["created_at", "id"], **only_where("not_before IS NULL"))
    op.drop_index("ix_jobs_turn", table_name="jobs", if_exists=True)
    if op.get_bind().dialect.name == "postgresql":
        return
    op.create_index("ix_document_generations_text_sha256", "document_generations", ["text_sha256"])
    op.create_index("ix_documents_listed", "documents", ["tenant_id", "created_at", "id"])
    op.create_index("ix_jobs_listed", "jobs", ["tenant_id", "status", "created_at", "id"])
    op.create_index("ix_jobs_turn", "jobs", ["task", "tenant_id", "priority", "created_at", "id"], **only_where(READY))
    op.create_index("ix_jobs_delayed", "jobs", ["task", "tenant_id", "not_before"], **only_where(DELAYED))
    op.create_index("ix_jobs_sent", "jobs", ["task", "sent_at", "not_before"], **only_where(SENT))


def _fill() -> None:
    documents = sa.table("documents", sa.column("id"), sa.column("tenant_id"), sa.column("metadata", sa.JSON()))
    names = ("key", "value", "document_id", "number", "moment")
    values = sa.table("document_values", *(sa.column(name) for name in names))
    connection, after = op.get_bind(), ""
    while True:
        found = connection.execute(
            sa.select(documents).where(documents.c.id > after).order_by(documents.c.id).limit(_BATCH)
        ).all()
        rows = [row for id_, tenant_id, metadata in found for row in values_of(id_, tenant_id, metadata or {})]
        if rows:
            connection.execute(sa.insert(values), rows)
        if len(found) < _BATCH:
            return
        after = found[-1][0]


def downgrade() -> None:
    for name, table in {
        "ix_jobs_listed": "jobs",
        "ix_documents_listed": "documents",
        "ix_jobs_sent": "jobs",
        "ix_jobs_delayed": "jobs",
        "ix_jobs_turn": "jobs",
        "ix_document_generations_text_sha256": "document_generations",
        "ix_outbox_undelayed": "outbox",
        "ix_outbox_due": "outbox",
    }.items():
        op.drop_index(name, table_name=table, if_exists=True)
    if op.get_bind().dialect.name != "postgresql":
        op.create_index("ix_jobs_turn", "jobs", ["task", "status", "tenant_id", "priority", "created_at", "id"])
    op.drop_table("document_values")
