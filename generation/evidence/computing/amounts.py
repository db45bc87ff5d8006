"""Sums over rows or cells of a grid, and a number of things times their price."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from core.text_folding import fold
from generation.evidence.computing.calculations import Cue, Operation, Topic, amounts_in
from generation.evidence.computing.case import (
    Case,
    Found,
    also_asked,
    explain_topic,
    is_code,
    read_column,
    result,
    rows_meant,
    value_column,
)
from generation.evidence.computing.naming import Span, header_parts
from generation.evidence.computing.quantities import (
    Quantity,
    Scale,
    has_no_value,
    in_one_unit,
    written,
)
from generation.evidence.ranges import ranges_in

_PACKED = re.compile(r"\d ?(?:個|枚|本|台|袋|箱)(?:入|組)|(?:pack|box|set) of \d|\bper \d|(?:単位|unit): (?!1[^\d])\d")
_PER = (
    (frozenset(("人", "名", "people", "person", "persons", "user", "users", "license", "licenses")),
     re.compile(r"1[人名]|[人名](?:あたり|当たり|につき)|/[人名]|人数|\b(?:person|head|user|seat|licen[cs]e)")),
    (frozenset(("泊", "night", "nights")), re.compile(r"泊|\bnight")),
    (frozenset(("日", "日間")), re.compile(r"日当|1日|日額|/日|\bday|daily")),
    (frozenset(("時間", "hour", "hours")), re.compile(r"1時間|時給|/時|\bhour")),
    (frozenset(("か月",)), re.compile(r"月額|1か月|/月|\bmonth")),
    (frozenset(("回",)), re.compile(r"1回|/回")),
)  # fmt: skip
"""(units, what must be said of a price that it is one of each)."""
_LEAST_ORDER = re.compile(r"最[低小少](?:ロット|発注|注文)|minimum order|\bmoq\b")
_LEAST_VALUE = re.compile(
    r"(?:minimum order(?: value)?|最低(?:注文|発注)金?額)[^\d]{0,12}(?P<value>\d{1,9}(?:\.\d{1,2})?)"
)
_REBATE = re.compile(r"引き|割引|値引|割増|discount|rebate|% off")
_REBATE_RULE = re.compile(
    r"(?P<count>\d{1,6}) ?(?P<unit>[^\d\s%以]{1,3})以上(?:は|で|なら|の場合は?|の注文は?)?、?"
    r"(?P<percent>\d{1,2}(?:\.\d)?)%(?:引き|割引|値引)"
    r"(?P<except>[(（][^()（）]{1,30}を除く[)）])?"
)


def sum_up(case: Case, cues: Sequence[Cue]) -> Found | None:
    """The sum of a column over the rows meant, or of several cells of one row; the total row where there is one."""
    met = rows_meant(case)
    if met is None:
        return None
    rows, bounds = met
    spans = [(cue.start, cue.end) for cue in cues]
    named = [one.column for one in case.naming.columns if case.numeric(one.column) and not is_code(case, one.column)]
    if len(rows) == 1 and len(named) > 1 and not bounds and case.naming.conditioned:
        return _sum_of_cells(case, rows[0], named, spans)
    column = value_column(case, (), cues, bounds)
    if column is None or also_asked(case, column, bounds):
        return None
    explain_topic(case, column)
    if case.left_over(*spans):
        return None
    header = case.short(column)
    if not case.naming.conditioned and not bounds and case.grid.totals:
        totals = [at for at in case.grid.totals if not has_no_value(case.grid.rows[at].cells[column])]
        if len(totals) != 1 or case.quantity(totals[0], column) is None:
            return None
        label = next((cell for cell in case.grid.rows[totals[0]].cells if cell), "")
        told = case.told(totals[0], column)
        text = f"{told}（{label} {header}）" if case.japanese else f"{told} ({label}, {header})"
        return result(case, Operation.SUM, text, totals)
    readings = read_column(case, rows, column)
    if readings is None or len(readings) < 2 or not _adds_up(readings):
        return None
    quantities = [quantity for _, quantity in readings]
    total = written(sum((q.value for q in quantities), Decimal(0)), quantities, case.question.language)
    rows = [at for at, _ in readings]
    if len(rows) <= 6:
        told = (" ＋ " if case.japanese else " + ").join(f"{case.label(at)} {case.told(at, column)}" for at in rows)
        text = f"{total}（{header}: {told}）" if case.japanese else f"{total} ({header}: {told})"
    else:
        text = (
            f"{total}（{header}、{len(rows)}行の合計）"
            if case.japanese
            else f"{total} ({header}, sum of {len(rows)} rows)"
        )
    return result(case, Operation.SUM, text, rows)


def _sum_of_cells(case: Case, at: int, columns: Sequence[int], spans: Sequence[Span]) -> Found | None:
    quantities = [case.quantity(at, column) for column in columns]
    read = [quantity for quantity in quantities if quantity is not None]
    same = in_one_unit(read) if len(read) == len(quantities) else None
    if (
        same is None
        or not _adds_up(list(enumerate(same)))
        or len({case.short(column) for column in columns}) < len(columns)
    ):
        return None
    for column in columns:
        explain_topic(case, column)
    if case.left_over(*spans) or len(columns) != len(case.naming.columns):
        return None
    total = written(sum((q.value for q in same), Decimal(0)), same, case.question.language)
    told = (" ＋ " if case.japanese else " + ").join(
        f"{case.short(column)} {case.told(at, column)}" for column in columns
    )
    label = case.label(at)
    text = f"{total}（{label}: {told}）" if case.japanese else f"{total} ({label}: {told})"
    return result(case, Operation.SUM, text, [at])


def _adds_up(readings: Sequence[tuple[int, Quantity]]) -> bool:
    first = readings[0][1]
    return first.scale in {Scale.NUMBER, Scale.DURATION} and first.unit not in {"%", "℃", "°C"}


def multiply(case: Case, cues: Sequence[Cue]) -> Found | None:
    """So many of something times its price, of the tier that holds the number."""
    met = rows_meant(case)
    taken = [*case.naming.spans, *case.naming.title]
    amounts = [
        one
        for one in amounts_in(case.wording.text)
        if not any(start <= one[0] and one[1] <= end for start, end in taken)
        and any((cue.start, cue.end) == one[:2] for cue in cues)
    ]
    if met is None or met[1] or len(amounts) != 1:
        return None
    start, end, count, unit = amounts[0]
    if not unit and not any(0 <= place - end <= 1 for place, _ in taken):
        return None
    tier, rows = _tier_row(case, met[0], count)
    if len(rows) != 1 or not (case.naming.conditioned or tier):
        return None
    at = rows[0]
    column, told = _tier_column(case, count, unit)
    if column is None:
        column = value_column(case, (Topic.MONEY,), ())
    if column is None or case.numeric(column) is False:
        return None
    price = case.quantity(at, column)
    row_text = fold(f"{case.grid.rows[at].text} {case.grid.columns[column]}")
    if price is None or price.scale is not Scale.NUMBER or price.unit == "%" or _PACKED.search(row_text):
        return None
    if not _is_per(case, unit, row_text) or _least_order(case, at) > count:
        return None
    explain_topic(case, column)
    cues_used = [(cue.start, cue.end) for cue in case.cues if cue.operation is Operation.SUM]
    if case.left_over((start, end), *cues_used) or also_asked(case, column, ()):
        return None
    rebate = _rebate(case, count, unit, row_text)
    if rebate is None:
        return None
    total = price.value * count * (100 - rebate) / 100
    least = _LEAST_VALUE.search(fold(case.grid.after))
    if least is not None and total < Decimal(least["value"]):
        return None
    if rebate:
        price = Quantity(
            price.value, price.scale, price.prefix, price.unit, max(price.places, _places(total)), price.grouped
        )
    name = " ".join(part for part in (case.label(at), told or tier or case.short(column)) if part)
    shown = written(total, [price], case.question.language)
    factor = f"{count} × {case.told(at, column)}"
    if rebate:
        factor += f" × {(100 - rebate) / 100:f}"
    text = f"{shown}（{factor}、{name}）" if case.japanese else f"{shown} ({factor}, {name})"
    return result(case, Operation.PRODUCT, text, [at])


def _is_per(case: Case, unit: str, row_text: str) -> bool:
    """Whether a price may be one of each of what is counted: goods may, people, nights and hours only where it says."""
    words = next((words for units, words in _PER if unit in units), None)
    around = fold(f"{case.grid.heading}\n{case.grid.before}")
    return words is None or words.search(row_text) is not None or words.search(around) is not None


def _least_order(case: Case, at: int) -> Decimal:
    """The smallest number that a row may be ordered in, 0 where it tells none."""
    for column, header in enumerate(case.grid.columns):
        if _LEAST_ORDER.search(fold(header)) and (quantity := case.quantity(at, column)) is not None:
            return quantity.value
    return Decimal(0)


def _places(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _tier_column(case: Case, count: int, unit: str) -> tuple[int | None, str]:
    """The column of a quantity tier that holds a count; None where the columns are no tiers."""
    tiers: Mapping[int, str] = {
        column: header_parts(header)[-1]
        for column, header in enumerate(case.grid.columns)
        if case.numeric(column) and _is_tier(header_parts(header)[-1], unit)
    }
    holding = [column for column, tier in tiers.items() if _holds(tier, count)]
    if len(tiers) < 2 or len(holding) != 1:
        return None, ""
    return holding[0], tiers[holding[0]]


def _is_tier(text: str, unit: str) -> bool:
    ranges = ranges_in(text) if re.match(r"[\d>~]|up to|over|from", text) else []
    return len(ranges) == 1 and ranges[0].unit in {"", unit}


def _holds(tier: str, count: int) -> bool:
    return any(one.holds(count) for one in ranges_in(tier))


def _tier_row(case: Case, rows: Sequence[int], count: int) -> tuple[str, list[int]]:
    """Of rows that differ by a quantity tier, the one that holds the count."""
    if len(rows) < 2:
        return "", list(rows)
    for column in range(len(case.grid.columns)):
        cells = [fold(case.grid.rows[at].cells[column] or "") for at in rows]
        if all(_is_tier(cell, ranges_in(cell)[0].unit if ranges_in(cell) else "") for cell in cells):
            kept = [at for at, cell in zip(rows, cells, strict=True) if _holds(cell, count)]
            return (case.grid.rows[kept[0]].cells[column] or "" if len(kept) == 1 else ""), kept
    return "", list(rows)


def _rebate(case: Case, count: int, unit: str, row_text: str) -> Decimal | None:
    """Percentage taken off by the rule that stands below the table; None where a rule cannot be followed."""
    note = fold(case.grid.after)
    if not _REBATE.search(note):
        return Decimal(0)
    rules = list(_REBATE_RULE.finditer(note))
    if len(rules) != 1 or len(_REBATE.findall(note)) != 1 or rules[0]["unit"] != unit:
        return None
    excepted = (rules[0]["except"] or "").strip("(（)）").removesuffix("を除く")
    if count < int(rules[0]["count"]) or (excepted and excepted in row_text):
        return Decimal(0)
    return Decimal(rules[0]["percent"])
