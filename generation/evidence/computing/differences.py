"""Differences between two cells of a grid or of two editions of it, and which of two is the larger."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from core.text_folding import fold
from core.types import Language
from generation.evidence.computing.calculations import TOPIC_HEADERS, Cue, Operation, Topic
from generation.evidence.computing.case import (
    Case,
    Found,
    Part,
    also_asked,
    explain_topic,
    result,
    rows_meant,
    value_column,
)
from generation.evidence.computing.naming import header_parts
from generation.evidence.computing.quantities import (
    Quantity,
    Scale,
    in_one_unit,
    read_quantity,
    written,
)

_ENDS = (
    re.compile(r"開始|始業|発生|入室|出発|\b(?:start|from|begin|began|down)"),
    re.compile(r"終了|終業|復旧|退室|到着|\b(?:end|until|finish|restored|up)"),
)
"""Headers of a start and of an end."""
_PERIOD_WORDS = re.compile(
    r"昨年度?|去年|前年度?|前回|今回|今年度?|本年度?|改定前|改定後|改定|旧|新|から|版"
    r"|last year|this year|previous|new|old|since"
    r"|edition|version|go(?:ne)? up|went up|ris(?:e|en)|rose|changed?|increased?"
)


@dataclass(frozen=True, slots=True)
class Cell:
    """The one cell that a question names of a grid."""

    key: tuple[str, str]
    """Its row's label and its column's header."""
    label: str
    quantity: Quantity
    part: Part
    left_over: tuple[str, ...]
    language: Language


def difference(case: Case, cues: Sequence[Cue], *, which: bool) -> Found | None:
    """How far two cells of a column or of a row are apart; which: only which of them is the larger, or smaller."""
    met = rows_meant(case)
    if met is None or met[1]:
        return None
    rows = met[0]
    topics = {topic for cue in cues for topic in cue.topics}
    directions = {cue.direction for cue in cues if cue.direction}
    if len(directions) > 1:
        return None
    named = [one.column for one in case.naming.columns if case.numeric(one.column) or _mixed(case, one.column)]
    values = {value.span for value in case.naming.values}
    both = len(values) >= 2 and _each_once(case, rows) if len(rows) == 2 else False
    if both or (which and len(rows) == 2 and case.naming.conditioned):
        column = value_column(case, topics, cues)
        pairs = [] if column is None else [(at, column) for at in rows]
    elif len(named) == 2:
        at = _row_meant(case, rows, topics)
        pairs = [] if at is None else [(at, column) for column in named]
    else:
        pairs = []
    if len(pairs) != 2:
        return None
    quantities = [case.quantity(at, column) for at, column in pairs]
    read = [quantity for quantity in quantities if quantity is not None]
    same = in_one_unit(read) if len(read) == 2 else None
    if same is None or same[0].scale is Scale.DAY_OF_YEAR:
        return None
    for _, column in pairs:
        explain_topic(case, column)
    everything = [(cue.start, cue.end) for cue in case.cues if cue.operation in {Operation.WHICH, Operation.DIFFERENCE}]
    if case.left_over(*everything) or _unused(case, [column for _, column in pairs], rows):
        return None
    one_row = pairs[0][0] == pairs[1][0]
    names = [case.short(column) if one_row else case.label(at) for at, column in pairs]
    if any(not told for told in names) or names[0] == names[1]:
        return None
    if one_row and same[0].scale is Scale.TIME and (pairs[0][1] < pairs[1][1]) != (same[0].value < same[1].value):
        return None  # ends before it begins: on the next day
    row_name = case.label(pairs[0][0]) if one_row else case.short(pairs[0][1])
    told = [case.told(at, column) for at, column in pairs]
    order = sorted((0, 1), key=lambda at: -same[at].value)
    gap = _gap(same[order[0]].value - same[order[1]].value, same, case.question.language)
    used = list(dict.fromkeys(at for at, _ in pairs))
    if which and directions:
        if same[0].value == same[1].value:
            text = (
                f"同じ（{row_name}: {names[0]} {told[0]}、{names[1]} {told[1]}）"
                if case.japanese
                else (f"The same ({row_name}: {names[0]} {told[0]}, {names[1]} {told[1]})")
            )
            return result(case, Operation.WHICH, text, used)
        best, other = order if directions == {1} else order[::-1]
        text = (
            f"{names[best]}（{row_name}: {told[best]}、{names[other]}は{told[other]}）"
            if case.japanese
            else f"{names[best]} ({row_name}: {told[best]}; {names[other]}: {told[other]})"
        )
        return result(case, Operation.WHICH, text, used)
    high, low = order
    parts = f"{names[high]} {told[high]} − {names[low]} {told[low]}"
    text = f"{gap}（{row_name}: {parts}）" if case.japanese else f"{gap} ({row_name}: {parts})"
    return result(case, Operation.DIFFERENCE, text, used)


def duration(case: Case, cues: Sequence[Cue]) -> Found | None:
    """How long the one row meant lasted, by its columns of start and end."""
    met = rows_meant(case)
    if met is None or met[1] or len(met[0]) != 1 or not case.naming.conditioned:
        return None
    at = met[0][0]
    times = [column for column in range(len(case.grid.columns)) if case.quantity(at, column) is not None]
    ends = [[one for one in times if pattern.search(header_parts(case.grid.columns[one])[-1])] for pattern in _ENDS]
    if len(ends[0]) != 1 or len(ends[1]) != 1:
        return None
    first, last = case.quantity(at, ends[0][0]), case.quantity(at, ends[1][0])
    if first is None or last is None or first.scale is not Scale.TIME or last.scale is not Scale.TIME:
        return None
    if last.value < first.value or case.left_over(*((cue.start, cue.end) for cue in cues)):
        return None
    text = written(last.value - first.value, [first], case.question.language)
    told = [case.told(at, column[0]) for column in ends]
    shown = (
        f"{text}（{case.label(at)}: {told[0]}～{told[1]}）"
        if case.japanese
        else (f"{text} ({case.label(at)}: {told[0]} to {told[1]})")
    )
    return result(case, Operation.LASTS, shown, [at])


def _gap(value: Decimal, like: Sequence[Quantity], language: Language) -> str:
    text = written(value, like, language)
    if like[0].unit == "%":
        return text[:-1] + ("ポイント" if language is Language.JAPANESE else " percentage points")
    return text


def _mixed(case: Case, column: int) -> bool:
    """Whether a column holds the facts of one thing, each in its own unit, as in a table of specifications."""
    return any(read_quantity(cell) for at in case.grid.data if (cell := case.grid.rows[at].cells[column]))


def _each_once(case: Case, rows: Sequence[int]) -> bool:
    """Whether each of two rows is named by a word of its own."""
    naming = [{value.span for value in case.naming.values if at in value.rows} for at in rows]
    return bool(naming[0] - naming[1]) and bool(naming[1] - naming[0])


def _row_meant(case: Case, rows: Sequence[int], topics: set[Topic]) -> int | None:
    """The one row named by its values or, in a table of specifications, by what is compared (heavier: Weight)."""
    if case.naming.conditioned:
        return rows[0] if len(rows) == 1 else None
    column = case.grid.label
    if column is None:
        return None
    wanted = [
        at
        for at in case.grid.data
        if any(TOPIC_HEADERS[topic].search(fold(case.grid.rows[at].cells[column] or "")) for topic in topics)
    ]
    return wanted[0] if len(wanted) == 1 else None


def _unused(case: Case, columns: Sequence[int], rows: Sequence[int]) -> bool:
    """Whether the question names a column that the calculation does not use."""
    return any(one.column not in {*columns, *case.naming.conditioned, case.grid.label} for one in case.naming.columns)


def cell_of(case: Case) -> Cell | None:
    """The one cell that a question about a change names of this grid."""
    met = rows_meant(case) if not case.naming.ambiguous and case.naming.conditioned else None
    if met is None or met[1] or len(met[0]) != 1:
        return None
    at = met[0][0]
    column = value_column(case, (), ())
    quantity = None if column is None else case.quantity(at, column)
    if column is None or quantity is None or also_asked(case, column, ()):
        return None
    explain_topic(case, column)
    asked = {Operation.DIFFERENCE, Operation.WHICH}
    spans = [(cue.start, cue.end) for cue in case.cues if cue.operation in asked]
    spans += [match.span() for match in _PERIOD_WORDS.finditer(case.wording.text)]
    label = case.label(at)
    return Cell(
        (fold(label), fold(case.grid.columns[column])),
        f"{label} {case.short(column)}",
        quantity,
        Part(case.grid.rows[at], case.grid.heading),
        tuple(case.left_over(*spans)),
        case.question.language,
    )


def difference_of(old: Cell, new: Cell, old_name: str, new_name: str) -> Found | None:
    """How much a cell rose or fell between two editions."""
    same = in_one_unit([old.quantity, new.quantity])
    if same is None or same[0].scale not in {Scale.NUMBER, Scale.DURATION}:
        return None
    before, after = same
    japanese = old.language is Language.JAPANESE
    gap = _gap(abs(after.value - before.value), same, old.language)
    told = [written(one.value, [one], old.language) for one in same]
    if after.value == before.value:
        text = (
            f"変わっていません（{old.label}: {old_name} {told[0]}、{new_name} {told[1]}）"
            if japanese
            else f"No change ({old.label}: {old_name} {told[0]}, {new_name} {told[1]})"
        )
    else:
        rose = after.value > before.value
        how = ("増" if rose else "減") if japanese else ("more" if rose else "less")
        text = (
            f"{gap}{how}（{old.label}: {old_name} {told[0]} → {new_name} {told[1]}）"
            if japanese
            else f"{gap} {how} ({old.label}: {old_name} {told[0]}, {new_name} {told[1]})"
        )
    return Found(text, Operation.DIFFERENCE, (old.part, new.part))


def between_tables(one: Cell, other: Cell, names: tuple[str, str], direction: int) -> Found | None:
    """The same cell of two tables: which is the larger, or the smaller; direction 0: how far they are apart."""
    cells = (one, other)
    same = in_one_unit([cell.quantity for cell in cells])
    if same is None or same[0].scale not in {Scale.NUMBER, Scale.DURATION} or same[0].value == same[1].value:
        return None
    told = [written(quantity.value, [quantity], one.language) for quantity in same]
    order = sorted((0, 1), key=lambda at: -same[at].value)
    first, second = order if direction >= 0 else order[::-1]
    japanese = one.language is Language.JAPANESE
    if direction:
        text = (
            f"{names[first]}（{one.label}: {told[first]}、{names[second]}は{told[second]}）"
            if japanese
            else f"{names[first]} ({one.label}: {told[first]}; {names[second]}: {told[second]})"
        )
        return Found(text, Operation.WHICH, (cells[first].part, cells[second].part))
    gap = _gap(same[first].value - same[second].value, same, one.language)
    parts = f"{names[first]} {told[first]} − {names[second]} {told[second]}"
    text = f"{gap}（{one.label}: {parts}）" if japanese else f"{gap} ({one.label}: {parts})"
    return Found(text, Operation.DIFFERENCE, (cells[first].part, cells[second].part))
