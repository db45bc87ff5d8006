"""Dates and periods as people write them: 令和7年4月1日, R7.5.1, 2025年度上期, FY2025, 1 April 2025, 20250710.

Texts are read in the form that `folded` gives them; offsets count its characters. A fiscal year (年度, FY) runs from
April to March. What could mean two things is not found: 25年度, 201012, 1.4.2025.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

FISCAL_START_MONTH = 4
YEARS_BEFORE_ERA = {"令和": 2018, "平成": 1988, "昭和": 1925, "大正": 1911, "明治": 1867}
"""Western year before an era's first: year n of the era is this plus n."""
_ERAS = YEARS_BEFORE_ERA | {"R": 2018, "H": 1988, "S": 1925}
"""The same with the letters that stand for eras."""
_LONGEST = {2018: 99, 1988: 31, 1925: 64, 1911: 15, 1867: 45}
_KANJI = "〇一二三四五六七八九"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_YEARS = range(1868, 2100)

_GAP = r"[ \t]{0,2}"
_NUMBER = r"(?:[0-9]{1,2}|[〇一二三四五六七八九十]{1,3}|元)"
_WEST = r"(?:19|20)[0-9]{2}"
_YEAR = (
    rf"(?:(?P<era>令和|平成|昭和|大正|明治|(?<![A-Za-z0-9])[RHS]){_GAP}(?P<era_year>{_NUMBER})"
    rf"|(?<![0-9])(?P<west>{_WEST}|[一二][〇一二三四五六七八九]{{3}}))"
)
_PART = r"(?P<part>上半期|下半期|上期|下期|前期|後期|第?[1-4一二三四]四半期|[1-4]Q|Q[1-4])"
_JAPANESE = re.compile(
    rf"{_YEAR}{_GAP}年(?:(?P<fiscal>度)(?:{_GAP}の?{_PART})?"
    rf"|{_GAP}(?P<month>{_NUMBER}){_GAP}月(?:{_GAP}(?P<day>{_NUMBER}){_GAP}日)?)?"
)
_ERA_DOTTED = re.compile(
    r"(?P<era>令和|平成|昭和|(?<![A-Za-z0-9])[RH])(?P<era_year>[0-9]{1,2})(?P<sep>[./])(?P<month>[0-9]{1,2})"
    r"(?:(?P=sep)(?P<day>[0-9]{1,2}))?(?![0-9./])"
)
_NUMERIC = re.compile(
    rf"(?<![0-9A-Za-z./])(?P<west>{_WEST})(?P<sep>[-/._])(?P<month>[0-9]{{1,2}})(?:(?P=sep)(?P<day>[0-9]{{1,2}}))?"
    r"(?![0-9]|[-/.][0-9])"
)
_COMPACT = re.compile(r"(?<![0-9A-Za-z])(?P<digits>[0-9]{8}|[0-9]{6})(?![0-9A-Za-z]|[-./][0-9])")
_MONTH = (
    r"(?P<name>Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?"
    r"|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)(?![a-z])\.?"
)
_DAY_FIRST = re.compile(
    rf"(?<![0-9A-Za-z])(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?(?: of)?[ _-]?{_MONTH},?[ _-]?(?P<west>{_WEST})(?![0-9])",
    re.I,
)
_MONTH_FIRST = re.compile(
    rf"(?<![A-Za-z]){_MONTH}[ _-]?(?:(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?(?:, ?|[ _-]))?(?P<west>{_WEST})(?![0-9])",
    re.I,
)
_ENGLISH_PART = r"(?P<part>Q[1-4]|[1-4]Q|H[12]|[12]H)"
_FISCAL = re.compile(
    rf"(?<![A-Za-z0-9])(?:{_ENGLISH_PART}[ _/-]?)?(?P<fiscal>FY|fiscal(?: year)?)[ _-]?'?(?P<west>{_WEST}|[0-9]{{2}})"
    r"(?:[/-][0-9]{2}(?![0-9]))?(?![0-9])(?:[ _/-]?(?P<after>Q[1-4]|[1-4]Q|H[12]|[12]H)(?![A-Za-z0-9]))?",
    re.I,
)
_QUARTER = re.compile(
    rf"(?<![A-Za-z0-9])(?:{_ENGLISH_PART}[ _/-]?(?P<west>{_WEST})"
    rf"|(?P<west2>{_WEST})[ _/-]?(?P<after>Q[1-4]|[1-4]Q|H[12]|[12]H))(?![A-Za-z0-9])",
    re.I,
)
_BARE_YEAR = re.compile(rf"(?<![0-9A-Za-z./-])(?P<west>{_WEST})(?![0-9A-Za-z]|[-./][0-9])")


class Precision(StrEnum):
    """What a text named, from the narrowest to the widest."""

    DAY = "day"
    MONTH = "month"
    QUARTER = "quarter"
    HALF = "half"
    FISCAL_YEAR = "fiscal_year"
    YEAR = "year"


@dataclass(frozen=True, slots=True)
class Period:
    """Days from `first` to `last`, both included, and how they were named."""

    first: date
    last: date
    precision: Precision

    def covers(self, other: Period) -> bool:
        """Whether the other lies wholly inside."""
        return self.first <= other.first and other.last <= self.last


@dataclass(frozen=True, slots=True)
class FoundPeriod:
    """A period as it stands in text[start:end]."""

    start: int
    end: int
    period: Period
    text: str


def folded(text: str) -> str:
    """NFKC with one kind of dash and 〇 for 零: what `find_periods` reads."""
    return unicodedata.normalize("NFKC", text).replace("零", "〇").translate(_DASHES)


_DASHES = {ord(dash): "-" for dash in "‐‑‒–—―−"}


def find_periods(text: str, *, in_name: bool = False) -> list[FoundPeriod]:
    """Dates and periods of a folded text, in order, none overlapping.

    in_name: the text is a file name or title, where bare years, R7.5, 202506, 20250710 and 250710 are dates too;
    elsewhere such digits are mostly something else.
    """
    found: list[FoundPeriod] = []
    taken = bytearray(len(text))
    readers: list[tuple[re.Pattern[str], Callable[[re.Match[str], bool], Period | None]]] = [
        (_JAPANESE, _of_calendar),
        (_ERA_DOTTED, _of_calendar),
        (_FISCAL, _of_fiscal),
        (_QUARTER, _of_quarter),
        (_DAY_FIRST, _of_calendar),
        (_MONTH_FIRST, _of_calendar),
        (_NUMERIC, _of_calendar),
    ]
    if in_name:
        readers += [(_COMPACT, _of_digits), (_BARE_YEAR, _of_calendar)]
    for pattern, read in readers:
        for match in pattern.finditer(text):
            period = read(match, in_name)
            start, end = match.span()
            if period is not None and not any(taken[start:end]):
                taken[start:end] = b"\x01" * (end - start)
                found.append(FoundPeriod(start, end, period, match.group()))
    return sorted(found, key=lambda item: item.start)


def number_of(text: str) -> int | None:
    """`7`, `七`, `十二`, `三十一`, `元` as a number below 100; None for what is none."""
    if text == "元":
        return 1
    if text.isascii():
        return int(text) if text.isdigit() else None
    tens, ten, ones = text.rpartition("十")
    if not ten:
        digits = [_KANJI.find(character) for character in text]
        return None if -1 in digits else int("".join(map(str, digits)))
    if len(tens) > 1 or len(ones) > 1:
        return None
    high, low = (_KANJI.find(tens) if tens else 1), (_KANJI.find(ones) if ones else 0)
    return None if high < 1 or low < 0 else 10 * high + low


def fiscal_year(year: int) -> Period:
    """The fiscal year that begins in a calendar year."""
    first = date(year, FISCAL_START_MONTH, 1)
    return Period(first, date(year + 1, FISCAL_START_MONTH, 1) - timedelta(days=1), Precision.FISCAL_YEAR)


def fiscal_year_of(day: date) -> int:
    """Calendar year in which the fiscal year of a day began."""
    return day.year if day.month >= FISCAL_START_MONTH else day.year - 1


def calendar_year(year: int) -> Period:
    """January to December."""
    return Period(date(year, 1, 1), date(year, 12, 31), Precision.YEAR)


def month_of(year: int, month: int) -> Period:
    """One calendar month."""
    return Period(date(year, month, 1), _end_of(year, month, 1), Precision.MONTH)


def part_of(first: date, part: str) -> Period | None:
    """Half or quarter of the twelve months from `first`: 上期, 下半期, 第2四半期, Q3, 3Q, H1."""
    digit = next((number_of(mark) for mark in part if mark in "1234一二三四"), None)
    if "四半期" in part or "q" in part.lower():
        # The 四 of 四半期 is no number: 第四四半期 has one before it.
        digit = number_of(part.removeprefix("第")[0]) if "四半期" in part else digit
        return None if digit is None or not 1 <= digit <= 4 else _months(first, 3 * (digit - 1), 3, Precision.QUARTER)
    if digit is None:
        digit = 1 if part[0] in "上前" else 2
    return _months(first, 6 * (digit - 1), 6, Precision.HALF)


def _months(first: date, skip: int, length: int, precision: Precision) -> Period:
    begin = first.month - 1 + skip
    year, month = first.year + begin // 12, begin % 12 + 1
    return Period(date(year, month, 1), _end_of(year, month, length), precision)


def _end_of(year: int, month: int, length: int) -> date:
    begin = month - 1 + length
    return date(year + begin // 12, begin % 12 + 1, 1) - timedelta(days=1)


def _of_calendar(match: re.Match[str], in_name: bool) -> Period | None:
    parts = match.groupdict()
    year = _year(parts)
    if year is None:
        return None
    if parts.get("fiscal"):
        part = parts.get("part")
        return part_of(date(year, FISCAL_START_MONTH, 1), part) if part else fiscal_year(year)
    day = number_of(parts["day"]) if parts.get("day") else None
    named = parts.get("name")
    month = _MONTHS.index(named[:3].lower()) + 1 if named else number_of(parts["month"]) if parts.get("month") else None
    if month is None:
        if match.re is _JAPANESE and match.string[match.end() :].startswith(("間", "以", "目", "前", "後", "生", "卒")):
            return None
        return calendar_year(year)
    if parts.get("sep") and day is None:
        # 2025.07 and PO-2025-07 are rather numbers than months, R7.5 likewise outside of names.
        identifier = match.start() > 0 and match.string[match.start() - 1] == "-"
        if identifier or (parts["sep"] in "._" and not in_name) or (len(parts["month"]) < 2 and not parts.get("era")):
            return None
    return _day_or_month(year, month, day)


def _day_or_month(year: int, month: int, day: int | None) -> Period | None:
    try:
        if day is None:
            return month_of(year, month)
        there = date(year, month, day)
    except ValueError:
        return None
    return Period(there, there, Precision.DAY)


def _year(parts: dict[str, str | None]) -> int | None:
    west = parts.get("west")
    if west:
        year = int(west) if west.isascii() else number_of(west)
    else:
        before, count = _ERAS[str(parts["era"])], number_of(str(parts["era_year"]))
        year = None if count is None or not 1 <= count <= _LONGEST[before] else before + count
    return year if year is not None and year in _YEARS else None


def _of_fiscal(match: re.Match[str], in_name: bool) -> Period | None:
    year = int(match["west"]) + (2000 if len(match["west"]) == 2 else 0)
    part = match["part"] or match["after"]
    return part_of(date(year, FISCAL_START_MONTH, 1), part) if part else fiscal_year(year)


def _of_quarter(match: re.Match[str], in_name: bool) -> Period | None:
    return part_of(date(int(match["west"] or match["west2"]), 1, 1), match["part"] or match["after"])


def _of_digits(match: re.Match[str], in_name: bool) -> Period | None:
    """20250710, 202506 or 250710. 201012 is October 2010 as well as 12 October 2020: neither."""
    digits = match["digits"]
    if len(digits) == 8:
        read = list(_readings(digits[:4], digits[4:6], digits[6:]))
    else:
        read = [*_readings(digits[:4], digits[4:], None), *_readings(f"20{digits[:2]}", digits[2:4], digits[4:])]
    return read[0] if len(read) == 1 else None


def _readings(year: str, month: str, day: str | None) -> Iterator[Period]:
    if 1990 <= int(year) < 2100:
        period = _day_or_month(int(year), int(month), None if day is None else int(day))
        if period is not None:
            yield period
