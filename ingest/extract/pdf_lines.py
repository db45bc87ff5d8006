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
_NUMBERED = re.compile(r"\s{0,8}(?P<open>[(（]?)(?P<number>[0-9０-９]{1,3})(?:[)）、]|[.．](?![0-9０-９]))")
_ITEM = re.compile(
    r"\s{0,8}(?:[•●○◦▪■□◆・※✓–\-*]\s|・|[(（]?[0-9０-９]{1,3}(?:[)）、]|[.．](?![0-9０-９]))|[①-⑳㋐-㋾]|[a-z][.)]\s"
    r"|[0-9０-９]{1,3}(?:[.．][0-9０-９]{1,3}){1,4}[.．]?\s)"
)
_LABEL = re.compile(r"\s{0,8}(?:[(（]?[0-9０-９]{1,3}(?:[.．][0-9０-９]{1,3}){0,4}[.．)）]?|[①-⑳㋐-㋾]|[•●・])\s{0,8}")
_OPENING, _CLOSING = "（(「『〔[【", "）)」』〕]】"
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
    loose_end: bool = False
    """Its last word stands far from the rest, as a page number does."""

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
    """Text of one block; `size` and `bold` are those of its first line.

    open: its last line is full and ends no sentence. first, last: those lines, None where nobody asks.
    """

    text: str
    size: float
    bold: bool
    line_count: int
    open: bool = False
    first: Line | None = None
    last: Line | None = None


def paragraphs_of(lines: Sequence[Line]) -> list[Paragraph]:
    """Join the lines of one page, given in reading order."""
    lines = [line for line in lines if line.text.strip()]
    if not lines:
        return []
    leading = _usual_gap(lines)
    paragraphs: list[Paragraph] = []
    members, text = [lines[0]], lines[0].text.strip()
    number = _number(lines[0].text)

    def finish() -> Paragraph:
        last = members[-1]
        goes_on = not _ENDED.search(last.text) and last.stop >= _margin(last, lines) - 2.5 * last.size
        first = members[0]
        return Paragraph(text, first.size, first.bold, len(members), goes_on, first, last)

    for above, below in pairwise(lines):
        how = _joint(above, below, lines, leading, text, number)
        if how is None:
            paragraphs.append(finish())
            members, text = [below], below.text.strip()
            number = _number(text) or number
        else:
            text = joined(text, below.text.strip()) if how == "flow" else f"{text}\n{below.text.strip()}"
            members.append(below)
    return [*paragraphs, finish()]


def goes_on(above: Paragraph, below: Paragraph) -> bool:
    """Whether a sentence runs over a page or a column from one paragraph into the next."""
    if not above.open or above.last is None or below.first is None:
        return False
    size = max(above.last.size, below.first.size)
    if above.last.vertical != below.first.vertical or min(above.last.size, below.first.size) < 0.88 * size:
        return False
    if above.last.bold != below.first.bold or _begins_item(below.text, above.text, _number(above.text)):
        return False
    # without a full stop an English line may be a heading or a label: only a small letter goes on for certain
    return bool(WIDE.match(above.text[-1])) or below.text[:1].islower()


def heading_sizes(
    paragraphs: Sequence[Paragraph], tables: Sequence[tuple[float, int]] = ()
) -> tuple[float, list[float], bool]:
    """(size of body text, sizes of headings from large to small, whether body text is bold).

    tables: (size, characters) of each table; they are body where there is little else.
    """
    weights: Counter[float] = Counter()
    bold = 0
    for size, characters in tables:
        weights[round(size * 2) / 2] += characters
    for paragraph in paragraphs:
        weights[round(paragraph.size * 2) / 2] += len(paragraph.text)
        bold += len(paragraph.text) if paragraph.bold else 0
    if not weights:
        return 0.0, [], False
    body = weights.most_common(1)[0][0]
    headings = {round(paragraph.size * 2) / 2 for paragraph in paragraphs}
    larger = sorted({size for size in headings if size >= body * _HEADING_RATIO}, reverse=True)
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


def _number(text: str) -> int | None:
    """The number of a list item."""
    found = _NUMBERED.match(text)
    return int(found["number"]) if found else None


def _begins_item(text: str, before: str, number: int | None) -> bool:
    """Whether a line begins a list item, given the text that it would otherwise continue and the last item's number.

    A number at the start of a line may belong to its sentence: one that stands in an open bracket does, and so does
    one that is neither the first nor the next of its list, where the line before it is full and ends no sentence.
    """
    found = _NUMBERED.match(text)
    if found is None:
        return bool(_ITEM.match(text))
    if not found["open"] and _is_open(before):
        return False
    return int(found["number"]) in {1, (number or 0) + 1} or bool(_ENDED.search(before)) or bool(found["open"])


def _is_open(text: str) -> bool:
    """Whether a bracket of the text's last 80 characters is not closed."""
    depth = 0
    for character in text[-80:]:
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth = max(0, depth - 1)
    return depth > 0


def _joint(
    above: Line, below: Line, lines: Sequence[Line], leading: float, text: str, number: int | None
) -> str | None:
    """How two neighbouring lines belong together: 'flow', 'line' (same block, break kept) or None (new block).

    text: the block so far. number: that of the last list item.
    """
    if above.vertical != below.vertical:
        return None
    size = max(above.size, below.size, 1.0)
    if _LABEL.fullmatch(text) and -0.6 * size <= below.near - above.far <= 1.8 * size and above.start <= below.stop:
        return None if _ITEM.match(below.text) else "flow"  # a number on a line of its own
    if min(above.size, below.size) < 0.88 * size or above.bold != below.bold:
        return None
    gap = below.near - above.far
    if not -0.6 * size <= gap <= min(1.8 * size, max(0.5 * size, (1.3 * leading + 0.1) * size)):
        return None
    if min(above.stop, below.stop) <= max(above.start, below.start):
        return None  # side by side: another column
    full = above.stop >= _margin(above, lines) - 2.5 * size
    if _ITEM.match(below.text) and (not (full or _is_open(text)) or _begins_item(below.text, text, number)):
        return None
    ended = _ENDED.search(above.text)
    indented = below.start - above.start > 0.7 * size
    if ended and (not full or indented):
        return None
    if abs(above.start - below.start) > 4 * size:
        return "line"  # set to the right or in the middle: lines of their own
    return "flow" if full or (not ended and _is_open(text)) else "line"


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


def joined(text: str, more: str) -> str:
    """Two lines of one sentence: without a space beside Japanese, without the hyphen of a divided word."""
    if not text or not more:
        return text + more
    last, following = text[-1], more[0]
    if last in "\ufffe\x02\u00ad":
        return text[:-1] + more
    if last == "-" and len(text) > 1 and text[-2].isalpha() and following.islower():
        return text[:-1] + more
    if (WIDE.match(last) or WIDE.match(following)) and not _LABEL.fullmatch(text):
        return text + more
    return f"{text} {more}"


def is_sentence(text: str) -> bool:
    """Whether a text ends as sentences do, or begins as an item of a list."""
    return text.rstrip().endswith(("。", "．", ".", "、", ",", ";", "?", "？", "!", "！")) or bool(_ITEM.match(text))
