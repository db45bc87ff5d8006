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
_MAX_LIST_CHARS = 600
_CLAUSE_END = re.compile(
    r"[;；、]|,(?=\s)|　(?=\S)|(?<=\S) (?=[①-⑳])|(?<=[0-9a-zA-Zａ-ｚ）)]) (?=[A-Z]：)|(?<=\S) (?=[^\s：]{1,16}：)"
)
_MIN_CLAUSE_CHARS = 5
_SEMICOLON = re.compile(r"[;；]")
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


def candidates_of(
    units: Sequence[Unit], named: Sequence[Sequence[bool]], together: Sequence[Sequence[int]]
) -> Iterator[Candidate]:
    """All candidates.

    named: for each unit and cell whether its value stands in the question. together: cells of each unit whose headers
    the question names side by side.
    """
    for at, unit in enumerate(units):
        if unit.kind is UnitKind.HEADING or unit.asks:
            continue  # shown above what stands under it, and no answer by itself
        announced = _announced(units, at)
        if announced > at:
            text = _joined(units[at : announced + 1])
            if len(text) <= _MAX_LIST_CHARS:
                yield Candidate(Form.BLOCK, at, announced, text)
                continue  # without its list the line says nothing
        yield Candidate(Form.UNIT, at, at, unit.text)
        if unit.kind is UnitKind.ROW and len(unit.cells) > 1:
            yield from _cells(at, unit, named[at], together[at])
            continue
        for part in dict.fromkeys((*strongly_parted(unit), *parts_of(unit))):
            yield Candidate(Form.CLAUSE, at, at, part)
        following = units[at + 1] if at + 1 < len(units) else None
        if following is not None and _together(unit, following):
            yield Candidate(Form.PAIR, at, at + 1, f"{unit.text}{_gap(unit)}{following.text}")
        block = _block(units, at)
        if block > at + 1:
            text = _joined(units[at : block + 1])
            if len(text) <= _MAX_BLOCK_CHARS:
                yield Candidate(Form.BLOCK, at, block, text)


def _together(unit: Unit, following: Unit) -> bool:
    """Whether two neighbours can be one answer: sentences of a paragraph, or an item with what it announces."""
    if unit.passage != following.passage or UnitKind.ROW in {unit.kind, following.kind} or following.asks:
        return False
    return unit.group == following.group or (
        unit.kind is not UnitKind.HEADING and following.kind is not UnitKind.HEADING
    )


def _announced(units: Sequence[Unit], at: int) -> int:
    """Last item of the list that a line announces; `at` itself where it announces none."""
    unit, last = units[at], at
    for item in units[at + 1 :]:
        if item.kind is not UnitKind.ITEM or item.lead != unit.text or item.passage != unit.passage:
            break
        last += 1
    return last


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


def _joined(units: Sequence[Unit]) -> str:
    return "".join(f"{one.text}{_gap(one)}" for one in units).strip()


def _gap(unit: Unit) -> str:
    return "" if unit.text.endswith(("。", "！", "？")) else " "


def _cells(at: int, unit: Unit, named: Sequence[bool], together: Sequence[int]) -> Iterator[Candidate]:
    if not 1 < len(unit.cells) <= _MAX_CELLS:
        return
    label = _label(unit)
    if together:
        yield _beside_keys(at, unit, together, named, label)
    for number, cell in enumerate(unit.cells):
        if cell.header:
            yield _beside_keys(at, unit, [number], named, label)


def _beside_keys(at: int, unit: Unit, wanted: Sequence[int], named: Sequence[bool], label: int | None) -> Candidate:
    """Cells behind those that name their row. The first one is the candidate's cell."""
    keys = [key for key in range(len(unit.cells)) if key not in wanted and (named[key] or key == label)][:_MAX_KEYS]
    said = [f"{unit.cells[one].header}: {unit.cells[one].value}" for one in wanted]
    shown = " ".join([*(unit.cells[key].value for key in keys), *said])
    return Candidate(Form.CELL, at, at, shown, wanted[0], tuple(keys))


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


def strongly_parted(unit: Unit) -> list[str]:
    """Parts of a unit between semicolons, which hold what commas part; [] where there is only one."""
    parts = [part.strip() for part in _SEMICOLON.split(unit.text)]
    return [part for part in parts if len(part) >= _MIN_CLAUSE_CHARS] if len(parts) > 1 else []


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
