"""One notation for what is written in many: dates, times, yen and per cent beside all that `core.text_folding` joins.

Both sides of a comparison go through `one_notation`, so a pattern that reads something wrongly does so on both. Every
pattern is bounded, because answers and passages are other people's text.
"""

from __future__ import annotations

import re
import unicodedata

from core.text_folding import fold

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)(?![a-z])\.?"
)
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?(?![\d:a-z])"
_YEAR = r"((?:19|20)\d\d)(?!\d)"
_DAY_MONTH = re.compile(rf"(?<![\d.,:/]){_DAY} (?:of )?{_MONTH}(?:,? {_YEAR})?", re.IGNORECASE)
_MONTH_DAY = re.compile(rf"(?<![a-z]){_MONTH} {_DAY}(?:,? {_YEAR})?", re.IGNORECASE)
_MONTH_YEAR = re.compile(rf"(?<![a-z]){_MONTH},? {_YEAR}", re.IGNORECASE)

_CELLS = re.compile(r"(?<=[A-Za-z])(\d{1,12}),(?=\d)")
"""A02,248: two cells of a row, and no thousands."""
_YEN_BEFORE = re.compile(r"(?:¥|\\|(?<![a-z])jpy) ?(\d{1,15}(?!\d))(?! ?円)")
_YEN_AFTER = re.compile(r"(?<=\d) ?(?:yen|jpy)(?![a-z])")
_PERCENT = re.compile(r"(?<=\d) ?(?:パーセント|percent|per cent|pct)(?![a-z])")

_DATE = re.compile(r"(?<![0-9a-z./-])((?:19|20)\d\d)([-/.])(\d{1,2})\2(\d{1,2})(?!\d|[-/.]\d)")
_YEAR_MONTH = re.compile(r"(?<![0-9a-z./-])((?:19|20)\d\d)[-/](\d{1,2})(?![\d/-])")
_MONTH_AND_DAY = re.compile(r"(?<![0-9a-z./-])(\d{1,2})/(\d{1,2})(?![\d/]|\.\d)")
_LEADING_ZERO = re.compile(r"(?<!\d)0(?=\d ?[年月日時分秒])")

_CLOCK_12 = re.compile(r"(?<![\d:.])(\d{1,2})(?:[:.]([0-5]\d))? ?([ap])\.?m(?![a-z])\.?")
_CLOCK = re.compile(r"(?<![\d./])(?<!\d:)(?:(午前|午後) ?)?([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?![\d:])")
_HOUR = re.compile(r"(?:(午前|午後) ?)?(?<!\d)(\d{1,2}) ?時(?!間)(?: ?(?:(半)|(\d{1,2}) ?分))?")


def one_notation(text: str) -> str:
    """Text as it is compared, white space still in it.

    1,200 becomes 1200, ¥500 500円, 2025-05-01 2025年5月1日, 3:30 pm 15時30分. Eras stay as written: who asks
    for the western year is not answered by 令和7年.
    """
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    text = _DAY_MONTH.sub(lambda m: _english_date(m, m[3], m[2], m[1]), text)
    text = _MONTH_DAY.sub(lambda m: _english_date(m, m[3], m[1], m[2]), text)
    text = _MONTH_YEAR.sub(lambda m: _english_date(m, m[2], m[1], None), text)
    text = fold(_CELLS.sub(r"\1, ", text))
    text = _YEN_AFTER.sub("円", _YEN_BEFORE.sub(r"\1円", text))
    text = _PERCENT.sub("%", text)
    text = _DATE.sub(lambda m: _date(m, m[1], m[3], m[4]), text)
    text = _YEAR_MONTH.sub(lambda m: _date(m, m[1], m[2], None), text)
    text = _MONTH_AND_DAY.sub(lambda m: _date(m, None, m[1], m[2]), text)
    text = _CLOCK_12.sub(lambda m: _time(m, int(m[1]), m[2], None, {"a": "午前", "p": "午後"}[m[3]]), text)
    text = _CLOCK.sub(lambda m: _time(m, int(m[2]), m[3], m[4], m[1]), text)
    text = _HOUR.sub(lambda m: _time(m, int(m[2]), "30" if m[3] else m[4], None, m[1]), text)
    return _LEADING_ZERO.sub("", text)


def _english_date(found: re.Match[str], year: str | None, month: str, day: str | None) -> str:
    if month == "may" and year is None:  # "it may 3 times ..." is more often the verb
        return found[0]
    number = str(_MONTHS.index(month[:3].lower()) + 1)
    return _date(found, year, number, day)


def _date(found: re.Match[str], year: str | None, month: str, day: str | None) -> str:
    """The date in Japanese form; what no calendar has stays as it is."""
    if not 1 <= int(month) <= 12 or (day is not None and not 1 <= int(day) <= 31):
        return found[0]
    return (f"{year}年" if year else "") + f"{int(month)}月" + (f"{int(day)}日" if day else "")


def _time(found: re.Match[str], hour: int, minute: str | None, second: str | None, half: str | None) -> str:
    """24-hour time, always with minutes: so 15時 is 15:00 and not the beginning of 15:30."""
    if half is not None:
        if hour > 12:
            return found[0]
        hour = hour % 12 + (12 if half == "午後" else 0)
    if hour > 24:
        return found[0]
    return f"{hour}時{int(minute or 0)}分" + (f"{int(second)}秒" if second else "")
