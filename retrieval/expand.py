"""Parent expansion: a passage that was found grows to its section, within a budget of tokens.

Small chunks are found best, larger ones are read best. What grows is the span, never the index: the text is cut anew
from the document's extracted text, so offsets and quotes stay exact. A section begins with a chunk that opens with a
heading and ends before the next one; without headings it is the whole document. No text is taken twice: a hit that a
better one has grown over is part of that passage, and growth stops before another passage. Pages come from the blocks,
so that a quote on the second page of a passage is cited with that page, grown or not.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import structlog
from sqlalchemy import select

from core.database import Database
from core.errors import NotFound, Unavailable
from core.ports import BlobStore
from core.settings import IngestSettings
from core.tables.documents import ChunkRow, DocumentGeneration
from core.types import BlockKind

log = structlog.stdlib.get_logger(__name__)

_REACH = 128
"""Chunks looked at on either side; a budget ends far before."""
_KEPT_CHARS = 32_000_000
_KEPT_OUTLINES = 512
_WIDE = re.compile(r"[\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef]")
_WIDE_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of a document's extracted text: a chunk, or what it was grown to."""

    start: int
    end: int
    text: str
    pages: tuple[tuple[int, int], ...]
    """(offset, page): where each page begins inside, ascending; empty where the document has none."""
    grown: bool


@dataclass(frozen=True, slots=True)
class _Outline:
    text_sha256: str | None
    headings: frozenset[int]
    """Offsets at which headings begin."""
    pages: tuple[tuple[int, int], ...]
    """(offset, page) of every block at which a page begins."""

    def pages_in(self, start: int, end: int) -> tuple[tuple[int, int], ...]:
        first = max(0, bisect_right(self.pages, start, key=lambda place: place[0]) - 1)
        return tuple((max(start, offset), page) for offset, page in self.pages[first:] if offset < end)


class Expander:
    """Places of passages of one index version. Thread-safe; texts and outlines lately used are kept in memory."""

    def __init__(self, db: Database, blobs: BlobStore, chunking: IngestSettings) -> None:
        self._db = db
        self._blobs = blobs
        self._chunking = chunking
        self._lock = Lock()
        self._outlines: OrderedDict[tuple[str, int], _Outline] = OrderedDict()
        self._texts: OrderedDict[str, str] = OrderedDict()

    def places(self, hits: Sequence[ChunkRow], limit: int, budget: int) -> list[tuple[ChunkRow, Place]]:
        """First `limit` passages of the hits, best first, each grown to at most `budget` tokens; 0 grows none.

        The better a hit, the earlier it grows. A chunk stays as it was found when it fills the budget, is its whole
        section, or its document was replaced a moment ago.
        """
        covered: dict[tuple[str, int], set[int]] = {}
        found: list[tuple[ChunkRow, Place]] = []
        for hit in hits:
            if len(found) == limit:
                break
            own = covered.setdefault((hit.document_id, hit.generation), set())
            if hit.ordinal in own:
                continue
            paged = hit.page is not None
            outline = self._outline(hit) if budget or paged else None
            rows = [hit] if outline is None or not budget else self._grow(hit, outline, own, budget)
            text = self._text(outline) if outline is not None and len(rows) > 1 else None
            if text is None:
                rows = [hit]
            own.update(row.ordinal for row in rows)
            start, end = rows[0].start, rows[-1].end
            pages = outline.pages_in(start, end) if outline is not None and paged else ()
            found.append((hit, Place(start, end, hit.text if text is None else text[start:end], pages, len(rows) > 1)))
        return found

    def _grow(self, hit: ChunkRow, outline: _Outline, covered: set[int], budget: int) -> list[ChunkRow]:
        """The hit and its neighbours in reading order, nearest first, the following before the preceding."""
        before, after = self._section(hit, outline, covered)
        rows = [hit]
        left = budget - self._tokens(hit)
        while before or after:
            for side in (after, before):
                if not side:
                    continue
                left -= self._tokens(side[0])
                if left < 0:
                    return sorted(rows, key=lambda row: row.ordinal)
                rows.append(side.pop(0))
        return sorted(rows, key=lambda row: row.ordinal)

    def _section(self, hit: ChunkRow, outline: _Outline, covered: set[int]) -> tuple[list[ChunkRow], list[ChunkRow]]:
        """(chunks before, chunks after) of the hit's section, nearest first, up to another passage."""
        with self._db.read() as session:
            rows = session.scalars(
                select(ChunkRow)
                .where(
                    ChunkRow.document_id == hit.document_id,
                    ChunkRow.generation == hit.generation,
                    ChunkRow.chunk_set == hit.chunk_set,
                    ChunkRow.ordinal.between(hit.ordinal - _REACH, hit.ordinal + _REACH),
                )
                .order_by(ChunkRow.ordinal)
            ).all()
        after = []
        for row in (row for row in rows if row.ordinal > hit.ordinal):
            if row.ordinal in covered or row.start in outline.headings:
                break
            after.append(row)
        before: list[ChunkRow] = []
        opened = hit.start in outline.headings
        for row in (row for row in reversed(rows) if row.ordinal < hit.ordinal):
            if opened or row.ordinal in covered:
                break
            before.append(row)
            opened = row.start in outline.headings
        return before, after

    def _tokens(self, row: ChunkRow) -> float:
        """Tokens of a chunk; from its characters where it is of a script that an English tokenizer does not know."""
        wide = len(_WIDE.findall(row.text))
        if wide <= _WIDE_SHARE * len(row.text):
            return row.token_count
        chunking = self._chunking
        narrow = len(row.text) - wide
        return chunking.chunk_tokens * (wide / chunking.chunk_chars_cjk + narrow / chunking.chunk_chars)

    def _outline(self, hit: ChunkRow) -> _Outline | None:
        """Headings and pages of the hit's document; None when it has just gone."""
        key = (hit.document_id, hit.generation)
        with self._lock:
            if key in self._outlines:
                self._outlines.move_to_end(key)
                return self._outlines[key]
        with self._db.read() as session:
            row = session.execute(
                select(DocumentGeneration.text_sha256, DocumentGeneration.blocks).where(
                    DocumentGeneration.document_id == hit.document_id,
                    DocumentGeneration.generation == hit.generation,
                )
            ).one_or_none()
        if row is None:
            return None
        headings: list[int] = []
        pages: list[tuple[int, int]] = []
        for kind, start, _end, page, _level in row.blocks or ():
            if kind == BlockKind.HEADING.value:
                headings.append(start)
            if page is not None and (not pages or pages[-1][1] != page):
                pages.append((start, page))
        outline = _Outline(row.text_sha256, frozenset(headings), tuple(pages))
        with self._lock:
            self._outlines[key] = outline
            while len(self._outlines) > _KEPT_OUTLINES:
                self._outlines.popitem(last=False)
        return outline

    def _text(self, outline: _Outline) -> str | None:
        """Extracted text; None when a replacement has just dropped it, or its store is away: better small than none."""
        digest = outline.text_sha256
        if digest is None:
            return None
        with self._lock:
            if digest in self._texts:
                self._texts.move_to_end(digest)
                return self._texts[digest]
        try:
            text = self._blobs.get(digest).decode("utf-8")
        except (NotFound, Unavailable) as error:
            log.warning("expand.no_text", digest=digest[:12], reason=error.code)
            return None
        with self._lock:
            self._texts[digest] = text
            while len(self._texts) > 1 and sum(map(len, self._texts.values())) > _KEPT_CHARS:
                self._texts.popitem(last=False)
        return text
