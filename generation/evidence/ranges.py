"""Ranges such as "20kgまで", "10～15名", "50km未満", "over 30 days", and whether a question's number lies in one."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_UNIT = r"(?P<unit>[a-z%℃°]{1,6}|[円万年か月日時間分秒人名台個件回枚本泊歳才級型形畳坪号棟割]{1,3})?"
_NUMBER = r"\d{1,12}(?:\.\d{1,6})?"
_BETWEEN = re.compile(
    rf"(?P<low>{_NUMBER}) ?[a-z%℃円年月日名人台個件kgmc]{{0,4}} ?(?:~|〜|-|から|to|through|and) ?(?P<high>{_NUMBER}) ?{_UNIT}"
)
_ABOVE = re.compile(
    rf"(?P<low>{_NUMBER}) ?{_UNIT} ?(?P<how>以上|超|を超え|より多|から|or more|and over|and above|or over|\+)"
)
_BELOW = re.compile(rf"(?P<high>{_NUMBER}) ?{_UNIT} ?(?P<how>以下|未満|まで|以内|or less|or fewer|and under|and below)")
_WORD_ABOVE = re.compile(
    rf"(?P<how>over|above|more than|exceeding|at least|from|minimum) ?[£$€¥]?(?P<low>{_NUMBER}) ?{_UNIT}"
)
_WORD_BELOW = re.compile(
    rf"(?P<how>up to|under|below|less than|fewer than|within|at most|maximum) ?[£$€¥]?(?P<high>{_NUMBER}) ?{_UNIT}"
)
_MEASURE = re.compile(rf"(?<![\d.a-z-])(?P<value>{_NUMBER}) ?{_UNIT}")
_OPEN = frozenset(
    {
        "未満",
        "超",
        "を超え",
        "より多",
        "over",
        "above",
        "more than",
        "exceeding",
        "under",
        "below",
        "less than",
        "fewer than",
    }
)
_LONG = 400
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True, slots=True)
class Range:
    """low to high, each end inside unless open; unit '' where none is written."""

    low: float
    high: float
    unit: str
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: float) -> bool:
        """Whether a value lies inside."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below


def ranges_in(folded: str) -> list[Range]:
    """Ranges of a folded text, joined where one line gives both ends ("10kg超20kgまで")."""
    text = _THOUSANDS.sub("", folded[:_LONG])
    found = [
        Range(float(m["low"]), float(m["high"]), m["unit"] or "")
        for m in _BETWEEN.finditer(text)
        if float(m["low"]) < float(m["high"])
    ]
    if found:
        return found
    lows = [
        (float(m["low"]), m["unit"] or "", m["how"] in _OPEN) for p in (_ABOVE, _WORD_ABOVE) for m in p.finditer(text)
    ]
    highs = [
        (float(m["high"]), m["unit"] or "", m["how"] in _OPEN) for p in (_BELOW, _WORD_BELOW) for m in p.finditer(text)
    ]
    if len(lows) == len(highs) == 1 and lows[0][0] < highs[0][0]:
        return [Range(lows[0][0], highs[0][0], highs[0][1] or lows[0][1], lows[0][2], highs[0][2])]
    return [Range(low, math.inf, unit, open_) for low, unit, open_ in lows] + [
        Range(-math.inf, high, unit, high_open=open_) for high, unit, open_ in highs
    ]


def measures_in(folded: str) -> list[tuple[float, str]]:
    """(value, unit) of the numbers of a folded text that carry a unit."""
    return [(float(m["value"]), m["unit"]) for m in _MEASURE.finditer(_THOUSANDS.sub("", folded[:_LONG])) if m["unit"]]


def fit(measures: list[tuple[float, str]], ranges: list[Range]) -> float:
    """1 where a measure lies in a range of its unit, -1 where ranges of its unit leave it out, 0 where none is told."""
    verdicts = [
        one.holds(value)
        for value, unit in measures
        for one in ranges
        if one.unit in {"", unit} or unit.startswith(one.unit)
    ]
    return 0.0 if not verdicts else 1.0 if any(verdicts) else -1.0
