"""Answers that no line says: the smallest of a column, a sum, a difference, N times a price, all rows of a kind.

Computed over all rows of a table, and only where every word of the question is accounted for by the table, its title or
the calculation, and exactly one table and one column are meant; else None, and the best line is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from core.dates import Precision
from core.editions import EditionFit, edition_fit, is_newer
from core.question_edition import QuestionEdition, question_edition
from core.types import BlockKind, Passage
from generation.evidence.computing.calculations import Cue, Operation, cues_in
from generation.evidence.computing.case import Case, Found, Part
from generation.evidence.computing.differences import Cell, between_tables, cell_of, difference_of
from generation.evidence.computing.grids import Grid, grids_of
from generation.evidence.computing.naming import Naming, Wording, name
from generation.evidence.computing.solving import solve
from generation.evidence.question import Question
from retrieval.document_text import DocumentText

_YEAR = re.compile(r"(?<![0-9])(?:19|20)[0-9]{2}(?:年度?)?(?![0-9])|(?:令和|平成)[0-9]{1,2}年度?")
MAX_DOCUMENTS = 8
"""Documents whose tables are read for one question: those of the best passages."""
_OPENING_CHARS = 200
_OF_TWO = frozenset({Operation.DIFFERENCE, Operation.WHICH})
CITED_ROWS = 8
CONFIDENCE = 0.92
"""Of a computed answer; it is given only where rows and column are certain."""


@dataclass(frozen=True, slots=True)
class Computed:
    """An answer with the rows it was computed from. lines: the first CITED_ROWS of them as passages, offsets exact."""

    text: str
    operation: Operation
    lines: tuple[Passage, ...]
    row_count: int
    confidence: float = CONFIDENCE


@dataclass(frozen=True, slots=True)
class _Candidate:
    found: Found
    passage: Passage
    grid: Grid
    edition: EditionFit
    told: int
    """Characters of the question that the document's title and headings explain."""


TextOf = Callable[[Passage], DocumentText | None]
"""The whole text of a passage's document; None where the caller may not read it or it has just gone."""


def compute(question: Question, passages: Sequence[Passage], text_of: TextOf, today: date) -> Computed | None:
    """Compute an answer over the tables of the documents that the passages are of; None unless all is certain."""
    cues = cues_in(question)
    if not cues:
        return None
    wording = Wording(question)
    asked = question_edition(question.text, today)
    # Of which edition the rows are: what compares rows of one table wants the one that holds, like any question.
    fits = _edition_fits(replace(asked, compares=False), passages, today)
    candidates: list[_Candidate] = []
    cells: list[tuple[Cell, Passage]] = []
    for passage in _documents(passages):
        source = text_of(passage)
        if source is None:
            continue
        titles = [*_titles(passage), _opening(source)]
        for grid in grids_of(source.text, source.blocks):
            naming = name(wording, grid, titles)
            case = Case(question, wording, grid, naming, tuple(cues))
            found = solve(case)
            if found is not None:
                told = sum(end - start for start, end in naming.title)
                # 2024年度 may be a column here, and no edition.
                fit = EditionFit() if _years_are_columns(wording, naming) else fits[passage.document_id]
                candidates.append(_Candidate(found, passage, grid, fit, told))
            if any(cue.operation in _OF_TWO for cue in cues) and (cell := cell_of(case)) is not None:
                cells.append((cell, passage))
    between = _between_editions(cells, asked) or _between_tables(cells, cues)
    if between is not None:
        return between
    chosen = _chosen(candidates)
    return None if chosen is None else _computed(chosen.found, [(part, chosen.passage) for part in chosen.found.parts])


def _documents(passages: Sequence[Passage]) -> list[Passage]:
    """The best passage of each document that a row was found of."""
    best: dict[str, Passage] = {}
    rows = {passage.document_id for passage in passages if " | " in passage.text}
    for passage in passages:
        if passage.document_id in rows:
            best.setdefault(passage.document_id, passage)
    return list(best.values())[:MAX_DOCUMENTS]


def _titles(passage: Passage) -> list[str]:
    """What names a document: file name, title, and its period or day as people write them."""
    titles = [passage.filename.rsplit(".", 1)[0], passage.title or ""]
    edition = passage.edition
    if edition is not None and edition.dated is not None:
        day = edition.dated
        titles.append(f"{day.year}年{day.month}月{day.day}日 {day:%d %B %Y}".replace(" 0", " "))
    if edition is not None and edition.period is not None and edition.period.precision is Precision.MONTH:
        month = edition.period.first
        titles.append(f"{month.year}年{month.month}月 {month:%B %Y}")
    return titles


def _opening(source: DocumentText) -> str:
    """What a document says of itself before its first table, its headings left out: they are those of one sheet."""
    told = []
    for block in source.blocks:
        if block.kind is BlockKind.TABLE:
            break
        if block.kind is BlockKind.PARAGRAPH:
            told.append(source.text[block.start : block.end])
    return "\n".join(told)[:_OPENING_CHARS]


def _years_are_columns(wording: Wording, naming: Naming) -> bool:
    years = [match.span() for match in _YEAR.finditer(wording.text)]
    return bool(years) and all(any(s <= year[0] and year[1] <= e for s, e in naming.spans) for year in years)


def _edition_fits(asked: QuestionEdition, passages: Sequence[Passage], today: date) -> Mapping[str, EditionFit]:
    known = {passage.document_id: passage.edition for passage in passages}
    fits = {}
    for key, edition in known.items():
        others = [one for one in known.values() if one is not None and edition is not None and one.family]
        others = [one for one in others if edition is not None and one.family == edition.family]
        fits[key] = EditionFit() if edition is None else edition_fit(asked, edition, today, others)
    return fits


def _chosen(candidates: Sequence[_Candidate]) -> _Candidate | None:
    """The one table that is meant: of the edition asked for, or the only one that the question's other words name."""
    left = list(candidates)
    for kept in (
        [one for one in left if one.edition.named >= 0 and not one.edition.differs],
        [one for one in left if one.edition.named > 0],
        [one for one in left if one.edition.newest >= 0 and not one.edition.expired],
    ):
        left = [one for one in left if one in kept] if any(one in kept for one in left) else left
    if any(one.edition.named < 0 or one.edition.differs for one in left):
        return None
    most = max((one.told for one in left), default=0)
    left = [one for one in left if one.told == most]
    if len({one.found.text for one in left}) != 1:
        return None
    return left[0]


def _between_editions(cells: Sequence[tuple[Cell, Passage]], asked: QuestionEdition) -> Computed | None:
    """The same cell in two editions of a document: how much it rose or fell."""
    by_family: dict[str, list[tuple[Cell, Passage]]] = {}
    for cell, passage in cells:
        if passage.edition is not None and passage.edition.family:
            by_family.setdefault(f"{passage.edition.collection_id}/{passage.edition.family}", []).append(
                (cell, passage)
            )
    pairs = [pair for pair in by_family.values() if len({passage.document_id for _, passage in pair}) > 1]
    if len(pairs) != 1 or len(pairs[0]) != 2 or not _compares(asked):
        return None
    (one, first), (other, second) = pairs[0]
    assert first.edition is not None and second.edition is not None
    newer = is_newer(first.edition, second.edition)
    if newer is None or one.key != other.key:
        return None
    if newer:
        (one, first), (other, second) = (other, second), (one, first)
    # What only one of the two titles explains is explained: 2024年度 stands in one of them.
    if [word for word in one.left_over if word in other.left_over]:
        return None
    found = difference_of(one, other, _edition_name(first), _edition_name(second))
    return None if found is None else _computed(found, [(found.parts[0], first), (found.parts[1], second)])


def _between_tables(cells: Sequence[tuple[Cell, Passage]], cues: Sequence[Cue]) -> Computed | None:
    """The same cell of two tables, each named by a word that the other does not account for (branches, sheets)."""
    pairs = [
        (one, other)
        for at, one in enumerate(cells)
        for other in cells[at + 1 :]
        if one[0].key == other[0].key
        and one[0].left_over
        and other[0].left_over
        and not set(one[0].left_over) & set(other[0].left_over)
    ]
    directions = {cue.direction for cue in cues if cue.operation is Operation.WHICH}
    apart = any(cue.operation is Operation.DIFFERENCE for cue in cues)
    if len(pairs) != 1 or len(directions) > 1:
        return None
    (one, first), (other, second) = pairs[0]
    names = ("".join(other.left_over), "".join(one.left_over))
    found = between_tables(one, other, names, 0 if apart or not directions else directions.pop())
    if found is None:
        return None
    source = {id(one.part): first, id(other.part): second}
    return _computed(found, [(part, source[id(part)]) for part in found.parts])


def _compares(asked: QuestionEdition) -> bool:
    return asked.compares or len(asked.periods) > 1 or len(asked.numbers) > 1


def _edition_name(passage: Passage) -> str:
    return (passage.edition.name if passage.edition else None) or passage.filename


def _computed(found: Found, rows: Sequence[tuple[Part, Passage]]) -> Computed:
    lines: dict[tuple[str, int], Passage] = {}
    for part, passage in rows:
        row = part.row
        lines[passage.document_id, row.start] = replace(
            passage,
            text=row.text,
            start=row.start,
            end=row.end,
            page=row.page,
            heading=part.heading or None,
            hit_start=passage.start if passage.hit_start is None else passage.hit_start,
            hit_end=passage.end if passage.hit_end is None else passage.hit_end,
        )
    return Computed(found.text, found.operation, tuple(lines.values())[:CITED_ROWS], len(lines))
