"""The whole extracted text of a document that a search found, with its structure, for calculations over tables."""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from sqlalchemy import select

from core.access import documents_visible
from core.database import Database
from core.errors import NotFound, Unavailable
from core.ports import BlobStore
from core.tables.documents import Document, DocumentGeneration
from core.types import AccessFilter, Block, BlockKind, DocumentStatus, Passage

log = structlog.stdlib.get_logger(__name__)

MAX_CHARS = 2_000_000
"""Longer documents are not read whole for one question."""


@dataclass(frozen=True, slots=True)
class DocumentText:
    """Extracted text and the blocks found in it, in order."""

    text: str
    blocks: tuple[Block, ...]


class DocumentTexts:
    """Reads texts of the generations that serve."""

    def __init__(self, db: Database, blobs: BlobStore) -> None:
        self._db = db
        self._blobs = blobs

    def read(self, access: AccessFilter, passage: Passage) -> DocumentText | None:
        """The text that a passage is of.

        None: the caller may not read the document, it was replaced or deleted a moment ago, its bytes are away, or it
        is longer than MAX_CHARS.
        """
        with self._db.read() as session:
            row = session.execute(
                select(DocumentGeneration.text_sha256, DocumentGeneration.blocks)
                .join(Document, Document.id == DocumentGeneration.document_id)
                .where(
                    documents_visible(access),
                    Document.id == passage.document_id,
                    Document.status != DocumentStatus.DELETING.value,
                    Document.active_generation == passage.generation,
                    DocumentGeneration.generation == passage.generation,
                    DocumentGeneration.char_count <= MAX_CHARS,
                )
            ).one_or_none()
        if row is None or row.text_sha256 is None or not row.blocks:
            return None
        try:
            text = self._blobs.get(row.text_sha256).decode("utf-8")
        except (NotFound, Unavailable) as error:
            log.warning("tables.no_text", document_id=passage.document_id, reason=error.code)
            return None
        return DocumentText(text, tuple(Block(BlockKind(kind), *place) for kind, *place in row.blocks))
