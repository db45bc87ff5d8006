"""Collects blocks into one text and keeps their offsets. Every extractor but the plain-text one writes through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.errors import ExtractionFailed
from core.types import Block, BlockKind, ExtractedDocument, PlacedText
from ingest.encoding import clean_text

_MAX_PLACES = 20_000
"""Boxes that are kept of what OCR read, about 200 dense pages; pages beyond them have no highlights."""
_TIGHT = {BlockKind.LIST_ITEM}


class TextBuilder:
    """Appends blocks; paragraphs are parted by an empty line, items of one list by a line break."""

    def __init__(self, *, max_chars: int) -> None:
        self._parts: list[str] = []
        self._blocks: list[Block] = []
        self._length = 0
        self._max_chars = max_chars

    def add(self, kind: BlockKind, text: str, *, page: int | None = None, level: int | None = None) -> None:
        """Append a block; white space around it is dropped, and an empty block with it.

        Raises:
            ExtractionFailed: `text_too_long`, the document passes `max_chars`.
        """
        text = clean_text(text)
        text = text.strip("\n ") if kind is BlockKind.CODE else text.strip()
        if not text:
            return
        if self._blocks:
            tight = kind in _TIGHT and self._blocks[-1].kind is kind
            self._append("\n" if tight else "\n\n")
        start = self._length
        self._append(text)
        self._blocks.append(Block(kind=kind, start=start, end=self._length, page=page, level=level))

    @property
    def room(self) -> int:
        """Characters that may still be added."""
        return max(0, self._max_chars - self._length)

    @property
    def length(self) -> int:
        """Characters so far."""
        return self._length

    @property
    def start(self) -> str:
        """The first blocks, a few thousand characters at most, to tell the language by."""
        return "".join(self._parts[:20])[:5_000]

    def include(self, document: ExtractedDocument) -> None:
        """Append the blocks of another document: a chapter, an attachment. Its page numbers are dropped."""
        for block in document.blocks:
            self.add(block.kind, document.text[block.start : block.end], level=block.level)

    def build(
        self,
        media_type: str,
        *,
        encoding: str | None = None,
        page_count: int | None = None,
        title: str | None = None,
        quality: Mapping[str, Any] | None = None,
        places: Sequence[PlacedText] = (),
    ) -> ExtractedDocument:
        """The document so far."""
        return ExtractedDocument(
            text="".join(self._parts),
            blocks=tuple(self._blocks),
            media_type=media_type,
            encoding=encoding,
            page_count=page_count,
            title=title[:512] if title else None,
            quality=dict(quality or {}),
            places=tuple(places[:_MAX_PLACES]),
        )

    def _append(self, text: str) -> None:
        self._length += len(text)
        if self._length > self._max_chars:
            raise ExtractionFailed(
                f"the extracted text is longer than {self._max_chars} characters; split the document",
                code="text_too_long",
                extra={"limit": self._max_chars},
            )
        self._parts.append(text)
