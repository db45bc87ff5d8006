"""Images of pages for readers of citations: which page, which span, and the sandbox that draws them.

Bytes from outside are never parsed in this process; the sandbox is started when the first page is asked for.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import undefer

from core.access import Principal, access_filter
from core.database import Database
from core.errors import InvalidInput, NotFound, Unavailable
from core.ports import BlobStore
from core.repositories.documents import visible_document
from core.settings import Settings
from core.tables import DocumentGeneration
from core.types import BlockKind, DocumentStatus, PlacedText
from ingest.extract.page_search import Mark
from ingest.sandbox import Sandbox

_VERSION = "1"
"""Part of the tag: changes where the same page would be drawn differently."""
_AT_ONCE = 2
_WAIT_S = 20.0
_MAX_SPAN = 20_000


@dataclass(frozen=True, slots=True)
class DrawnPage:
    """A PNG, and the boxes marked in it in pixels."""

    png: bytes
    boxes: Sequence[tuple[int, int, int, int]]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A page that may be drawn for the principal who asked. tag: the same for the same image."""

    tag: str
    number: int
    source_sha256: str
    filename: str
    marks: tuple[Mark, ...]
    places: tuple[PlacedText, ...]


class PageImages:
    """Draws pages. Thread-safe; a few at once."""

    def __init__(self, db: Database, blobs: BlobStore, settings: Settings) -> None:
        self._db = db
        self._blobs = blobs
        self._settings = settings
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None
        self._free = threading.BoundedSemaphore(_AT_ONCE)

    def find(
        self, principal: Principal, document_id: str, number: int, highlight: tuple[int, int] | None
    ) -> PageRequest:
        """What is to be drawn, without drawing it.

        Raises:
            NotFound: no such document for this principal; `no_pages`; `no_such_page`.
            InvalidInput: `invalid_highlight`, a span that the text does not have.
        """
        with self._db.read() as session:
            document = visible_document(session, access_filter(principal), document_id)
            serving = document.active_generation or document.latest_generation
            row = session.get(
                DocumentGeneration,
                (document.id, serving),
                options=[undefer(DocumentGeneration.blocks), undefer(DocumentGeneration.places)],
            )
        if row is None or document.status == DocumentStatus.DELETING.value:
            raise NotFound(f"no content of document '{document_id}'")
        kind = row.media_type or ""
        if kind != "application/pdf" and not kind.startswith("image/"):
            raise NotFound(
                f"'{row.filename}' has no pages that can be shown: only PDFs and pictures have", code="no_pages"
            )
        if number < 1 or (row.page_count is not None and number > row.page_count):
            raise NotFound(f"'{row.filename}' has {row.page_count} pages, no page {number}", code="no_such_page")
        marks: tuple[Mark, ...] = ()
        if highlight is not None:
            text = self._blobs.get(row.text_sha256).decode("utf-8") if row.text_sha256 else ""
            marks = tuple(marks_of(text, row.blocks or [], *highlight, number))
        key = f"{_VERSION}\0{row.source_sha256}\0{row.text_sha256}\0{number}\0{highlight}"
        return PageRequest(
            hashlib.sha256(key.encode()).hexdigest()[:32],
            number,
            row.source_sha256,
            row.filename,
            marks,
            tuple(PlacedText(*item) for item in row.places or () if item[0] == number),
        )

    def draw(self, request: PageRequest) -> DrawnPage:
        """Draw it, within limits of pixels, memory and time.

        Raises:
            NotFound: `no_such_page`.
            ExtractionFailed: the page cannot be drawn.
            Unavailable: too many pages are being drawn.
        """
        data = self._blobs.get(request.source_sha256)
        if not self._free.acquire(timeout=_WAIT_S):
            raise Unavailable("too many pages are being drawn; ask again in a moment", code="page_images_busy")
        try:
            png, boxes = self._alive().draw_page(data, request.filename, request.number, request.marks, request.places)
        finally:
            self._free.release()
        return DrawnPage(png, boxes)

    def close(self) -> None:
        """End the sandbox, if there is one."""
        with self._lock:
            sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            sandbox.close()

    def _alive(self) -> Sandbox:
        with self._lock:
            if self._sandbox is None:
                self._sandbox = Sandbox(self._settings.ingest, self._settings.data_dir / "tmp" / "pages")
            return self._sandbox


def marks_of(text: str, blocks: Sequence[Sequence[Any]], start: int, end: int, number: int) -> list[Mark]:
    """A span as parts of the blocks that it lies in. blocks: as stored, [kind, start, end, page, level].

    Raises:
        InvalidInput: `invalid_highlight`.
    """
    if not 0 <= start < end <= len(text):
        raise InvalidInput(
            f"highlight {start}-{end} is not a span of the document's text, which has {len(text)} characters",
            code="invalid_highlight",
        )
    if end - start > _MAX_SPAN:
        raise InvalidInput(f"a highlight has {_MAX_SPAN} characters at most", code="invalid_highlight")
    marks: list[Mark] = []
    seen: dict[str, int] = {}
    for kind, first, last, page, _ in blocks:
        if page == number and last <= start and kind != BlockKind.TABLE.value:
            seen[text[first:last]] = seen.get(text[first:last], 0) + 1
        if first >= end or last <= start:
            continue
        if kind == BlockKind.TABLE.value:
            marks += _rows(text, first, last, start, end)
        else:
            block = text[first:last]
            marks.append(Mark(block, max(start, first) - first, min(end, last) - first, seen.get(block, 0)))
    return marks or [Mark(text[start:end], 0, end - start)]


def _rows(text: str, first: int, last: int, start: int, end: int) -> list[Mark]:
    marks: list[Mark] = []
    seen: dict[str, int] = {}
    at = first
    for line in text[first:last].split("\n"):
        if at < end and at + len(line) > start:
            inside = max(start, at) - at, min(end, at + len(line)) - at
            marks.append(Mark(line, *inside, nth=seen.get(line, 0), is_row=True))
        seen[line] = seen.get(line, 0) + 1
        at += len(line) + 1
    return marks
