"""Answers that the units could give: a unit, a part of it, a few together, or a cell beside what names its row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from generation.evidence.units import Unit, UnitKind, is_stamped
from generation.prompt import poses_as_answer

MAX_KEY_CHARS = 40
_MAX_CELLS = 40
_MAX_KEYS = 4
_MAX_BLOCK_CHARS = 260
_CLAUSE_END = re.compile(
    r"[;；、]|,(?=\s)|　(?=\S)|(?<=\S) (?=[①-⑳])|(?<=[0-9a-zA-Zａ-ｚ）)]) (?=[A-Z]：)|(?<=\S) (?=[^\s：]{1,16}：)"
)
_MIN_CLAUSE_CHARS = 5
_SPACES = re.compile(r"\s+")
_WIDE_BREAK = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])[ \t\u3000]{0,8}\n[ \t\u3000]{0,8}")


class Form(StrEnum):
    """How much of a unit a candidate gives."""

    UNIT = "unit"
    CLAUSE = "clause"
    PAIR = "pair"
    BLOCK = "block"
    CELL = "cell"


@dataclass(frozen=True, slots=True)
class Candidate:
    """units[first : last + 1] of a pool, or a part of one. text: what of the document answers, without its place."""

    form: Form
    first: int
    last: int
    text: str
    cell: int | None = None
    keys: tuple[int, ...] = ()
    """Cells that name the row of `cell`."""


def candidates_of(units: Sequence[Unit], named: Sequence[Sequence[bool]]) -> Iterator[Candidate]:
    """All candidates. named: for each unit and cell whether its value stands in the question."""
    for at, unit in enumerate(units):
        if unit.kind is UnitKind.HEADING or unit.asks:
            continue  # shown above what stands under it, and no answer by itself
        yield Candidate(Form.UNIT, at, at, unit.text)
        if unit.kind is UnitKind.ROW and len(unit.cells) > 1:
            yield from _cells(at, unit, named[at])
            continue
        for part in parts_of(unit):
            yield Candidate(Form.CLAUSE, at, at, part)
        following = units[at + 1] if at + 1 < len(units) else None
        if following is not None and _together(unit, following):
            yield Candidate(Form.PAIR, at, at + 1, f"{unit.text}{_gap(unit)}{following.text}")
        block = _block(units, at)
        if block > at + 1:
            text = "".join(f"{one.text}{_gap(one)}" for one in units[at : block + 1]).strip()
            if len(text) <= _MAX_BLOCK_CHARS:
                yield Candidate(Form.BLOCK, at, block, text)


def _together(unit: Unit, following: Unit) -> bool:
    """Whether two neighbours can be one answer: sentences of a paragraph, or an item with what it announces."""
    if unit.passage != following.passage or UnitKind.ROW in {unit.kind, following.kind} or following.asks:
        return False
    return unit.group == following.group or (
        unit.kind is not UnitKind.HEADING and following.kind is not UnitKind.HEADING
    )


def _block(units: Sequence[Unit], at: int) -> int:
    """Last unit of the paragraph or list that begins with this unit; `at` itself where it does not begin one."""
    unit = units[at]
    if at and units[at - 1].passage == unit.passage and _same_block(units[at - 1], unit):
        return at
    last = at
    while last + 1 < len(units) and units[last + 1].passage == unit.passage and _same_block(unit, units[last + 1]):
        last += 1
    return last


def _same_block(one: Unit, other: Unit) -> bool:
    if UnitKind.HEADING in {one.kind, other.kind} or UnitKind.ROW in {one.kind, other.kind} or one.asks or other.asks:
        return False
    return one.group == other.group or (one.kind is other.kind is UnitKind.ITEM and one.lead == other.lead)


def _gap(unit: Unit) -> str:
    return "" if unit.text.endswith(("。", "！", "？")) else " "


def _cells(at: int, unit: Unit, named: Sequence[bool]) -> Iterator[Candidate]:
    if not 1 < len(unit.cells) <= _MAX_CELLS:
        return
    label = _label(unit)
    for number, cell in enumerate(unit.cells):
        if not cell.header:
            continue
        keys = [key for key in range(len(unit.cells)) if key != number and (named[key] or key == label)][:_MAX_KEYS]
        shown = [*(unit.cells[key].value for key in keys), f"{cell.header}: {cell.value}"]
        yield Candidate(Form.CELL, at, at, " ".join(shown), number, tuple(keys))


def _label(unit: Unit) -> int | None:
    """The first cell that names its row rather than numbers it."""
    for at, cell in enumerate(unit.cells[:3]):
        if not cell.value.strip().isdigit() and len(cell.value) <= MAX_KEY_CHARS:
            return at
    return None


def clauses_of(text: str) -> list[tuple[int, int]]:
    """Parts of a sentence between commas and semicolons; [] where there is only one."""
    edges = [0, *(match.end() for match in _CLAUSE_END.finditer(text)), len(text)]
    parts = [(a, b - 1 if text[b - 1] in ";；、,　" else b) for a, b in pairwise(edges) if b - a >= _MIN_CLAUSE_CHARS]
    return parts if len(edges) > 2 else []


def parts_of(unit: Unit) -> list[str]:
    """Clauses of a unit as candidates give them; [] where there is only one, or in a line of a log."""
    if is_stamped(unit.text):
        return []
    return [unit.text[start:end].strip() for start, end in clauses_of(unit.text)]


def shown(candidate: Candidate, unit: Unit) -> str:
    """The candidate as an answer: behind the headings above it, where it does not say them itself; on one line."""
    text = _SPACES.sub(" ", _WIDE_BREAK.sub("", candidate.text))
    if unit.kind is UnitKind.HEADING or candidate.form is Form.CELL:
        return text
    path = [part.strip() for part in unit.heading.split(" > ") if not poses_as_answer(part)]
    tail = [part for part in path[-2:] if part and len(part) <= MAX_KEY_CHARS and part not in text]
    if len(tail) == 2 and not any(c.isdigit() for c in tail[0]):
        tail = tail[1:]
    return f"{' '.join(tail)}: {text}" if tail else text
