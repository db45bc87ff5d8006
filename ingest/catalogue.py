"""Documents as callers look at them: one, lists, chunks, source bytes and extracted text of what serves."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from core.access import Principal, access_filter, documents_visible
from core.database import Database
from core.errors import Conflict, NotFound
from core.paging import Page, checked_limit, cut_page, decode_ordinal, encode_ordinal, newest_page
from core.ports import BlobStore
from core.repositories.documents import serving_chunk_set, visible_document
from core.tables.documents import ChunkRow, Collection, Document, DocumentGeneration
from core.types import DocumentStatus


@dataclass(frozen=True, slots=True)
class Content:
    """Source bytes, or extracted text as UTF-8, of the generation that serves."""

    data: bytes
    media_type: str
    encoding: str | None
    filename: str
    generation: int


class DocumentCatalogue:
    """The read side of documents. Thread-safe."""

    def __init__(self, db: Database, blobs: BlobStore) -> None:
        self._db = db
        self._blobs = blobs

    def get(self, principal: Principal, document_id: str) -> Document:
        """One document; NotFound unless it is there for this principal."""
        with self._db.read() as session:
            return visible_document(session, access_filter(principal), document_id)

    def list(
        self,
        principal: Principal,
        *,
        limit: int = 50,
        cursor: str | None = None,
        collection: str | None = None,
        status: DocumentStatus | None = None,
        external_id: str | None = None,
        error_code: str | None = None,
        retryable: bool | None = None,
    ) -> Page[Document]:
        """Documents that the principal may see, newest first.

        `status=failed` is the failed inbox; `retryable` parts what may pass by itself from what never will.
        """
        query = select(Document).where(documents_visible(access_filter(principal)))
        if collection is not None:
            query = query.join(Collection, Collection.id == Document.collection_id).where(Collection.name == collection)
        if status is not None:
            query = query.where(Document.status == status.value)
        if external_id is not None:
            query = query.where(Document.external_id == external_id)
        if error_code is not None:
            query = query.where(Document.error["code"].as_string() == error_code)
        if retryable is not None:
            query = query.where(Document.error["retryable"].as_boolean().is_(retryable))
        query = newest_page(query, Document, cursor, limit)
        with self._db.read() as session:
            return cut_page(session.scalars(query).all(), limit)

    def chunks(
        self, principal: Principal, document_id: str, *, limit: int = 50, cursor: str | None = None
    ) -> Page[ChunkRow]:
        """Chunks of the generation that serves, in reading order; the cursor holds across a replacement or refuses."""
        with self._db.read() as session:
            document = visible_document(session, access_filter(principal), document_id)
            query = select(ChunkRow).where(
                ChunkRow.document_id == document.id,
                ChunkRow.generation == document.active_generation,
                ChunkRow.chunk_set == serving_chunk_set(session),
            )
            if cursor is not None:
                query = query.where(ChunkRow.ordinal > _ordinal_behind(cursor, document.active_generation))
            rows = list(session.scalars(query.order_by(ChunkRow.ordinal).limit(checked_limit(limit) + 1)))
        more = len(rows) > limit
        rows = rows[:limit]
        return Page(rows, encode_ordinal(rows[-1].generation, rows[-1].ordinal) if more else None)

    def content(self, principal: Principal, document_id: str, *, as_text: bool = False) -> Content:
        """Source bytes, or the extracted text, of the generation that serves (else of the newest).

        Raises:
            NotFound: no such document for this principal, or it has no text yet.
        """
        try:
            return self._content(principal, document_id, as_text)
        except NotFound:
            # A replacement may have switched, and dropped the old blobs, between the row and the bytes: look once more.
            return self._content(principal, document_id, as_text)

    def _content(self, principal: Principal, document_id: str, as_text: bool) -> Content:
        with self._db.read() as session:
            document = visible_document(session, access_filter(principal), document_id)
            serving = document.active_generation or document.latest_generation
            generation = session.get(DocumentGeneration, (document.id, serving))
        if generation is None or document.status == DocumentStatus.DELETING.value:
            raise NotFound(f"no content of document '{document_id}'")
        if not as_text:
            data = self._blobs.get(generation.source_sha256)
            media_type = generation.media_type or "application/octet-stream"
            return Content(data, media_type, generation.encoding, generation.filename, serving)
        if generation.text_sha256 is None:
            raise NotFound(f"document '{document_id}' has no extracted text (status: {document.status})")
        data = self._blobs.get(generation.text_sha256)
        return Content(data, "text/plain", "utf-8", generation.filename, serving)


def _ordinal_behind(cursor: str, generation: int | None) -> int:
    of_generation, ordinal = decode_ordinal(cursor)
    if of_generation != generation:
        raise Conflict("the document was replaced since the first page; read from the start", code="cursor_outdated")
    return ordinal
