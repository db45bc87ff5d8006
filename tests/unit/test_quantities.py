"""Cells as quantities: what is read, what is refused, and how results are written."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from core.types import Language
from generation.evidence.computing.quantities import (
    Scale,
    has_no_value,
    in_one_unit,
    in_told_unit,
    read_quantity,
    written,
)

JA, EN = Language.JAPANESE, Language.ENGLISH


@pytest.mark.parametrize(
    ("cell", "value", "unit"),
    [
        ("1,250,000", "1250000", ""),
        ("１２，８００円", "12800", "円"),
        ("￥9,800", "9800", "円"),
        ("£486.68", "486.68", ""),
        ("GBP 12.40", "12.40", ""),
        ("▲16", "-16", ""),
        ("△1,200", "-1200", ""),
        ("(1,234)", "-1234", ""),
        ("−5", "-5", ""),
        ("£-3.50", "-3.50", ""),
        ("+12", "12", ""),
        ("97.6%", "97.6", "%"),
        ("8.5 %", "8.5", "%"),
        ("338億円", "338", "億円"),
        ("1億2,000万円", "120000000", "円"),
        ("5営業日", "5", "営業日"),
        ("15 working days", "15", "working days"),
        ("0.71MPa", "0.71", "MPa"),
        ("18,500 ※2", "18500", ""),
        ("41,200（税抜）", "41200", ""),
        ("82,308（コメント: 大口（41百万円）を含む）", "82308", ""),
    ],
)
def test_numbers_are_read(cell: str, value: str, unit: str) -> None:
    read = read_quantity(cell)
    assert read is not None and (read.scale, read.value, read.unit) == (Scale.NUMBER, Decimal(value), unit)


@pytest.mark.parametrize(
    ("cell", "scale", "value"),
    [
        ("8:52", Scale.TIME, 8 * 60 + 52),
        ("14時30分", Scale.TIME, 14 * 60 + 30),
        ("午後3時", Scale.TIME, 15 * 60),
        ("9.30", Scale.NUMBER, None),
        ("2:15 pm", Scale.TIME, 14 * 60 + 15),
        ("1時間30分", Scale.DURATION, 90),
        ("2h 15m", Scale.DURATION, 135),
        ("平成10年4月1日", Scale.DATE, date(1998, 4, 1).toordinal()),
        ("R7.5.1", Scale.DATE, date(2025, 5, 1).toordinal()),
        ("2025/04/25", Scale.DATE, date(2025, 4, 25).toordinal()),
        ("3 May 2019", Scale.DATE, date(2019, 5, 3).toordinal()),
        ("7月18日（金）", Scale.DAY_OF_YEAR, 199),
        ("8 July", Scale.DAY_OF_YEAR, 189),
    ],
)
def test_moments_are_read(cell: str, scale: Scale, value: int | None) -> None:
    read = read_quantity(cell)
    assert read is not None and read.scale is scale
    assert value is None or read.value == value


@pytest.mark.parametrize(
    "cell",
    [
        "約310g", "-10～60℃", "±0.5℃", "3W以下", "on request", "要問合せ", "1-9", "50+", "2 x AAA", "218 x 78 x 38 mm",
        "00000123", "DM-30", "第2金", "41,200（税込45,320）", "4～20mA", "2,310 or more", "1,23", "12,34,567",
        "29日か30日", "30 February 2025", "25:99", "",
    ],
)  # fmt: skip
def test_what_is_no_single_quantity_is_refused(cell: str) -> None:
    assert read_quantity(cell) is None


def test_dashes_are_no_value_and_words_are_none_that_is_told() -> None:
    assert all(map(has_no_value, (None, "", "－", "-", "―", "…", "n/a", "対象外")))
    assert not any(map(has_no_value, ("0", "なし", "要問合せ", "-5")))


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (("1億円", "5,000万円"), (100_000_000, 50_000_000)),
        (("30 days", "1 day"), (30, 1)),
        (("800円", "15ドル"), None),
        (("£5", "€5"), None),
        (("500g", "1kg"), None),
        (("8:30", "90分"), None),
        (("12月20日", "1月10日"), None),
        (("2025/04/01", "4月1日"), None),
    ],
)
def test_quantities_compare_in_one_unit_only(cells: tuple[str, ...], values: tuple[int, ...] | None) -> None:
    read = [quantity for cell in cells if (quantity := read_quantity(cell)) is not None]
    assert len(read) == len(cells)
    same = in_one_unit(read)
    assert (None if same is None else tuple(int(one.value) for one in same)) == values


@pytest.mark.parametrize(
    ("cell", "header", "around", "shown"),
    [
        ("38,400", "標準価格 / 本体", "単位：円（税抜）", "38,400円"),
        ("38,400", "単価(円)", "", "38,400円"),
        ("6.5", "質量（kg）", "単位：円", "6.5kg"),
        ("10", "最低ロット", "単位：円", "10"),
        ("152,000", "4月 / 予算", "単位：千円", "152,000千円"),
        ("12.40", "Standard / up to 20 kg", "Rates 2025 (GBP, excl. VAT)", "£12.40"),
        ("655", "Q2 2025", "Sales by region (£k)", "£655k"),
        ("58", "地域B（アジア） / 日当", "単位：米ドル／日", "$58"),
        ("40%", "達成率", "単位：千円", "40%"),
    ],
)
def test_the_unit_told_for_a_column_is_its_cells_unit(cell: str, header: str, around: str, shown: str) -> None:
    read = read_quantity(cell)
    assert read is not None
    found = in_told_unit(read, header, around)
    assert written(found.value, [found], JA) == shown


@pytest.mark.parametrize(
    ("value", "cell", "language", "shown"),
    [
        ("1234.5", "£4.05", EN, "£1,234.50"),
        ("98000", "24300", JA, "98000"),
        ("98000", "24,300", JA, "98,000"),
        ("-16", "12円", JA, "-16円"),
        ("1", "2 days", EN, "1 day"),
        ("35", "60 h", EN, "35 h"),
        ("165", "8:52", JA, "2時間45分（165分）"),
        ("165", "8:52", EN, "2 hours 45 minutes (165 minutes)"),
        ("40", "8:52", JA, "40分"),
        ("1", "2025/04/25", EN, "1 day"),
        ("30", "2025/04/25", JA, "30日"),
    ],
)
def test_results_are_written_as_the_cells_are(value: str, cell: str, language: Language, shown: str) -> None:
    read = read_quantity(cell)
    assert read is not None
    assert written(Decimal(value), [read], language) == shown


def test_sums_are_decimal() -> None:
    read = [quantity for cell in ("0.1", "0.2", "0.7") if (quantity := read_quantity(cell)) is not None]
    assert sum(one.value for one in read) == 1 and written(Decimal("0.1") * 3, read, EN) == "0.3"
