"""Rows of a grid: those of the largest or smallest value, how many meet a condition, and which."""

from __future__ import annotations

import re
from collections.abc import Sequence

from generation.evidence.computing.calculations import Cue, Operation, Topic
from generation.evidence.computing.case import (
    TOLD_ROWS,
    Case,
    Found,
    also_asked,
    conditioned,
    explain_topic,
    is_code,
    read_column,
    result,
    rows_meant,
    rows_told,
    value_column,
)
from generation.evidence.computing.naming import Bound, NamedColumn, bounds_in, header_parts

_WHOLE_ROWS = 8
"""Rows up to which a column is told whole; of more, the best line is the answer."""
_PEOPLE_OR_THINGS = re.compile(r"何(?:台|個|枚|つ)|いくつ|\bhow many (?:units|pieces)\b")
_HIGH_OR_LOW = re.compile(r"高|低|highest|lowest")
_STOCK = re.compile(r"数量?|在庫|台数|人数|qty|quantity|count|units?\b|stock")


def extreme(case: Case, cues: Sequence[Cue]) -> Found | None:
    """The rows with the largest or smallest value of a column."""
    met = rows_meant(case)
    if met is None or len({(cue.direction, cue.topics) for cue in cues}) != 1:
        return None
    rows, bounds = met
    column = value_column(case, cues[0].topics, cues, bounds)
    if column is None and not cues[0].topics:
        column = _only_price(case, bounds, cues[0])
    readings = None if column is None else read_column(case, rows, column)
    if column is None or readings is None or len(readings) < 2:
        return None
    explain_topic(case, column)
    if case.left_over(*((cue.start, cue.end) for cue in cues)):
        return None
    targets = also_asked(case, column, bounds)
    if any(_qualifies(case, one, cues[0]) for one in case.naming.columns if one.column in targets):
        return None
    best = max(quantity.value * cues[0].direction for _, quantity in readings)
    rows = [at for at, quantity in readings if quantity.value * cues[0].direction == best]
    if len(rows) > 5:
        return None
    return result(case, Operation.EXTREME, rows_told(case, rows, [column, *targets]), rows)


def _only_price(case: Case, bounds: Sequence[Bound], cue: Cue) -> int | None:
    """The column of prices where the table has no other numbers: 一番高い部品."""
    numbers = [
        column
        for column in range(len(case.grid.columns))
        if case.numeric(column)
        and not is_code(case, column)
        and not case.of_topic(column, Topic.DATE)
        and column not in conditioned(case, bounds)
    ]
    plain = any(case.numeric(one.column) and not is_code(case, one.column) for one in case.naming.columns)
    if plain or len(numbers) != 1 or not _HIGH_OR_LOW.search(case.wording.text[cue.start : cue.end]):
        return None
    return numbers[0] if case.of_topic(numbers[0], Topic.MONEY) else None


def _qualifies(case: Case, named: NamedColumn, cue: Cue) -> bool:
    """Whether a column's name says of what the largest is sought (the cable's weight), not what else is asked."""
    if case.japanese:
        return named.exact and named.span[0] < cue.start
    return any(0 <= one.span[0] - named.span[1] <= 3 for one in case.naming.columns)


def count_rows(case: Case, cues: Sequence[Cue]) -> Found | None:
    """How many rows meet a condition; a number of things that a column holds is not counted by rows."""
    met = rows_meant(case)
    if met is None:
        return None
    rows, bounds = met
    text = case.wording.text
    quantities = any(_STOCK.search(part) for header in case.grid.columns for part in header_parts(header))
    rows_asked = any(one.column == case.grid.label for one in case.naming.columns)
    if (quantities and not rows_asked and _PEOPLE_OR_THINGS.search(text)) or also_asked(case, None, bounds):
        return None
    if any(value.column == case.grid.label for value in case.naming.values) or not (case.naming.conditioned or bounds):
        return None
    if any(case.numeric(one.column) for one in case.naming.columns if one.column not in conditioned(case, bounds)):
        return None
    if case.left_over(*((cue.start, cue.end) for cue in cues)):
        return None
    mark = re.search(r"何(件|人|名|社|か所|種類|機種|品目|店|回|つ|台|個|枚|部署|項目|行)", text)
    unit = (mark[1] if mark else "件") if case.japanese else ""
    names = "、" if case.japanese else ", "
    told = names.join(case.label(at) for at in rows[:TOLD_ROWS])
    if len(rows) > TOLD_ROWS:
        told += " ほか" if case.japanese else " and others"
    shown = f"{len(rows)}{unit}（{told}）" if case.japanese else f"{len(rows)} ({told})"
    return result(case, Operation.COUNT, shown, rows)


def rows_that_meet(case: Case) -> Found | None:
    """All rows that meet a condition on another column than the one that names them."""
    met = rows_meant(case)
    if met is None:
        return None
    rows, bounds = met
    values = [*case.naming.values, *case.naming.holding]
    if not (values or bounds) or any(value.column == case.grid.label for value in values):
        return None
    headers = {one.column for one in case.naming.columns}
    named = bool(bounds) or any(value.column in headers for value in values)
    # 片桐 alone names rows only where it fills the cells of a column that groups rows.
    if not named and (len(rows) < 2 or not all(value.whole for value in values)):
        return None
    targets = also_asked(case, None, bounds)
    if len(rows) == len(case.grid.data) or (len(rows) < 2 and (targets or (not bounds and not _asks_for_label(case)))):
        return None
    if case.left_over():
        return None
    shown = [*_bounded_columns(bounds), *targets]
    return result(case, Operation.ROWS, rows_told(case, rows, shown), rows)


def whole_column(case: Case) -> Found | None:
    """What a column says of each of a few rows, where a question names the column alone (取引先コードは)."""
    columns = {one.column for one in case.naming.columns}
    rows = [at for at in case.grid.data if any(case.grid.rows[at].cells[column] for column in columns)]
    if len(columns) != 1 or not all(one.exact for one in case.naming.columns) or not 2 <= len(rows) <= _WHOLE_ROWS:
        return None
    if case.naming.values or case.naming.holding or case.left_over():
        return None
    if bounds_in(case.wording, case.naming.columns):
        return None
    return result(case, Operation.COLUMN, rows_told(case, rows, list(columns - {case.grid.label})), rows)


def _asks_for_label(case: Case) -> bool:
    return (
        any(one.column == case.grid.label for one in case.naming.columns)
        or re.search(r"どの|どれ|どこ|\bwhich\b", case.wording.text) is not None
    )


def _bounded_columns(bounds: Sequence[Bound]) -> list[int]:
    return [column for bound in bounds for column in (bound.column, bound.other) if column is not None]
