"""Lines of a PDF page, as either engine reports them, and how lines become paragraphs and headings.

A PDF knows glyphs and places, no sentences. A line break is undone where the line was full and the sentence goes on:
without a space beside a Japanese character, with one between words, and without the hyphen of a divided word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from core.types import BlockKind

_ENDED = re.compile(r"[。｡．.！？!?：:][」』）)”’\"']*\s*\Z")
_ITEM = re.compile(r"\s*(?:[•●○◦▪■□◆・※✓–\-*]\s|[(（]?[0-9０-９]{1,3}[.)）．、]\s?|[①-⑳㋐-㋾]|[a-z][.)]\s)")
WIDE = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")
"""Scripts written without spaces between words; Korean is not one of them."""
_CHAPTER = re.compile(r"\s*第\s*[0-9０-９一二三四五六七八九十百]{1,4}\s*[章節編部条](?:\s|[（(]|\Z)")
_WORD = re.compile(r"[^\W\d_]{2}")
_LETTERS = re.compile(r"[^\W\d_]")
_NO_HEADING = re.compile(r"[•◦–\-*・)\]）」,.;:=<>|⇔⇒]|[a-z][^\W\d_]|[(（]?[a-z][.)）]")
_MAX_HEADING = 120
_HEADING_RATIO = 1.15


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text and its box in points, y upwards. size: height of its characters, 0 when unknown."""

    text: str
    x0: float
    y0: float
    x1: float
    y1: float
    size: float
    bold: bool = False
    vertical: bool = False

    @property
    def start(self) -> float:
        """Where it begins along its writing direction."""
        return -self.y1 if self.vertical else self.x0

    @property
    def stop(self) -> float:
        """Where it ends along its writing direction."""
        return -self.y0 if self.vertical else self.x1

    @property
    def near(self) -> float:
        """Its edge towards the line before it, growing from line to line."""
        return -self.x1 if self.vertical else -self.y1

    @property
    def far(self) -> float:
        """Its edge towards the line after it."""
        return -self.x0 if self.vertical else -self.y0


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Text of one block; `size` and `bold` are those of its first line."""

    text: str
    size: float
    bold: bool
    line_count: int


def paragraphs_of(lines: Sequence[Line]) -> list[Paragraph]:
    """Join the lines of one page, given in reading order."""
    lines = [line for line in lines if line.text.strip()]
    if not lines:
        return []
    leading = _usual_gap(lines)
    paragraphs: list[Paragraph] = []
    first, text, count = lines[0], lines[0].text.strip(), 1
    for above, below in pairwise(lines):
        how = _joint(above, below, lines, leading)
        if how is None:
            paragraphs.append(Paragraph(text, first.size, first.bold, count))
            first, text, count = below, below.text.strip(), 1
        else:
            text = _joined(text, below.text.strip()) if how == "flow" else f"{text}\n{below.text.strip()}"
            count += 1
    paragraphs.append(Paragraph(text, first.size, first.bold, count))
    return paragraphs


def heading_sizes(paragraphs: Sequence[Paragraph]) -> tuple[float, list[float], bool]:
    """(size of body text, sizes of headings from large to small, whether body text is bold)."""
    weights: Counter[float] = Counter()
    bold = 0
    for paragraph in paragraphs:
        weights[round(paragraph.size * 2) / 2] += len(paragraph.text)
        bold += len(paragraph.text) if paragraph.bold else 0
    if not weights:
        return 0.0, [], False
    body = weights.most_common(1)[0][0]
    larger = sorted({size for size in weights if size >= body * _HEADING_RATIO}, reverse=True)
    return body, larger, bold * 2 > sum(weights.values())


def kind_of(paragraph: Paragraph, body: float, larger: Sequence[float], body_is_bold: bool) -> tuple[BlockKind, int]:
    """Role and heading level of a paragraph. Size decides, then a bold line of its own, then 第1章."""
    text = paragraph.text
    short = len(text) <= _MAX_HEADING and paragraph.line_count <= 3 and bool(_WORD.search(text))
    wordy = 2 * len(_LETTERS.findall(text)) >= sum(not character.isspace() for character in text)
    if short and wordy and not _NO_HEADING.match(text) and not text.rstrip().endswith(("。", "、", ",", ";")):
        size = round(paragraph.size * 2) / 2
        if body and size >= body * _HEADING_RATIO:
            return BlockKind.HEADING, min(3, 1 + list(larger).index(size)) if size in larger else 3
        if _CHAPTER.match(text) and paragraph.line_count == 1 and len(text) <= 60:
            return BlockKind.HEADING, 3
        if paragraph.bold and not body_is_bold and paragraph.line_count == 1 and not text.rstrip().endswith("."):
            return BlockKind.HEADING, 4
    return (BlockKind.LIST_ITEM if _ITEM.match(text) else BlockKind.PARAGRAPH), 0


def _joint(above: Line, below: Line, lines: Sequence[Line], leading: float) -> str | None:
    """How two neighbouring lines belong together: 'flow', 'line' (same block, break kept) or None (new block)."""
    if above.vertical != below.vertical:
        return None
    size = max(above.size, below.size, 1.0)
    if min(above.size, below.size) < 0.88 * size or above.bold != below.bold:
        return None
    gap = below.near - above.far
    if not -0.6 * size <= gap <= min(1.8 * size, max(0.5 * size, (1.3 * leading + 0.1) * size)):
        return None
    if min(above.stop, below.stop) <= max(above.start, below.start):
        return None  # side by side: another column
    if _ITEM.match(below.text):
        return None
    ended = _ENDED.search(above.text)
    full = above.stop >= _margin(above, lines) - 2.5 * size
    indented = below.start - above.start > 0.7 * size
    if ended and (not full or indented):
        return None
    return "flow" if full else "line"


def _usual_gap(lines: Sequence[Line]) -> float:
    """Median space between lines of one size that follow each other, in sizes: 0.2 in books, 1.0 on slides."""
    gaps = sorted(
        (below.near - above.far) / max(above.size, 1.0)
        for above, below in pairwise(lines)
        if above.vertical == below.vertical
        and abs(above.size - below.size) <= 0.12 * above.size
        and min(above.stop, below.stop) > max(above.start, below.start)
        and -0.6 * above.size <= below.near - above.far <= 1.8 * above.size
    )
    return gaps[len(gaps) // 2] if gaps else 0.3


def _margin(line: Line, lines: Sequence[Line]) -> float:
    """Where full lines of this column end: the furthest end among lines that lie under most of this one."""
    width = line.stop - line.start
    return max(
        other.stop
        for other in lines
        if other is line
        or (
            other.vertical == line.vertical
            and abs(other.size - line.size) <= 0.12 * line.size
            and min(other.stop, line.stop) - max(other.start, line.start) >= 0.5 * min(width, other.stop - other.start)
        )
    )


def _joined(text: str, more: str) -> str:
    if not text or not more:
        return text + more
    last, following = text[-1], more[0]
    if last in "\ufffe\x02\u00ad":
        return text[:-1] + more
    if last == "-" and len(text) > 1 and text[-2].isalpha() and following.islower():
        return text[:-1] + more
    if WIDE.match(last) or WIDE.match(following):
        return text + more
    return f"{text} {more}"
