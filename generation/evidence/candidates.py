"""Answers that the units could give: a unit as it stands, or one cell of a row beside what names the row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from generation.evidence.units import Unit, UnitKind

_MAX_CELLS = 24
_MAX_KEYS = 4
MAX_KEY_CHARS = 40


@dataclass(frozen=True, slots=True)
class Candidate:
    """A unit, or its cell number `cell`. keys: cells that name the row."""

    unit: Unit
    cell: int | None = None
    keys: tuple[int, ...] = ()
    clause: tuple[int, int] | None = None
    """Offsets in the unit of the part that answers, where the whole says more."""


def candidates_of(units: Sequence[Unit], matched: Sequence[Sequence[bool]]) -> Iterator[Candidate]:
    """All candidates. matched: for each unit and cell whether its value stands in the question."""
    for unit, hits in zip(units, matched, strict=True):
        yield Candidate(unit)
        if unit.kind in {UnitKind.SENTENCE, UnitKind.ITEM}:
            for clause in clauses_of(unit.text):
                yield Candidate(unit, clause=clause)
        if unit.kind is UnitKind.ROW and 1 < len(unit.cells) <= _MAX_CELLS:
            label = _label(unit)
            for at, cell in enumerate(unit.cells):
                if not cell.header:
                    continue
                keys = [key for key in range(len(unit.cells)) if key != at and (hits[key] or key == label)]
                yield Candidate(unit, at, tuple(keys[:_MAX_KEYS]))


def _label(unit: Unit) -> int | None:
    """The first cell that names its row rather than numbers it."""
    for at, cell in enumerate(unit.cells[:3]):
        if not cell.value.strip().isdigit() and len(cell.value) <= MAX_KEY_CHARS:
            return at
    return None


def shown(candidate: Candidate) -> str:
    """The candidate as an answer: the unit's text, or `key key header: value`."""
    unit = candidate.unit
    if candidate.clause is not None:
        return with_heading(unit, unit.text[slice(*candidate.clause)])
    if candidate.cell is None:
        return with_heading(unit, unit.text)
    cell = unit.cells[candidate.cell]
    keys = " ".join(unit.cells[key].value for key in candidate.keys)
    return f"{keys} {cell.header}: {cell.value}".strip()


def with_heading(unit: Unit, text: str) -> str:
    """The text behind the last heading above it, where it does not say it itself."""
    tail = unit.heading.rsplit(" > ", 1)[-1].strip()
    if not tail or len(tail) > MAX_KEY_CHARS or tail in text or unit.kind is UnitKind.HEADING:
        return text
    return f"{tail}: {text}"


_CLAUSE_END = re.compile(r"[;；、]|,(?=\s)|　(?=\S)")
_MIN_CLAUSE_CHARS = 6


def clauses_of(text: str) -> list[tuple[int, int]]:
    """Parts of a sentence between commas and semicolons; [] where there is only one."""
    edges = [0, *(match.end() for match in _CLAUSE_END.finditer(text)), len(text)]
    parts = [(a, b) for a, b in zip(edges, edges[1:], strict=False) if b - a >= _MIN_CLAUSE_CHARS]
    trimmed = [(a, b - 1 if text[b - 1] in ";；、,　" else b) for a, b in parts]
    return trimmed if len(trimmed) > 1 else []
