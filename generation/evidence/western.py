"""Era dates in a quoted line, told in the Western calendar behind them: 令和７年４月１日（2025年4月1日）."""

from __future__ import annotations

import re
import unicodedata

from core.dates import YEARS_BEFORE_ERA

_DIGITS = "[0-9０-９]{1,2}"
_DATE = re.compile(
    rf"(?P<era>令和|平成|昭和|大正)[ \u3000]?(?P<year>元|{_DIGITS})年(?P<fiscal>度)?(?:[ \u3000]?(?P<month>{_DIGITS})月"
    rf"(?:[ \u3000]?(?P<day>{_DIGITS})日)?)?(?![（(][0-9]{{4}}年)"
)


def with_western_years(text: str) -> str:
    """The text with each era date followed by the same date in Western years; the rest stays as it is."""
    return _DATE.sub(_told, text)


def _told(match: re.Match[str]) -> str:
    year = YEARS_BEFORE_ERA[match["era"]] + (1 if match["year"] == "元" else _number(match["year"]))
    told = f"{year}年{match['fiscal'] or ''}"
    if match["month"]:
        told += f"{_number(match['month'])}月"
    if match["day"]:
        told += f"{_number(match['day'])}日"
    return f"{match.group()}（{told}）"


def _number(digits: str) -> int:
    return int(unicodedata.normalize("NFKC", digits))
