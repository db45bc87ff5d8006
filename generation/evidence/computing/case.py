"""A question read against one grid: which rows and which column a calculation is over, or that it is unclear."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from core.text_folding import fold
from core.types import Language
from generation.evidence.computing.calculations import TOPIC_HEADERS, Cue, Operation, Topic
from generation.evidence.computing.grids import Grid, GridRow
from generation.evidence.computing.naming import (
    Bound,
    NamedColumn,
    Naming,
    Span,
    Wording,
    bounds_in,
    header_parts,
    widen,
)
from generation.evidence.computing.quantities import (
    Quantity,
    Scale,
    has_no_value,
    in_one_unit,
    in_told_unit,
    is_money,
    read_quantity,
    written,
)
from generation.evidence.question import Question, Wanted

TOLD_ROWS = 10
"""Rows that an answer names; of more it tells how many there are."""
_DURATION_UNITS = frozenset(
    (
        "日",
        "営業日",
        "週間",
        "週",
        "か月",
        "ヶ月",
        "カ月",
        "年",
        "時間",
        "分",
        "day",
        "week",
        "month",
        "hour",
        "year",
        "h",
    )
)
_CODES = re.compile(
    r"番号|\bno\b|コード|内線|電話|\bid\b|\bcode\b|\bext\b|\bphone\b|\bsku\b|郵便|品番|型番|年度?\Z|\byear\b"
)
_MONEY_ASKED = re.compile(r"いくら|何円|\bhow much\b")


@dataclass(frozen=True, slots=True)
class Part:
    """A row that an answer stands on."""

    row: GridRow
    heading: str


@dataclass(frozen=True, slots=True)
class Found:
    """An answer over one grid."""

    text: str
    operation: Operation
    parts: tuple[Part, ...]


@dataclass(slots=True)
class Case:
    """A question and a grid, and what of the question has been used so far."""

    question: Question
    wording: Wording
    grid: Grid
    naming: Naming
    cues: tuple[Cue, ...]
    used: list[Span] = field(default_factory=list)

    @property
    def japanese(self) -> bool:
        """Whether the answer is Japanese."""
        return self.question.language is Language.JAPANESE

    def own_cues(self, operation: Operation) -> list[Cue]:
        """Cues that are no part of a header or a value."""
        taken = self.naming.spans
        return [
            cue
            for cue in self.cues
            if cue.operation is operation
            and not (cue.end and any(start <= cue.start and cue.end <= end for start, end in taken))
        ]

    def label(self, at: int) -> str:
        """What names a row."""
        column = self.grid.label
        cells = self.grid.rows[at].cells
        if column is None:
            return next((cell for cell in cells if cell), "")
        shown = cells[column] or ""
        following = cells[column + 1] if column + 1 < len(cells) else None
        # A part number is told with what it is the number of.
        code = shown.isascii() and any(c.isdigit() for c in shown)
        if not code or following is None or len(following) > 24 or following[:1].isdigit():
            return shown
        return f"{shown} {following}"

    def short(self, column: int) -> str:
        """A header as it is told: its levels, without brackets."""
        plain = re.sub(r"[(（][^()（）]*[)）]", "", self.grid.columns[column]).strip()
        return plain.replace(" / ", " " if self.japanese else ", ")

    def quantity(self, at: int, column: int) -> Quantity | None:
        """A cell's quantity in the unit told for its column; None where it has none, or none can be read."""
        cell = self.grid.rows[at].cells[column]
        found = None if cell is None else read_quantity(cell)
        around = f"{self.grid.heading}\n{self.grid.before}"
        return None if found is None else in_told_unit(found, self.grid.columns[column], around)

    def told(self, at: int, column: int) -> str:
        """A cell as the answer shows it: as written, with its unit."""
        cell, quantity = self.grid.rows[at].cells[column] or "", self.quantity(at, column)
        bare = None if not cell else read_quantity(cell)
        if quantity is None or bare is None or (quantity.unit, quantity.prefix) == (bare.unit, bare.prefix):
            return cell
        sign = "+" if cell.strip().startswith("+") else ""
        return sign + written(quantity.value, [quantity], self.question.language)

    def numeric(self, column: int) -> bool:
        """Whether a column holds quantities, mostly."""
        cells = [self.grid.rows[at].cells[column] for at in self.grid.data]
        said = [cell for cell in cells if cell is not None and not has_no_value(cell)]
        return bool(said) and sum(read_quantity(cell) is not None for cell in said) > 0.5 * len(said)

    def of_topic(self, column: int, topic: Topic) -> bool:
        """Whether a column holds values of a topic, by its header or its cells."""
        header = fold(self.grid.columns[column])
        if any(TOPIC_HEADERS[topic].search(part) for part in header_parts(header)):
            return True
        found = next((q for at in self.grid.data if (q := self.quantity(at, column)) is not None), None)
        if found is None:
            return False
        match topic:
            case Topic.MONEY:
                return is_money(found)
            case Topic.DATE:
                return found.scale in {Scale.DATE, Scale.DAY_OF_YEAR}
            case Topic.TIME:
                return found.scale is Scale.TIME
            case Topic.WEIGHT:
                return found.unit in {"g", "kg", "t"}
            case Topic.LENGTH:
                return found.unit in {"mm", "cm", "m", "km"}
            case Topic.DURATION:
                unit = found.unit.rstrip("s").split(" ")[-1]
                return found.scale is Scale.DURATION or unit in _DURATION_UNITS

    def widen(self) -> None:
        """Read what else the question says as parts of headers and cells, where that is clear."""
        cues = [(cue.start, cue.end) for cue in self.cues]
        bounds = [bound.span for bound in bounds_in(self.wording, self.naming.columns)]
        topics = [match.span() for pattern in TOPIC_HEADERS.values() for match in pattern.finditer(self.wording.text)]
        explained = [*self.naming.spans, *self.naming.title, *cues, *bounds]
        widen(self.wording, self.grid, self.naming, self.wording.unexplained(explained), topics)

    def left_over(self, *also: Span) -> list[str]:
        """Words of the question that nothing accounts for."""
        return self.wording.left_over([*self.naming.spans, *self.naming.title, *self.used, *also])

    def bound_to_grid(self) -> bool:
        """Whether the question names anything of this grid or its document."""
        return bool(self.naming.columns or self.naming.values or self.naming.title)


def rows_meant(case: Case) -> tuple[list[int], list[Bound]] | None:
    """Rows that meet all that the question says of them, and the conditions by size; None where one is unclear."""
    bounds = bounds_in(case.wording, case.naming.columns)
    bounds = [one for one in bounds if not any(s <= one.span[0] and one.span[1] <= e for s, e in case.naming.spans)]
    # 5週間 of 5週間以上 is no value to be equal to.
    case.naming.values = [
        value
        for value in case.naming.values
        if not any(one.span[0] <= value.span[0] and value.span[1] <= one.span[1] for one in bounds)
    ]
    rows = case.naming.rows(case.grid.data)
    for bound in bounds:
        column = bound.column
        if column is None:
            money = [at for at in range(len(case.grid.columns)) if case.numeric(at) and case.of_topic(at, Topic.MONEY)]
            if bound.unit != "円" or len(money) != 1:
                return None
            column = money[0]
        kept = []
        for at in rows:
            cell = case.grid.rows[at].cells[column]
            if has_no_value(cell):
                continue
            quantity = case.quantity(at, column)
            limit = bound.value if bound.other is None else None
            if bound.other is not None:
                other = case.quantity(at, bound.other)
                if quantity is None or other is None or other.sort != quantity.sort:
                    return None
                limit = other.value
            if quantity is None or limit is None or quantity.scale is not Scale.NUMBER:
                return None
            if (
                bound.unit
                and fold(quantity.unit) != bound.unit
                and not (quantity.unit == "" and bound.unit in "円個台人名枚本件点")
            ):
                return None
            if _meets(quantity.value, bound.how, limit):
                kept.append(at)
        rows = kept
        case.used.append(bound.span)
    return (rows, bounds) if rows else None


def _meets(value: Decimal, how: str, limit: Decimal) -> bool:
    return {"<": value < limit, "<=": value <= limit, ">": value > limit, ">=": value >= limit}[how]


def conditioned(case: Case, bounds: Sequence[Bound]) -> set[int | None]:
    """Columns that the conditions are on."""
    return case.naming.conditioned | {b.column for b in bounds} | {b.other for b in bounds}


def value_column(case: Case, topics: Iterable[Topic], near: Sequence[Cue], bounds: Sequence[Bound] = ()) -> int | None:
    """The one numeric column that is meant: named, or the only one of the topic asked for."""
    bounded = {bound.column for bound in bounds} | {bound.other for bound in bounds}
    conditioned = case.naming.conditioned
    named = [
        one
        for one in case.naming.columns
        if one.column not in bounded | conditioned and case.numeric(one.column) and not is_code(case, one.column)
    ]
    if len(named) > 1:
        touching = [one for one in named if any(_touches(case, one, cue) for cue in near)]
        named = touching if len(touching) == 1 else named
    if named:
        return named[0].column if len(named) == 1 else None
    wanted = set(topics) or ({Topic.MONEY} if _MONEY_ASKED.search(case.wording.text) else set())
    wanted |= {topic for topic in (Topic.MONEY,) if not wanted and Wanted.MONEY in case.question.wanted}
    found = [
        column
        for column in range(len(case.grid.columns))
        if case.numeric(column)
        and column not in bounded | conditioned
        and not is_code(case, column)
        and any(case.of_topic(column, topic) for topic in wanted)
    ]
    return found[0] if len(found) == 1 else None


def _touches(case: Case, named: NamedColumn, cue: Cue) -> bool:
    if case.japanese:
        return 0 <= cue.start - named.span[1] <= 2
    return 0 <= named.span[0] - cue.end <= 2


def is_code(case: Case, column: int) -> bool:
    """Whether the numbers of a column name things instead of counting them."""
    return column == case.grid.label or any(_CODES.search(part) for part in header_parts(case.grid.columns[column]))


def explain_topic(case: Case, column: int) -> None:
    """Words such as 価格 and price are accounted for where the column is one of prices."""
    for topic, pattern in TOPIC_HEADERS.items():
        if case.of_topic(column, topic):
            case.used += [match.span() for match in pattern.finditer(case.wording.text)]


def read_column(case: Case, rows: Sequence[int], column: int) -> list[tuple[int, Quantity]] | None:
    """(row, quantity) of the rows that have a value, in one unit; None where one cannot be read."""
    found = []
    for at in rows:
        if has_no_value(case.grid.rows[at].cells[column]):
            continue
        quantity = case.quantity(at, column)
        if quantity is None:
            return None
        found.append((at, quantity))
    same = in_one_unit([quantity for _, quantity in found])
    return None if not found or same is None else list(zip([at for at, _ in found], same, strict=True))


def also_asked(case: Case, column: int | None, bounds: Sequence[Bound]) -> list[int]:
    """Columns that the question names and that no condition or calculation uses: what else it wants to know."""
    used = {column, case.grid.label, *case.naming.conditioned}
    used |= {bound.column for bound in bounds} | {bound.other for bound in bounds}
    return list(dict.fromkeys(one.column for one in case.naming.columns if one.column not in used))


def rows_told(case: Case, rows: Sequence[int], columns: Sequence[int]) -> str:
    """Labels of rows, each with its cells in some columns; of many the first TOLD_ROWS, and how many there are."""
    shown = []
    for at in rows[:TOLD_ROWS]:
        values = [
            f"{case.short(column)} {case.told(at, column)}" for column in columns if case.grid.rows[at].cells[column]
        ]
        inner = ("、" if case.japanese else ", ").join(values)
        shown.append(case.label(at) + ((f"（{inner}）" if case.japanese else f" ({inner})") if inner else ""))
    text = ("、" if case.japanese else "; ").join(shown)
    if len(rows) > TOLD_ROWS:
        text += f" ほか、全{len(rows)}件" if case.japanese else f" and others, {len(rows)} in all"
    return text


def result(case: Case, operation: Operation, text: str, rows: Sequence[int]) -> Found:
    """An answer that stands on some rows."""
    return Found(text, operation, tuple(Part(case.grid.rows[at], case.grid.heading) for at in rows))
