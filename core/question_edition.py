"""Which edition or day a question asks about: 2024年度の価格表では, in v3, 昨年度, 前回の, 6月の会議, as of 2023."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from core.dates import (
    FoundPeriod,
    Period,
    calendar_year,
    find_periods,
    fiscal_year,
    fiscal_year_of,
    folded,
    month_of,
    number_of,
)

MAX_CHARS = 2_000
"""Of a question, what is looked at."""

_NOW = re.compile(
    r"今(?![年月回週後度期季]|まで|朝|夜|晩)|いま(?!まで|す)|現在|最新|現行|目下"
    r"|\b(?:now|nowadays|currently|latest|newest|today|up-to-date|at present)\b"
    # Not the current of a meter.
    r"|(?:\A|\b(?:the|our|your|their|is|are|s|a) )current\b"
    r"(?! (?:of|at|in|is|draw|rating|range|limit|flow|through|meter|clamp)\b)",
    re.I,
)
_AS_OF_BEFORE = re.compile(r"\b(?:as of|as at|valid on|in force on|back in)(?: the)? ?\Z", re.I)
_AS_OF_AFTER = re.compile(r"[ \t]{0,2}(?:の?時点|現在|当時|の頃|ごろ)")
_PREVIOUS = re.compile(
    r"前回|前の版|前版|旧版|(?:一|ひと|1)つ前|前の(?:規程|規則|規定|価格|料金|会議)|改[定訂正]前|変更前"
    r"|\b(?:previous|prior|former|old|earlier|last) "
    r"(?:version|edition|revision|release|meeting|policy|price list|minutes)\b"
    r"|\bbefore the (?:change|revision|update)\b",
    re.I,
)
_COMPARES = re.compile(
    r"(?:上|下)が(?:っ|り|る)|値上|値下|変わっ|変更され|増え(?:た|て)|減っ(?:た|て)|差額|との差"
    r"|前年比|前回比|比べ|比較|改[定訂正]前後"
    r"|\b(?:rise|rose|risen|increased?|go(?:ne|es)? up|went up|decreased?|drop(?:ped)?"
    r"|fell|fallen|go(?:ne)? down|went down|changed?|differ(?:s|ence|ent)?|compared?|comparison)\b",
    re.I,
)
_SEVERAL_NUMBERS = re.compile(
    r"(?<![A-Za-z0-9])(?:versions|editions|revisions) (?P<a>[0-9]{1,3}(?:\.[0-9]{1,3}){0,3}) (?:and|to|or) "
    r"(?P<b>[0-9]{1,3}(?:\.[0-9]{1,3}){0,3})(?![0-9A-Za-z])",
    re.I,
)
_FISCAL_WORDS = {"一昨年度": -2, "昨年度": -1, "前年度": -1, "去年度": -1, "今年度": 0, "本年度": 0, "当年度": 0}
_FISCAL_WORDS |= {"来年度": 1, "翌年度": 1}
_YEAR_WORDS = {"一昨年": -2, "おととし": -2, "昨年": -1, "去年": -1, "今年": 0, "本年": 0, "来年": 1, "翌年": 1}
_MONTH_WORDS = {"先々月": -2, "先月": -1, "今月": 0, "来月": 1}
_RELATIVE_JA = re.compile("|".join(sorted([*_FISCAL_WORDS, *_YEAR_WORDS, *_MONTH_WORDS], key=lambda w: -len(w))))
_RELATIVE_EN = re.compile(
    r"\b(?P<which>last|previous|this|current|next) (?P<unit>fiscal year|financial year|year|month)\b", re.I
)
_SHIFT = {"last": -1, "previous": -1, "this": 0, "current": 0, "next": 1}
_NUMBER = re.compile(
    r"第[ ]?(?P<ja>[0-9]{1,3}|[一二三四五六七八九十]{1,3})(?:版|次改[定訂正])"
    r"|(?<![A-Za-z0-9])(?:v|ver\.?|version|edition|revision|rev\.?|バージョン)[ .]?"
    r"(?P<en>[0-9]{1,4}(?:\.[0-9]{1,4}){0,3})(?![0-9A-Za-z-])"
    r"|(?<![A-Za-z0-9])(?:rev\.?|revision)[ .]?(?P<letter>[A-Z])(?![0-9A-Za-z])"
    r"|(?<![0-9])(?P<ordinal>[0-9]{1,3})(?:st|nd|rd|th) edition",
    re.I,
)
_PLAIN_YEAR = re.compile(
    r"\b(?:in|during|since|as of|as at|until|before|after)(?: the)? (?P<a>(?:19|20)[0-9]{2})(?![0-9A-Za-z./-])"
    r"|\b(?:from|between) (?P<c>(?:19|20)[0-9]{2}) (?:to|and) (?P<d>(?:19|20)[0-9]{2})(?![0-9A-Za-z./-])"
    r"|(?<![0-9A-Za-z./-])(?P<b>(?:19|20)[0-9]{2})(?='s\b|版|の価格|の料金|の規"
    r"|(?: [A-Za-z-]{1,20}){0,2} ?(?:edition|version|price|rate|tariff|polic|handbook|list|catalog|guide|rules|manual"
    r"|calendar|plan|budget))",
    re.I,
)
_MONTH_JA = re.compile(
    r"(?<![0-9年月一二三四五六七八九十])(?P<month>[0-9]{1,2}|[一二三四五六七八九十]{1,2})月"
    r"(?:(?P<day>[0-9]{1,2}|[一二三四五六七八九十]{1,3})日)?"
)
_MONTH_NAMES = "January|February|March|April|June|July|August|September|October|November|December"
_MONTH_EN = re.compile(
    rf"(?:\b(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<a>{_MONTH_NAMES}|May)|\b(?P<b>{_MONTH_NAMES})"
    r"|\b(?:in|of|last|the|since|during|for) (?P<c>May))\b(?: (?P<after>[0-9]{1,2})(?![0-9]))?"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True, slots=True)
class QuestionEdition:
    """What a question says of editions. All empty: it asks for what holds today, without saying so.

    periods: years, fiscal years, months, days that it names. months: (month, day or None) without a year. numbers:
    edition numbers, `3`, `4.2`, `c`. day: the day on which what it asks for held ("as of"). previous: it asks for the
    one before. now: it says that it wants what holds now. compares: it asks for a change or a difference, which
    may need more editions than it names.
    """

    periods: tuple[Period, ...] = ()
    months: tuple[tuple[int, int | None], ...] = ()
    numbers: tuple[str, ...] = ()
    day: date | None = None
    previous: bool = False
    now: bool = False
    compares: bool = False

    @property
    def names_one(self) -> bool:
        """Whether it names an edition, a period or a day."""
        return bool(self.periods or self.months or self.numbers or self.day or self.previous)


def question_edition(question: str, today: date) -> QuestionEdition:
    """Read a question. `today` is what 昨年度 and `last month` count from."""
    text = folded(question[:MAX_CHARS])
    found = find_periods(text)
    plain = _without(text, [(item.start, item.end) for item in found])
    for match in _PLAIN_YEAR.finditer(plain):
        for group in (name for name in "abcd" if match[name]):
            found.append(FoundPeriod(*match.span(group), calendar_year(int(match[group])), match[group]))
    rest = _without(text, [(item.start, item.end) for item in found])
    periods: list[Period] = []
    day: date | None = None
    as_of: list[tuple[int, int]] = []
    for item in found:
        after = _AS_OF_AFTER.match(text, item.end)
        if after or _AS_OF_BEFORE.search(text[max(0, item.start - 24) : item.start]):
            day = min(item.period.last, today) if item.period.first <= today else item.period.last
            as_of += [after.span()] if after else []
        else:
            periods.append(item.period)
    rest = _without(rest, as_of)
    relative = _relative(rest, today)
    numbers = [_number_in(match) for match in _NUMBER.finditer(rest)]
    numbers += [number for match in _SEVERAL_NUMBERS.finditer(rest) for number in match.groups()]
    return QuestionEdition(
        periods=tuple(dict.fromkeys([*periods, *relative])),
        months=tuple(dict.fromkeys(_months_in(rest))),
        numbers=tuple(dict.fromkeys(number for number in numbers if number)),
        day=day,
        previous=_PREVIOUS.search(rest) is not None,
        now=_NOW.search(rest) is not None,
        compares=_COMPARES.search(text) is not None,
    )


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with some spans blanked: offsets stay."""
    for start, end in spans:
        text = text[:start] + " " * (end - start) + text[end:]
    return text


def _relative(text: str, today: date) -> list[Period]:
    found = []
    for match in _RELATIVE_JA.finditer(text):
        word = match.group()
        if word in _FISCAL_WORDS:
            found.append(fiscal_year(fiscal_year_of(today) + _FISCAL_WORDS[word]))
        elif word in _YEAR_WORDS:
            found.append(calendar_year(today.year + _YEAR_WORDS[word]))
        else:
            found.append(_month_from(today, _MONTH_WORDS[word]))
    for match in _RELATIVE_EN.finditer(text):
        shift, unit = _SHIFT[match["which"].lower()], match["unit"].lower()
        if unit == "month":
            found.append(_month_from(today, shift))
        elif unit == "year":
            found.append(calendar_year(today.year + shift))
        else:
            found.append(fiscal_year(fiscal_year_of(today) + shift))
    return found


def _month_from(today: date, shift: int) -> Period:
    months = today.year * 12 + today.month - 1 + shift
    return month_of(months // 12, months % 12 + 1)


def _months_in(text: str) -> list[tuple[int, int | None]]:
    found: list[tuple[int, int | None]] = []
    for match in _MONTH_JA.finditer(text):
        month, day = number_of(match["month"]), number_of(match["day"]) if match["day"] else None
        if month is not None and 1 <= month <= 12 and (day is None or 1 <= day <= 31):
            found.append((month, day))
    for match in _MONTH_EN.finditer(text):
        name, day_text = match["a"] or match["b"] or match["c"], match["day"] or match["after"]
        day = int(day_text) if day_text else None
        if day is None or 1 <= day <= 31:
            found.append((_MONTHS.index(name[:3].lower()) + 1, day))
    return found


def _number_in(match: re.Match[str]) -> str | None:
    if match["ja"]:
        number = number_of(match["ja"])
        return None if number is None else str(number)
    return (match["en"] or match["letter"] or match["ordinal"]).lower()
