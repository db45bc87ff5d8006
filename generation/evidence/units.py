"""Passages as units: what can be quoted by itself. A sentence, a table row with its cells, a list item, a question's answer.

Everything is read from the passage's own text, so that a unit's offsets are those of the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from core.table_text import CELL_SEPARATOR, HEADER_SEPARATOR, RowCell, read_row
from core.types import Passage

_MAX_LABEL_CHARS = 40
_ITEM = re.compile(
    r"[ \t\u3000]{0,8}(?:[-*•・●○■□◆◇▪‣–]|[0-9０-９]{1,3}[.)．）]|[(（][0-9０-９a-zA-Zァ-ンｱ-ﾝ一二三四五六七八九十]{1,3}[)）]|[①-⑳])[ \t\u3000]?"
)
_ASKS = re.compile(r"[ \t\u3000]{0,8}(?:[QＱ問][0-9０-９]{0,3}[.．:：、)）\s]|.{2,200}[?？]$)", re.IGNORECASE)
_ANSWER_MARK = re.compile(r"[ \t\u3000]{0,8}[AＡ答][0-9０-９]{0,3}[.．:：、)）][ \t\u3000]{0,4}")
_SENTENCE_END = re.compile(r"[。！？｡!?]['\"」』）)]{0,3}|\.['\")]{0,3}(?=\s)")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|cf|etc|No|Nos|Fig|Sec|Vol|pp|Inc|Ltd|Co|Corp|approx|e\.g|i\.e|a\.m|p\.m)\.$"
)


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
    cells: tuple[RowCell, ...] = ()
    """Of a row: offsets into `text`."""


def units_of(passages: Sequence[Passage]) -> list[Unit]:
    """Units of all passages, in the order of the passages and of their text."""
    return [unit for number, passage in enumerate(passages) for unit in _units(number, passage)]


def _units(number: int, passage: Passage) -> Iterator[Unit]:
    heading = passage.heading or ""
    titles = frozenset(part.strip() for part in heading.split(" > "))
    spans = list(_spans(passage.text))
    texts = [passage.text[start:end] for start, end, _ in spans]
    lead = ""
    for at, (start, end, kind) in enumerate(spans):
        text = texts[at]
        if kind is not UnitKind.ROW and " ".join(text.split()) in titles:
            kind = UnitKind.HEADING
        if kind is UnitKind.SENTENCE:
            if at and kind_is_lead(texts[at - 1], spans[at - 1][2]):
                lead = texts[at - 1]
            elif at and spans[at - 1][2] is not UnitKind.SENTENCE:
                lead = ""
        yield Unit(
            passage=number,
            start=passage.start + start,
            end=passage.start + end,
            text=text,
            kind=kind,
            heading=heading,
            lead=lead if kind in {UnitKind.ITEM, UnitKind.SENTENCE} else "",
            before=texts[at - 1] if at else "",
            after=texts[at + 1] if at + 1 < len(texts) else "",
            cells=tuple(read_row(text)) if kind is UnitKind.ROW else (),
        )
        if kind is UnitKind.HEADING or (kind is UnitKind.SENTENCE and kind_is_lead(text, kind)):
            lead = text


def kind_is_lead(text: str, kind: UnitKind) -> bool:
    """Whether what follows a line hangs on it: a question, or a line that announces a list."""
    return kind is not UnitKind.ROW and (text.rstrip().endswith((":", "：")) or bool(_ASKS.match(text)))


def _spans(text: str) -> Iterator[tuple[int, int, UnitKind]]:
    """(start, end, kind) of the units of a passage, white space and list marks at their ends left out."""
    position = 0
    for line in text.split("\n"):
        start = position
        position += len(line) + 1
        if not line.strip():
            continue
        if is_row(line):
            yield (*_trimmed(text, start, start + len(line)), UnitKind.ROW)
            continue
        mark = _ITEM.match(line) or _ANSWER_MARK.match(line)
        kind = UnitKind.ITEM if _ITEM.match(line) else UnitKind.SENTENCE
        for from_, to in _sentences(line):
            first, last = _trimmed(text, start + from_, start + to)
            if first < last and (mark is None or last > start + mark.end()):
                yield first, last, kind


def is_row(line: str) -> bool:
    """Whether a line reads as `header: value | ...`, or as one `label: value`."""
    if CELL_SEPARATOR in line:
        return True
    label, separator, value = line.partition(HEADER_SEPARATOR)
    return bool(separator and value.strip()) and 0 < len(label.strip()) <= _MAX_LABEL_CHARS and "。" not in label


def _sentences(line: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match in _SENTENCE_END.finditer(line):
        if match.group()[0] == "." and _ABBREVIATION.search(line, max(0, match.start() - 8), match.end()):
            continue
        following = line[match.end() : match.end() + 1]
        if following and following in "とっなのをはがもにへで、，,」』）)":
            continue
        yield start, match.end()
        start = match.end()
    if start < len(line):
        yield start, len(line)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
