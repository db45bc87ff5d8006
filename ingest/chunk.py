"""Extracted text to chunks, on heading, paragraph and sentence borders. `text == extracted[start:end]`, always.

A paragraph that fits stays whole; small neighbours under one heading are merged up to the budget; a heading goes with
what follows it. The budget is in tokens where the embedder's tokenizer knows the script, and in characters where it
does not: MiniLM turns Japanese into unknown tokens, whose count means nothing.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from core.settings import IngestSettings
from core.types import Block, BlockKind, Chunk, ExtractedDocument
from ingest.sentences import (
    Splitter,
    split_characters,
    split_clauses,
    split_lines,
    split_sentences,
    split_words,
)

_WIDE = re.compile(r"[\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef]")
_WHOLE_BLOCK_TOKENS = 1.5
"""A single paragraph may pass the token budget by this much before it is cut: 160 * 1.5 still fits MiniLM's 256."""
_PASSAGE_SHARE = 15 / 16
"""Share of the budget that is the passage's own; the rest is for title and heading, which are embedded with it."""
_WIDE_SHARE = 0.3
_MAX_HEADING_CHARS = 400
_SLICE_CHARS = 50_000
_SPACES = " \n\t\r\u3000"

TokenStarts = Callable[[str], list[int]]

_PROSE: tuple[Splitter, ...] = (split_sentences, split_lines, split_clauses, split_words, split_characters)
_LINES: tuple[Splitter, ...] = (split_lines, split_sentences, split_clauses, split_words, split_characters)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch that is not cut further; `weight` is its share of one chunk's budget."""

    start: int
    end: int
    weight: float
    page: int | None


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    page: int | None
    heading: str | None


def chunk_document(
    extracted: ExtractedDocument,
    count_tokens: Callable[[str], int],
    settings: IngestSettings,
    token_starts: TokenStarts | None = None,
    look: Callable[[], None] = lambda: None,
) -> list[Chunk]:
    """Cut a document. Ordinals count from 0; chunks are in order, do not overlap and are never blank.

    count_tokens: tokens of a text by the embedder's tokenizer, without special tokens.
    token_starts: see `core.ports.TokenPlaces`; saves most calls of `count_tokens`.
    look: called again and again while it cuts; ends the work by raising, as on cancel or a spent time limit.
    """
    if _is_wide(extracted.text):
        token_starts = None  # few passages of it will have their tokens counted
    tokens = _Tokens(extracted.text, count_tokens, token_starts)
    cutter = _Cutter(extracted.text, tokens.about, settings, look)
    blocks = extracted.blocks or (Block(BlockKind.PARAGRAPH, 0, len(extracted.text)),)
    spans = cutter.cut(blocks)
    chunks: list[Chunk] = []
    for span in spans:
        look()
        start, end = trimmed(extracted.text, span.start, span.end)
        if start == end:
            continue
        text = extracted.text[start:end]
        chunks.append(Chunk(len(chunks), start, end, text, span.page, span.heading, tokens.count(start, end)))
    return chunks


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Offsets without the white space at both ends; a space that carries a combining mark stays."""
    while end > start and text[end - 1].isspace():
        end -= 1
    while start < end and text[start].isspace() and len(split_characters(text[start : start + 2])) != 1:
        start += 1
    return start, end


class _Tokens:
    """Counts the tokens of stretches of one text."""

    def __init__(self, text: str, count_tokens: Callable[[str], int], token_starts: TokenStarts | None) -> None:
        self._text = text
        self._count_tokens = count_tokens
        self._token_starts = token_starts
        self._starts: list[int] | None = None

    def count(self, start: int, end: int) -> int:
        """Exactly."""
        if self._starts is not None and self._between_words(start) and self._between_words(end):
            return self.about(start, end)
        return self._count_tokens(self._text[start:end])

    def about(self, start: int, end: int) -> int:
        """Close enough for a budget: a token cut in two may be counted once. The first call reads the whole text."""
        if self._token_starts is None:
            return self._count_tokens(self._text[start:end])
        if self._starts is None:
            self._starts = [
                first + place
                for first, last in _slices(self._text)
                for place in self._token_starts(self._text[first:last])
            ]
        return bisect_left(self._starts, end) - bisect_left(self._starts, start)

    def _between_words(self, place: int) -> bool:
        return place in {0, len(self._text)} or self._text[place - 1] in _SPACES or self._text[place] in _SPACES


def _slices(text: str) -> Iterable[tuple[int, int]]:
    """Stretches of a text that a tokenizer reads at once, cut at white space where there is any."""
    start = 0
    while start < len(text):
        end = min(len(text), start + _SLICE_CHARS)
        if end < len(text):
            end = max(text.rfind(space, start, end) for space in _SPACES) + 1 or end
        yield start, end
        start = end


class _Cutter:
    def __init__(
        self, text: str, count_tokens: Callable[[int, int], int], settings: IngestSettings, look: Callable[[], None]
    ) -> None:
        self._text = text
        self._look = look
        self._count_tokens = count_tokens
        self._settings = settings

    def cut(self, blocks: Sequence[Block]) -> list[_Span]:
        """Walk the blocks section by section."""
        spans: list[_Span] = []
        path: list[tuple[int, str]] = []
        titles: list[Block] = []
        body: list[Block] = []

        def close() -> None:
            if titles or body:
                spans.extend(self._section(titles, body, _joined(title for _, title in path)))
            titles.clear()
            body.clear()

        for block in blocks:
            if block.kind is BlockKind.HEADING:
                if body:
                    close()
                level = block.level or 1
                while path and path[-1][0] >= level:
                    path.pop()
                path.append((level, " ".join(self._text[block.start : block.end].split())))
                titles.append(block)
            else:
                body.append(block)
        close()
        return spans

    def _section(self, titles: Sequence[Block], body: Sequence[Block], heading: str | None) -> list[_Span]:
        """Chunks under one heading path. The heading lines open the first of them."""
        spans: list[_Span] = []
        open_pieces: list[_Piece] = []

        def close() -> None:
            if open_pieces:
                spans.append(_Span(open_pieces[0].start, open_pieces[-1].end, open_pieces[0].page, heading))
            open_pieces.clear()

        for title in titles:
            open_pieces.extend(self._pieces(title, 1.0))
        for block in body:
            weight = self._weight(block.start, block.end)
            if self._stays_whole(block, weight):
                if open_pieces and _total(open_pieces) + weight > 1.0 and not _only_titles(open_pieces, titles):
                    close()
                open_pieces.append(_Piece(block.start, block.end, weight, block.page))
                continue
            if not _only_titles(open_pieces, titles):
                close()
            for part in self._balanced(self._pieces(block, 1.0)):
                first = open_pieces[0] if open_pieces else part[0]
                spans.append(_Span(first.start, part[-1].end, first.page, heading))
                open_pieces.clear()
        close()
        return spans

    def _stays_whole(self, block: Block, weight: float) -> bool:
        if weight <= 1.0:
            return True
        characters = self._by_characters(block.start, block.end)
        return characters <= 1.0 and self._by_tokens(block.start, block.end) <= _WHOLE_BLOCK_TOKENS

    def _pieces(self, block: Block, limit: float) -> list[_Piece]:
        splitters = _LINES if block.kind in {BlockKind.TABLE, BlockKind.CODE} else _PROSE
        return list(self._split(block.start, block.end, block.page, splitters, limit))

    def _split(
        self, start: int, end: int, page: int | None, splitters: tuple[Splitter, ...], limit: float
    ) -> Iterable[_Piece]:
        """Pieces within the limit, cut at the highest level that does it."""
        for span_start, span_end in splitters[0](self._text[start:end]):
            from_, to = start + span_start, start + span_end
            weight = self._weight(from_, to)
            if weight <= limit or len(splitters) == 1:
                yield _Piece(from_, to, weight, page)
            else:
                yield from self._packed(list(self._split(from_, to, page, splitters[1:], limit)), limit)

    def _packed(self, pieces: Sequence[_Piece], limit: float) -> Iterable[_Piece]:
        """Join neighbours up to the limit: words of a too long sentence become few pieces again."""
        for group in _groups(pieces, limit):
            yield _Piece(group[0].start, group[-1].end, _total(group), group[0].page)

    def _balanced(self, pieces: Sequence[_Piece]) -> list[list[_Piece]]:
        """Group the pieces of a too long block into chunks of similar size, rather than full ones and a crumb."""
        count = max(1, math.ceil(_total(pieces)))
        return _groups(pieces, min(1.0, max(_total(pieces) / count * 1.1, *(piece.weight for piece in pieces))))

    def _weight(self, start: int, end: int) -> float:
        self._look()
        characters = self._by_characters(start, end)
        return characters if characters > 1.0 else max(characters, self._by_tokens(start, end))

    def _by_characters(self, start: int, end: int) -> float:
        wide = len(_WIDE.findall(self._text, start, end))
        return wide / self._settings.chunk_chars_cjk + (end - start - wide) / self._settings.chunk_chars

    def _by_tokens(self, start: int, end: int) -> float:
        if _is_wide(self._text[start:end]):
            return 0.0
        return self._count_tokens(start, end) / (self._settings.chunk_tokens * _PASSAGE_SHARE)


def _is_wide(text: str) -> bool:
    """Whether a text is of a script whose tokens may mean nothing."""
    return len(_WIDE.findall(text)) > _WIDE_SHARE * len(text)


def _groups(pieces: Sequence[_Piece], limit: float) -> list[list[_Piece]]:
    groups: list[list[_Piece]] = []
    weight = math.inf
    for piece in pieces:
        if weight + piece.weight > limit:
            groups.append([])
            weight = 0.0
        groups[-1].append(piece)
        weight += piece.weight
    return groups


def _total(pieces: Sequence[_Piece]) -> float:
    return sum(piece.weight for piece in pieces)


def _only_titles(pieces: Sequence[_Piece], titles: Sequence[Block]) -> bool:
    return bool(pieces and titles) and pieces[-1].end <= titles[-1].end


def _joined(parts: Iterable[str]) -> str | None:
    path = " > ".join(part for part in parts if part)
    return path[:_MAX_HEADING_CHARS] or None
