"""Values of table cells as quantities that can be compared and added, and quantities written as the cells are.

A cell is read whole or not at all: `約310g`, `-10～60℃`, `on request` are no quantities. Arithmetic is decimal.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache

from core.dates import Precision, find_periods, folded
from core.text_folding import fold
from core.types import Language


class Scale(StrEnum):
    """What a quantity's number counts."""

    NUMBER = "number"
    """What is written, in its unit."""
    DATE = "date"
    """Days, from the first of the calendar."""
    DAY_OF_YEAR = "day_of_year"
    """Days within a year that is not written."""
    TIME = "time"
    """Minutes from midnight."""
    DURATION = "duration"
    """Minutes."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number and how it is written: prefix, places behind the point, whether thousands are parted, unit."""

    value: Decimal
    scale: Scale = Scale.NUMBER
    prefix: str = ""
    unit: str = ""
    places: int = 0
    grouped: bool = True
    """False where a number of four digits or more is written without commas."""
    space: str = ""
    """Between number and unit."""

    @property
    def sort(self) -> tuple[Scale, str, str]:
        """Quantities that compare with each other have the same."""
        return self.scale, self.prefix, _singular(self.unit)


_DIGITS = r"\d{1,3}(?:,\d{3}){1,5}|\d{1,15}"
_UNIT = r"[%‰℃°Ωa-zA-Z²³µμ/ぁ-んァ-ヶー々一-龠]{1,12}(?: [a-z]{2,12})?"
_NUMBER = re.compile(
    rf"(?P<minus>[-▲△]\s?|\+)?(?P<prefix>[£$€¥]|(?:GBP|USD|EUR|JPY) )?(?P<inner>-)?(?P<whole>{_DIGITS})(?:\.(?P<part>\d{{1,8}}))?"
    rf"(?:(?P<space> ?)(?P<unit>{_UNIT}))?"
)
_BRACKETED = re.compile(r"\((?P<text>[£$€¥]?[\d,.]{1,20}\s?[^()\d]{0,8})\)")
_FOOTNOTE = re.compile(
    r"\s?(?:[※*†‡]\d{0,2}|注\d{1,2}\)?)\Z|\s?[(（]コメント: .{1,300}[)）]\Z|\((?:税抜|税込|税別)\)\Z"
)
_NO_VALUE = re.compile(r"[-－―—–ー‐−…・.\s]{0,4}\Z|(?:n/?a|対象外|該当なし|非対応|not applicable)\Z", re.IGNORECASE)
_NO_UNIT = re.compile(
    r"約|以[上下内外]|未満|超|まで|から|程度|前後|または|及び|及|又|他|ほか|倍|目|番|号|x\b|×|or\b|up\b|per\b|and\b|plus\b"
)
_COMPOSED = re.compile(r"[\d.]{1,20}(?P<unit>円|人|名|台|個|件|本|枚)\Z")
_TIME = re.compile(
    r"(?P<half>午前|午後)?(?P<hour>\d{1,2})(?::(?P<minute>\d{2})|時(?:(?P<minute_ja>\d{1,2})分)?) ?(?P<mark>[ap]\.?m\.?)?\Z"
)
_TIME_MARKED = re.compile(r"(?P<hour>\d{1,2}) ?(?P<mark>[ap])\.?m\.?\Z")
_DURATION = re.compile(
    r"(?P<hours>\d{1,4}) ?(?:時間|hours?|hrs?|h)\s?(?P<minutes>\d{1,2}) ?(?:分間?|minutes?|mins?|m)\Z"
)
_WEEKDAY = re.compile(
    r"\s?[(（][月火水木金土日](?:曜日?)?[)）]\Z|^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6},? ", re.IGNORECASE
)
_MONTH_DAY = re.compile(r"(?P<month>\d{1,2})(?:月|/)(?P<day>\d{1,2})日?\Z")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY_NAME = re.compile(r"(?P<day>\d{1,2})(?:st|nd|rd|th)? (?P<name>[a-z]{3,9})\.?\Z")
_NAME_DAY = re.compile(r"(?P<name>[a-z]{3,9})\.? (?P<day>\d{1,2})(?:st|nd|rd|th)?\Z")
_MONEY_SCALE = {"円": 1, "千円": 1_000, "万円": 10_000, "百万円": 1_000_000, "億円": 100_000_000}
_CURRENCY = {
    "GBP": "£",
    "USD": "$",
    "EUR": "€",
    "米ドル": "$",
    "ポンド": "£",
    "ユーロ": "€",
    "£": "£",
    "$": "$",
    "€": "€",
}
_TOLD_UNIT = re.compile(
    r"(?:単位|unit)s?\s?[:：]\s?(?P<told>[^\s)）(（,、。]{1,8})|(?:\bin |\()(?P<currency>GBP|USD|EUR)\b|\((?P<short>[£$€]k?)\)"
)
_HEADER_UNIT = re.compile(r"[(（](?P<told>[^()（）]{1,20})[)）]")
_KNOWN_UNIT = re.compile(
    r"(?:[千百十]?万?億?円|%|[kmc]?m|[kmµμ]?g|k?W|kWh|V|A|Hz|L|mL|t|℃|人|名|台|個|件|本|枚|日|営業日|週間?|時間|分|秒|か月|年"
    r"|days?|hours?|minutes?|weeks?|months?|years?)\Z"
)
_COUNTS = re.compile(r"数(?!料)|ロット|番号|no\.?\b|年度?\Z|qty|quantity|count|units?\b|率|%", re.IGNORECASE)


def has_no_value(cell: str | None) -> bool:
    """Whether a cell says that there is no value: empty, or a dash."""
    return cell is None or _NO_VALUE.match(unicodedata.normalize("NFKC", cell).strip()) is not None


@lru_cache(maxsize=16_384)
def read_quantity(cell: str) -> Quantity | None:
    """A cell's quantity; None where the cell is anything else than one quantity."""
    text = _FOOTNOTE.sub("", unicodedata.normalize("NFKC", cell).strip()).replace("−", "-").strip()
    if len(text) > 40:
        return None
    return _moment(text) or _number(text)


def _number(text: str) -> Quantity | None:
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed is not None:
        found = _number(bracketed["text"])
        return None if found is None else replace(found, value=-found.value)
    match = _NUMBER.fullmatch(text)
    if match is None:
        composed = _COMPOSED.match(fold(text))
        if composed is None or not any(c in text for c in "万億千"):
            return None
        return Quantity(Decimal(fold(text)[: composed.start("unit")]), unit=composed["unit"])
    unit = match["unit"] or ""
    if _NO_UNIT.search(unit) or (match["whole"].startswith("0") and len(match["whole"]) > 1):
        return None
    part, whole = match["part"] or "", match["whole"].replace(",", "")
    value = Decimal(f"{whole}.{part or 0}")
    if (match["minus"] or "").strip() in {"-", "▲", "△"} or match["inner"]:
        value = -value
    prefix = (match["prefix"] or "").strip()
    prefix = _CURRENCY.get(prefix, prefix)
    if prefix in {"¥", "JPY"}:
        prefix, unit = "", unit or "円"
    return Quantity(
        value,
        prefix=prefix,
        unit=unit,
        places=len(part),
        grouped="," in match["whole"] or len(whole) < 4,
        space=match["space"] or "",
    )


def _moment(text: str) -> Quantity | None:
    """A date, a time or a length of time in two units."""
    lower = text.lower()
    duration = _DURATION.match(lower)
    if duration is not None:
        return Quantity(Decimal(int(duration["hours"]) * 60 + int(duration["minutes"])), Scale.DURATION)
    time = _TIME.match(lower) or _TIME_MARKED.match(lower)
    if time is not None:
        parts = time.groupdict()
        hour, minute = int(time["hour"]), int(parts.get("minute") or parts.get("minute_ja") or 0)
        if parts.get("half") == "午後" or (parts.get("mark") or "").startswith("p"):
            hour += 12 if hour < 12 else 0
        return Quantity(Decimal(hour * 60 + minute), Scale.TIME) if hour <= 24 and minute < 60 else None
    plain = folded(_WEEKDAY.sub("", text).strip())
    periods = find_periods(plain)
    if len(periods) == 1 and (periods[0].start, periods[0].end) == (0, len(plain)):
        period = periods[0].period
        if period.precision in {Precision.DAY, Precision.MONTH}:
            return Quantity(Decimal(period.first.toordinal()), Scale.DATE, unit=period.precision.value)
        return None
    return _day_of_year(fold(plain))


def _day_of_year(text: str) -> Quantity | None:
    match = _MONTH_DAY.match(text) or _DAY_NAME.match(text) or _NAME_DAY.match(text)
    if match is None:
        return None
    parts = match.groupdict()
    name = parts.get("name")
    if name is not None and name[:3] not in _MONTHS:
        return None
    month = _MONTHS.index(name[:3]) + 1 if name else int(parts["month"])
    try:
        return Quantity(Decimal(date(2001, month, int(match["day"])).timetuple().tm_yday), Scale.DAY_OF_YEAR)
    except ValueError:
        return None


def in_told_unit(quantity: Quantity, header: str, around: str) -> Quantity:
    """The quantity in the unit that its column's header, or the lines above the table, tell for bare numbers."""
    if quantity.scale is not Scale.NUMBER or quantity.prefix or quantity.unit:
        return quantity
    for match in reversed(list(_HEADER_UNIT.finditer(unicodedata.normalize("NFKC", header)))):
        for part in re.split(r"[・、,/／ ]", match["told"]):
            if part in _CURRENCY:
                return replace(quantity, prefix=_CURRENCY[part])
            if _KNOWN_UNIT.match(part):
                return replace(quantity, unit=part)
    if _COUNTS.search(unicodedata.normalize("NFKC", header)):
        return quantity
    told = _TOLD_UNIT.search(unicodedata.normalize("NFKC", around))
    if told is None:
        return quantity
    unit = told["told"] or told["currency"] or told["short"]
    if unit.rstrip("k") in _CURRENCY:
        return replace(quantity, prefix=_CURRENCY[unit.rstrip("k")], unit="k" if unit.endswith("k") else "")
    unit = unit.split("/")[0].split("／")[0]
    if unit in _CURRENCY:
        return replace(quantity, prefix=_CURRENCY[unit])
    return replace(quantity, unit=unit) if _KNOWN_UNIT.match(unit) else quantity


def in_one_unit(quantities: Sequence[Quantity]) -> list[Quantity] | None:
    """The same quantities, comparable with each other; None where they are not. 億円 and 万円 become 円."""
    if len({one.sort for one in quantities}) > 1:
        if not all(one.unit in _MONEY_SCALE and not one.prefix for one in quantities):
            return None
        return [
            replace(one, value=one.value * _MONEY_SCALE[one.unit], unit="円", places=0, grouped=True)
            for one in quantities
        ]
    days = [one.value for one in quantities if one.scale is Scale.DAY_OF_YEAR]
    if days and max(days) - min(days) > 183:
        return None  # December may come before January
    return list(quantities)


def is_money(quantity: Quantity) -> bool:
    """Whether it is written as an amount of money."""
    return bool(quantity.prefix) or quantity.unit in _MONEY_SCALE


def written(value: Decimal, like: Sequence[Quantity], language: Language) -> str:
    """A sum or difference of `like` as they are written."""
    first = like[0]
    if first.scale in {Scale.TIME, Scale.DURATION}:
        return _duration(int(abs(value)), language)
    if first.scale is not Scale.NUMBER:
        days = int(abs(value))
        return f"{days}日" if language is Language.JAPANESE else f"{days} day{'' if days == 1 else 's'}"
    places = max(one.places for one in like)
    number = f"{abs(value):,.{places}f}" if all(one.grouped for one in like) else f"{abs(value):.{places}f}"
    unit = _plural(first.unit) if abs(value) != 1 else _singular(first.unit)
    return f"{'-' if value < 0 else ''}{first.prefix}{number}{first.space}{unit}"


def _duration(minutes: int, language: Language) -> str:
    hours, rest = divmod(minutes, 60)
    if language is Language.JAPANESE:
        whole = (f"{hours}時間" if hours else "") + (f"{rest}分" if rest or not hours else "")
        return f"{whole}（{minutes}分）" if hours else whole
    parts = [
        f"{count} {name}{'' if count == 1 else 's'}" for count, name in ((hours, "hour"), (rest, "minute")) if count
    ]
    whole = " ".join(parts) or "0 minutes"
    return f"{whole} ({minutes} minutes)" if hours else whole


def _singular(unit: str) -> str:
    return (
        unit[:-1]
        if len(unit) > 3 and unit.isascii() and unit.endswith("s") and unit[:-1].replace(" ", "").isalpha()
        else unit
    )


def _plural(unit: str) -> str:
    return f"{_singular(unit)}s" if unit != _singular(unit) or _singular(unit) in _NAMED_UNITS else unit


_NAMED_UNITS = frozenset({"day", "working day", "business day", "hour", "minute", "week", "month", "year"})
