"""Dates and periods as they are written: eras, fiscal years, halves, digits in names; what could mean two things."""

from __future__ import annotations

import time

import pytest

from core.dates import FoundPeriod, find_periods, folded, number_of

DAY, MONTH, QUARTER, HALF, FISCAL, YEAR = "day", "month", "quarter", "half", "fiscal_year", "year"


def read(text: str, *, in_name: bool = False) -> list[tuple[str, str, str]]:
    return [_plain(item) for item in find_periods(folded(text), in_name=in_name)]


def _plain(item: FoundPeriod) -> tuple[str, str, str]:
    return item.period.first.isoformat(), item.period.last.isoformat(), item.period.precision.value


@pytest.mark.parametrize(
    ("text", "first", "last", "precision"),
    [
        ("令和8年10月1日から", "2026-10-01", "2026-10-01", DAY),
        ("令和　８ 年　10 月 １ 日", "2026-10-01", "2026-10-01", DAY),
        ("令和八年十月二十一日", "2026-10-21", "2026-10-21", DAY),
        ("㋿8年10月", "2026-10-01", "2026-10-31", MONTH),
        ("平成元年1月", "1989-01-01", "1989-01-31", MONTH),
        ("昭和６１年１２月３１日", "1986-12-31", "1986-12-31", DAY),
        ("二〇二四年二月", "2024-02-01", "2024-02-29", MONTH),
        ("R8年度", "2026-04-01", "2027-03-31", FISCAL),
        ("R8.10.1", "2026-10-01", "2026-10-01", DAY),
        ("2024年度", "2024-04-01", "2025-03-31", FISCAL),
        ("2024年度下期", "2024-10-01", "2025-03-31", HALF),
        ("２０２４年度の上半期", "2024-04-01", "2024-09-30", HALF),
        ("2024年度第4四半期", "2025-01-01", "2025-03-31", QUARTER),
        ("令和6年度第四四半期", "2025-01-01", "2025-03-31", QUARTER),
        ("FY2024", "2024-04-01", "2025-03-31", FISCAL),
        ("FY24/25", "2024-04-01", "2025-03-31", FISCAL),
        ("fiscal year 2024", "2024-04-01", "2025-03-31", FISCAL),
        ("FY2024 H2", "2024-10-01", "2025-03-31", HALF),
        ("Q2 2024", "2024-04-01", "2024-06-30", QUARTER),
        ("2024年", "2024-01-01", "2024-12-31", YEAR),
        ("3rd of March 2024", "2024-03-03", "2024-03-03", DAY),
        ("March 3, 2024", "2024-03-03", "2024-03-03", DAY),
        ("Sept. 2024", "2024-09-01", "2024-09-30", MONTH),
        ("2024-03-03", "2024-03-03", "2024-03-03", DAY),
        ("2024/3/3", "2024-03-03", "2024-03-03", DAY),
        ("2024/03", "2024-03-01", "2024-03-31", MONTH),
    ],
)
def test_reads_one_way_of_writing(text: str, first: str, last: str, precision: str) -> None:
    assert read(text) == [(first, last, precision)]


@pytest.mark.parametrize(
    ("name", "first", "precision"),
    [
        ("日報_20240303", "2024-03-03", DAY),
        ("日報20240303版", "2024-03-03", DAY),
        ("在庫_202403", "2024-03-01", MONTH),
        ("minutes_240303", "2024-03-03", DAY),
        ("検査成績_R8.3", "2026-03-01", MONTH),
        ("Handbook_2024", "2024-01-01", YEAR),
        ("Rota_Q4_2024", "2024-10-01", QUARTER),
        ("report-2024-03-03", "2024-03-03", DAY),
    ],
)
def test_reads_digits_of_a_name(name: str, first: str, precision: str) -> None:
    assert [(found[0], found[2]) for found in read(name, in_name=True)] == [(first, precision)]


@pytest.mark.parametrize(
    "name",
    [
        "25年度",
        "台帳_201012",
        "INC-2024-031",
        "YQ-24-0712",
        "AF-2024",
        "PO-2024-07",
        "2024個",
        "1.4.2024",
        "S4.2",
        "20241332",
    ],
)
def test_finds_nothing_that_could_mean_another_thing(name: str) -> None:
    assert [found for found in read(name, in_name=True) if found[2] in {DAY, MONTH}] == []


@pytest.mark.parametrize(
    "text", ["注文 20240303 番", "型番 202403", "2024 units", "version 2024.07", "10年間", "平成50年", "2月30日"]
)
def test_digits_in_running_text_are_no_dates(text: str) -> None:
    assert read(text) == []


def test_offsets_are_those_of_the_folded_text_and_dates_never_overlap() -> None:
    text = folded("㋿8年10月1日〜2027年3月31日")
    found = find_periods(text)
    assert [text[item.start : item.end] for item in found] == ["令和8年10月1日", "2027年3月31日"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("元", 1),
        ("十", 10),
        ("二十", 20),
        ("三十一", 31),
        ("〇七", 7),
        ("12", 12),
        ("十十", None),
        ("百", None),
    ],
)
def test_numbers(text: str, number: int | None) -> None:
    assert number_of(text) == number


@pytest.mark.parametrize(
    "piece", ["2024年 ", "令和", "2024-", "1 Jan ", "FY", "Q1 ", "20240", "〇一年", "R8.", "2024年度第"]
)
def test_time_grows_with_the_length(piece: str) -> None:
    def seconds(count: int) -> float:
        text = piece * count
        began = time.process_time()
        find_periods(text, in_name=True)
        return time.process_time() - began

    seconds(100)
    short = min(seconds(2_000) for _ in range(3))
    assert min(seconds(16_000) for _ in range(3)) < 8 * short * 4 + 0.2  # a square would take seconds
