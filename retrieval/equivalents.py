"""Terms that a text has beside its own, because other people write the same thing otherwise.

令和7年 also is 2025, July is 7月, 03-1234-5678 is 0312345678, two is 2, 午後2時 is 14:00. Each way of writing adds one
common term, on both sides, so no table of pairs is needed and either way finds the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from core.dates import YEARS_BEFORE_ERA

_ERA_LETTERS = {"r": 2018, "h": 1988, "s": 1925}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_FROM_TWO_TO_TWENTY = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen twenty"
)
_ALSO_WORDS = ("may", "mar")
_NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        _FROM_TWO_TO_TWENTY.split(),
        start=2,
    )
}
_ENGLISH_MONTH = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_ERA_YEAR = re.compile(r"(令和|平成|昭和|大正|明治) ?(元|\d{1,2})(?=年|[./-]\d)")
_ERA_LETTER_YEAR = re.compile(
    r"(?<![a-z0-9])([rhs])(\d{1,2})(?=年|[./-]\d{1,2}(?!\d))|(?<![a-z0-9-])(r)(\d)(?![a-z0-9.-])"
)
_DATE = re.compile(r"(?<![\d.])(\d{4})(?:年|[./-])(\d{1,2})(?:(?:月|[./-])(\d{1,2}))?(?![\d])")
_COMPACT = re.compile(r"(?<!\d)((?:19|20)\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])?(?!\d)")
_MONTH_DAY = re.compile(r"(?<!\d)(\d{1,2})月(?:(\d{1,2})日)?")
_SLASHED = re.compile(r"(?<![\d/.-])(\d{1,2})/(\d{1,2})(?![\d/.-])")
_MONTH_FIRST = re.compile(
    rf"(?<![a-z]){_ENGLISH_MONTH}(?![a-z])\.?(?: (\d{{1,2}})(?:st|nd|rd|th)?(?![\d:]))?(?:,? (\d{{4}}))?"
)
_DAY_FIRST = re.compile(rf"(?<!\d)(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?{_ENGLISH_MONTH}(?![a-z])(?:,? (\d{{4}}))?")
_TIME = re.compile(r"(?<![\d:])(?:(午前|午後) ?)?(\d{1,2})(?::(\d{2})(?![\d:])|時(?!間)(?:(\d{1,2})分|(半))?)")
_ENGLISH_TIME = re.compile(r"(?<![\d:])(\d{1,2})(?::(\d{2}))? ?([ap])\.?m(?![a-z])")
_PHONE = re.compile(r"(?<![\d-])0\d{1,4}[-()] ?\d{1,4}[-()] ?\d{3,4}(?![\d-])")
_NUMBER_WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(_NUMBER_WORDS, key=len, reverse=True))})(?![a-z])")
_ONE = re.compile(r"(?<![a-z])one (?=(?:hour|day|night|week|month|year|minute|business|working|calendar)s?(?![a-z]))")
_DIGIT = re.compile(r"\d")
_ANY_LATIN = re.compile(r"[a-z]")


def equivalent_terms(folded: str) -> list[str]:
    """Further terms of a folded text, each once: years, dates, months, times, telephone numbers, numbers in words."""
    digits = _DIGIT.search(folded) is not None
    found: list[str] = []
    if _ANY_LATIN.search(folded):
        found.extend(_from_words(folded, digits))
    if digits or "元年" in folded:
        found.extend(_from_digits(folded))
    return list(dict.fromkeys(found))


def _from_words(text: str, digits: bool) -> Iterator[str]:
    for match in _NUMBER_WORD.finditer(text):
        yield str(_NUMBER_WORDS[match.group(1)])
    for _ in _ONE.finditer(text):
        yield "1"
    for match in _MONTH_FIRST.finditer(text):
        name, day, year = match.groups()
        if day or year or name not in _ALSO_WORDS:
            yield from _dated(year, _MONTHS.index(name[:3]) + 1, day)
    if digits:
        for match in _DAY_FIRST.finditer(text):
            yield from _dated(match.group(3), _MONTHS.index(match.group(2)[:3]) + 1, match.group(1))
        for match in _ENGLISH_TIME.finditer(text):
            hour = int(match.group(1)) % 12 + (12 if match.group(3) == "p" else 0)
            yield from _timed(hour, int(match.group(2) or 0))


def _from_digits(text: str) -> Iterator[str]:
    yield from map(_western, _ERA_YEAR.finditer(text))
    yield from map(_western_of_letter, _ERA_LETTER_YEAR.finditer(text))
    western = _ERA_LETTER_YEAR.sub(_western_of_letter, _ERA_YEAR.sub(_western, text))
    for match in _DATE.finditer(western):
        if 1800 < int(match.group(1)) < 2200:
            yield from _dated(match.group(1), int(match.group(2)), match.group(3))
    for match in _COMPACT.finditer(text):
        yield match.group(1)
        yield from _dated(match.group(1), int(match.group(2)), match.group(3))
    for match in _MONTH_DAY.finditer(western):
        yield from _dated(None, int(match.group(1)), match.group(2))
    for match in _SLASHED.finditer(western):
        yield from _dated(None, int(match.group(1)), match.group(2))
    for match in _TIME.finditer(text):
        half, hour, minute, written, thirty = match.groups()
        later = 12 if half == "午後" and int(hour) < 12 else 0
        yield from _timed(int(hour) + later, int(minute or written or (30 if thirty else 0)))
    for match in _PHONE.finditer(text):
        joined = "".join(c for c in match.group() if c.isdigit())
        if 9 <= len(joined) <= 11:
            yield joined


def _western(match: re.Match[str]) -> str:
    return str(YEARS_BEFORE_ERA[match.group(1)] + (1 if match.group(2) == "元" else int(match.group(2))))


def _western_of_letter(match: re.Match[str]) -> str:
    letter, year = match.group(1) or match.group(3), match.group(2) or match.group(4)
    return str(_ERA_LETTERS[letter] + int(year))


def _dated(year: str | None, month: int, day: str | None) -> Iterator[str]:
    if not 1 <= month <= 12:
        return
    yield f"month-{month:02}"
    if year is not None:
        yield f"{year}-{month:02}"
    if day is not None and 1 <= int(day) <= 31:
        yield f"{month:02}-{int(day):02}"
        if year is not None:
            yield f"{year}-{month:02}-{int(day):02}"


def _timed(hour: int, minute: int) -> Iterator[str]:
    if hour <= 24 and minute < 60:
        yield f"{hour:02}:{minute:02}"
