"""Passages as units: what can be quoted by itself. A sentence, a table row with its cells, a list item.

Everything is read from the passage's own text, so that a unit's offsets are those of the document.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from core.table_text import CELL_SEPARATOR, HEADER_SEPARATOR, RowCell, read_row
from core.types import Passage

_MAX_LABEL_CHARS = 40
_ITEM = re.compile(
    r"[ \t\u3000]{0,8}(?:[-*•・●○■□◆◇▪‣–]|[0-9０-９]{1,3}[.)．）](?![0-9])|[(（][0-9０-９a-zA-Zァ-ンｱ-ﾝ一二三四五六七八九十]{1,3}[)）]"
    r"|[①-⑳]|[一二三四五六七八九十]{1,3}[ \t\u3000])[ \t\u3000]?"
)
_ASKS = re.compile(r"[ \t\u3000]{0,8}[QＱ問][0-9０-９]{0,3}[.．:：、)）\s]", re.IGNORECASE)
_MARK_ONLY = re.compile(r"[ \t\u3000]{0,8}[QＱAＡ問答]?[0-9０-９]{0,3}[.．:：、)）]?[ \t\u3000]{0,4}\Z", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[。！？｡!?]['\"」』）)]{0,3}|\.['\")]{0,3}(?=\s)")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|[QA]?[0-9]{1,3}|[0-9]{1,2}\.[0-9]{1,2}|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|cf|etc|No|Nos|Fig|Sec|Vol|pp|Inc|Ltd|Co|Corp|approx|e\.g|i\.e"
    r"|a\.m|p\.m)\.$"
)
_ENDED = ("。", "．", ".", "！", "？", "!", "?", ":", "：", "」", "）", ")")
_FOLLOWING = re.compile(
    r"次の|次に|つぎの|以下の|以下に|下記|左記|(?i:\bfollowing\b|\bas follows\b|\bbelow\b|\bthese\b)"
)
_FULL_LINE = 36
"""Columns, a wide character counting two, from which a line may have been broken by a margin."""
_SET_APART = re.compile(r"\S(?: {3}|\t|[ \u3000]{0,2}\u3000[ \u3000])[ \t\u3000]{0,40}\S")
"""A gap inside a line: columns set by spaces, which no margin breaks."""
_STAMP = re.compile(
    r"[ \t]{0,8}[\[(]?(?:[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}[T ,][ ]?[0-9]{1,2}:|[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?[\]) ]"
    r"|[A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:)"
)
"""The time at the beginning of a log's line."""
_LONG_VALUE = 40
"""Columns from which what stands behind one label may be sentences or a list rather than a value."""


class UnitKind(StrEnum):
    """What a unit is of."""

    SENTENCE = "sentence"
    ROW = "row"
    ITEM = "item"
    HEADING = "heading"


@dataclass(frozen=True, slots=True)
class Unit:
    """A quotable stretch; document_text[start:end] == text. `passage` is its passage's place in the list searched."""

    passage: int
    start: int
    end: int
    text: str
    kind: UnitKind
    heading: str
    """Heading path of its passage; '' where there is none."""
    lead: str
    """What it hangs on: the line above a list, the question of an answer; '' where it stands alone."""
    before: str
    after: str
    asks: bool
    """It is a question: what answers it stands behind it."""
    group: int
    """Units of one paragraph share it, within their passage."""
    cells: tuple[RowCell, ...] = field(default=())
    """Of a row: offsets into `text`."""


def units_of(passages: Sequence[Passage]) -> list[Unit]:
    """Units of all passages, in the order of the passages and of their text."""
    return [unit for number, passage in enumerate(passages) for unit in _units(number, passage)]


def is_row(line: str) -> bool:
    """Whether a line reads as `header: value | ...`, or as one `label: value`."""
    if CELL_SEPARATOR in line:
        return True
    label, separator, value = line.partition(HEADER_SEPARATOR)
    return bool(separator and value.strip()) and 0 < len(label.strip()) <= _MAX_LABEL_CHARS and "。" not in label


def is_stamped(line: str) -> bool:
    """Whether a line begins with a time, as those of a log do."""
    return _STAMP.match(line) is not None


def _units(number: int, passage: Passage) -> Iterator[Unit]:
    heading = passage.heading or ""
    titles = "".join(heading.split())
    spans = list(_spans(passage.text))
    texts = [passage.text[start:end] for start, end, _, _ in spans]
    lead = ""
    for at, (start, end, read_as, group) in enumerate(spans):
        text, kind = texts[at], read_as
        alone = (at == 0 or spans[at - 1][3] != group) and (at + 1 == len(spans) or spans[at + 1][3] != group)
        if kind is not UnitKind.ROW and alone and titles and "".join(text.split()) in titles:
            kind = UnitKind.HEADING
        listed = at + 1 < len(spans) and spans[at + 1][2] is UnitKind.ITEM
        announces = kind is UnitKind.HEADING or _announces(text, kind, listed=listed)
        yield Unit(
            passage=number,
            start=passage.start + start,
            end=passage.start + end,
            text=text,
            kind=kind,
            heading=heading,
            lead="" if announces or kind is UnitKind.ROW else lead,
            before=texts[at - 1] if at else "",
            after=texts[at + 1] if at + 1 < len(texts) else "",
            asks=bool(_ASKS.match(text))
            or text.rstrip().endswith(("?", "？", "ですか。", "ますか。", "ませんか。", "でしょうか。")),
            group=group,
            cells=tuple(read_row(text)) if kind is UnitKind.ROW else (),
        )
        if announces:
            lead = text
        elif kind is UnitKind.SENTENCE and lead and not _ASKS.match(lead) and spans[at - 1][2] is UnitKind.ITEM:
            lead = ""


def _announces(text: str, kind: UnitKind, *, listed: bool) -> bool:
    """Whether what follows a line hangs on it: a question, or a line that announces a list. listed: an item follows."""
    if kind is UnitKind.ROW:
        return False
    return (
        text.rstrip().endswith((":", "："))
        or bool(_ASKS.match(text))
        or (listed and kind is UnitKind.SENTENCE and _FOLLOWING.search(text) is not None)
    )


def _spans(text: str) -> Iterator[tuple[int, int, UnitKind, int]]:
    """(start, end, kind, paragraph) of the units of a passage, without white space at their ends."""
    for group, (start, end, kind) in enumerate(_paragraphs(text)):
        if kind is UnitKind.ROW:
            yield (*_trimmed(text, start, end), kind, group)
            continue
        for from_, to in _sentences(text[start:end]):
            first, last = _trimmed(text, start + from_, start + to)
            if first < last and not _MARK_ONLY.match(text[first:last]):
                yield first, last, kind, group


def _paragraphs(text: str) -> Iterator[tuple[int, int, UnitKind]]:
    """Rows, items and stretches of running text; a line broken at a margin goes on in the next."""
    open_: tuple[int, int, UnitKind] | None = None
    position = 0
    for line in text.split("\n"):
        start, end = position, position + len(line)
        position = end + 1
        if not line.strip():
            if open_:
                yield open_
            open_ = None
            continue
        kind = _kind(line)
        if open_ and kind is UnitKind.SENTENCE and not _STAMP.match(line) and _goes_on(text[open_[0] : open_[1]]):
            open_ = (open_[0], end, open_[2])
            continue
        if open_:
            yield open_
        open_ = None if kind is UnitKind.ROW else (start, end, kind)
        if kind is UnitKind.ROW:
            yield start, end, kind
    if open_:
        yield open_


def _kind(line: str) -> UnitKind:
    if is_row(line) and not _says_more(line):
        return UnitKind.ROW
    return UnitKind.ITEM if _ITEM.match(line) else UnitKind.SENTENCE


def _says_more(line: str) -> bool:
    """Whether what stands behind a single label is more than a value: sentences, or things told one after another."""
    value = line.partition(HEADER_SEPARATOR)[2].strip()
    if CELL_SEPARATOR in line or _columns(value) < _LONG_VALUE:
        return False
    return any(True for _, end in _sentences(value) if end < len(value)) or any(mark in value for mark in ";；、,")


def _columns(text: str) -> int:
    """A wide character counts two; counted up to 80 characters."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text[:80])


def _goes_on(text: str) -> bool:
    last = text.rsplit("\n", 1)[-1].strip()
    if _columns(last) < _FULL_LINE or last.endswith(_ENDED):
        return False
    return not _SET_APART.search(last) and not _STAMP.match(last)


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if match.group()[0] == "." and _ABBREVIATION.search(text, max(0, match.start() - 8), match.end()):
            continue
        following = text[match.end() : match.end() + 1]
        if following and following in "とっなのをはがもにへで、，,」』）)":
            continue
        yield start, match.end()
        start = match.end()
    if start < len(text):
        yield start, len(text)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
