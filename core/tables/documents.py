"""Collections, documents, their generations and chunks.

`documents.active_generation` is the switch: a chunk or point of any other generation does not exist for readers.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    Date,
    Double,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
    delete,
    event,
    insert,
    inspect,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from core.document_values import values_of
from core.tables.base import Base, Name, created_column, id_column, only_where


class Collection(Base):
    """A named set of documents; `default` exists in each tenant from its creation."""

    __tablename__ = "collections"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[str] = id_column("col")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Name(100))
    created_at: Mapped[datetime] = created_column()


class Document(Base):
    """A document across its generations. Deleting ones keep their row until the index is clean."""

    __tablename__ = "documents"
    __table_args__ = (
        UniqueConstraint("tenant_id", "collection_id", "external_id"),
        Index("ix_documents_tenant_status", "tenant_id", "status"),
        Index("ix_documents_listed", "tenant_id", "created_at", "id"),
        Index("ix_documents_family", "collection_id", "edition_family"),
    )

    id: Mapped[str] = id_column("doc")
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    collection_id: Mapped[str] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"), index=True)
    external_id: Mapped[str | None] = mapped_column(Name(512), default=None)
    filename: Mapped[str] = mapped_column(Name(512))
    status: Mapped[str] = mapped_column(String(16))
    error: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """{code, detail, retryable} of the newest generation when it failed."""
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    latest_generation: Mapped[int] = mapped_column(default=1)
    active_generation: Mapped[int | None] = mapped_column(default=None)
    valid_from: Mapped[date | None] = mapped_column(Date, default=None)
    """First day on which it holds."""
    valid_until: Mapped[date | None] = mapped_column(Date, default=None)
    """Last day on which it holds."""
    validity_source: Mapped[str | None] = mapped_column(String(8), default=None)
    """`given` by a person, or `found` in name and text; whoever gives one of the two days has spoken for both."""
    supersedes: Mapped[str | None] = mapped_column(Name(512), default=None, index=True)
    """Id or external id of the document whose place it takes; always given."""
    edition_family: Mapped[str | None] = mapped_column(String(300), default=None)
    """Its name without what tells editions apart."""
    edition: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """What was found: `core.editions.facts_of`."""
    created_at: Mapped[datetime] = created_column()
    updated_at: Mapped[datetime] = created_column()


class DocumentValue(Base):
    """One value of a document's metadata as `core.document_values` has it; filters look here, not into JSON."""

    __tablename__ = "document_values"
    __table_args__ = (
        Index("ix_document_values_document", "document_id", "key"),
        Index("ix_document_values_number", "key", "number", **only_where("number IS NOT NULL")),
        Index("ix_document_values_moment", "key", "moment", **only_where("moment IS NOT NULL")),
        {"sqlite_with_rowid": False},
    )

    key: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    value: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[float | None] = mapped_column(Double, default=None)
    moment: Mapped[int | None] = mapped_column(BigInteger, default=None)
    """Microseconds since 1970, where it is a date or a time."""


@event.listens_for(Document, "after_insert")
@event.listens_for(Document, "after_update")
def _write_values(_mapper: object, connection: Connection, document: Document) -> None:
    """With the document's row, whoever writes it."""
    history = inspect(document).attrs.metadata_.history
    if not history.has_changes():
        return
    if history.deleted:
        connection.execute(delete(DocumentValue).where(DocumentValue.document_id == document.id))
    rows = list(values_of(document.id, document.tenant_id, document.metadata_ or {}))
    if rows:
        connection.execute(insert(DocumentValue), rows)


class DocumentGroup(Base):
    """Who may read a document: one row per group, or one row with PUBLIC_GROUP for the whole tenant."""

    __tablename__ = "document_groups"

    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True)
    group_name: Mapped[str] = mapped_column(Name(200), primary_key=True, index=True)


class DocumentGeneration(Base):
    """One content of a document: source bytes and, after extraction, the text and its facts."""

    __tablename__ = "document_generations"

    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(48), index=True)
    source_sha256: Mapped[str] = mapped_column(String(64), index=True)
    filename: Mapped[str] = mapped_column(Name(512))
    byte_size: Mapped[int]
    media_type: Mapped[str | None] = mapped_column(String(200), default=None)
    encoding: Mapped[str | None] = mapped_column(String(40), default=None)
    given_encoding: Mapped[str | None] = mapped_column(String(40), default=None)
    """What the upload said its text is in; read again, it is read so again."""
    text_sha256: Mapped[str | None] = mapped_column(String(64), default=None, index=True)
    char_count: Mapped[int | None] = mapped_column(default=None)
    page_count: Mapped[int | None] = mapped_column(default=None)
    title: Mapped[str | None] = mapped_column(String(512), default=None)
    language: Mapped[str | None] = mapped_column(String(8), default=None)
    quality: Mapped[dict[str, Any]] = mapped_column(default=dict)
    blocks: Mapped[list[Any] | None] = mapped_column(JSON, default=None, deferred=True)
    """[kind, start, end, page, level] of the extracted blocks, from which another index version cuts its chunks."""
    places: Mapped[list[Any] | None] = mapped_column(JSON, default=None, deferred=True)
    """[page, text, x0, y0, x1, y1] of what OCR read (`PlacedText`), from which page images mark their spans."""
    chunk_count: Mapped[int | None] = mapped_column(default=None)
    index_version: Mapped[str | None] = mapped_column(String(48), default=None)
    created_at: Mapped[datetime] = created_column()


class ChunkRow(Base):
    """A chunk's text and place. Its id, uuid5 over (document, generation, ordinal, chunk set), is the point's."""

    __tablename__ = "chunks"
    __table_args__ = (
        Index("ix_chunks_document_generation", "document_id", "generation"),
        Index("ix_chunks_chunk_set", "chunk_set"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(48), index=True)
    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"))
    generation: Mapped[int]
    ordinal: Mapped[int]
    chunk_set: Mapped[str] = mapped_column(String(16), default="", server_default=text("''"))
    """How the text was cut: `IndexVersion.chunk_set`."""
    start: Mapped[int]
    end: Mapped[int]
    page: Mapped[int | None] = mapped_column(default=None)
    heading: Mapped[str | None] = mapped_column(Text, default=None)
    text: Mapped[str] = mapped_column(Text)
    token_count: Mapped[int] = mapped_column(default=0)
