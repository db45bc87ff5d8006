"""Numbers of lists as office programs and browsers show them: 第三条, ⑫, (イ), iv, 甲.

Names of formats are those of Office Open XML (`ST_NumberFormat`); OpenDocument and HTML are turned into them.
"""

from __future__ import annotations

from collections.abc import Callable

_DIGITS = "〇一二三四五六七八九"
_LEGAL_DIGITS = "零壱弐参四伍六七八九"
_UNITS = ("", "十", "百", "千")
_LEGAL_UNITS = ("", "拾", "百", "阡")
_AIUEO = "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワヲン"
_IROHA = "イロハニホヘトチリヌルヲワカヨタレソツネナラムウヰノオクヤマケフコエテアサキユメミシヱヒモセス"
_STEMS = "甲乙丙丁戊己庚辛壬癸"
_BRANCHES = "子丑寅卯辰巳午未申酉戌亥"
_GANADA = "가나다라마바사아자차카타파하"
_ROMAN = (
    (1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"),
    (9, "ix"), (5, "v"), (4, "iv"), (1, "i"),
)  # fmt: skip
_FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
_LARGEST = 32_767
"""What Word takes for a list number at most; anything above is written in plain digits."""


def number_text(number: int, number_format: str) -> str:
    """A number in a format of Office Open XML; plain digits where the format is unknown or does not reach so far."""
    write = _FORMATS.get(number_format)
    if write is None or not 0 <= number <= _LARGEST:
        return str(number)
    return write(number) or ("" if number_format == "none" else str(number))


def _roman(number: int) -> str:
    parts = []
    for value, letters in _ROMAN:
        count, number = divmod(number, value)
        parts.append(letters * count)
    return "".join(parts)


def _letters(number: int) -> str:
    """From a to z, then aa, bb, as Word counts."""
    return chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1) if 0 < number <= 780 else ""


def _from(characters: str) -> Callable[[int], str]:
    """One character for each number, from the start again after the last."""
    return lambda number: characters[(number - 1) % len(characters)] if number else ""


def _enclosed(first: str, last: int, zero: str = "") -> Callable[[int], str]:
    return lambda number: chr(ord(first) + number - 1) if 1 <= number <= last else zero if number == 0 else ""


def _circled(number: int) -> str:
    for low, high, first in ((1, 20, "①"), (21, 35, "㉑"), (36, 50, "㊱")):
        if low <= number <= high:
            return chr(ord(first) + number - low)
    return "⓪" if number == 0 else ""


def _counted(digits: str, units: tuple[str, ...], *, one: bool) -> Callable[[int], str]:
    """Kanji with their powers of ten; `one` writes 壱 before 拾, where 一 before 十 is left out."""

    def write(number: int) -> str:
        if number == 0:
            return digits[0]
        high, low = divmod(number, 10_000)
        text = write(high) + ("萬" if one else "万") if high else ""
        for power in (3, 2, 1, 0):
            digit = low // 10**power % 10
            if digit:
                text += ("" if digit == 1 and power and not one else digits[digit]) + units[power]
        return text

    return write


def _ideograph_digits(number: int) -> str:
    return "".join(_DIGITS[int(digit)] for digit in str(number))


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


_KANJI = _counted(_DIGITS, _UNITS, one=False)
_FORMATS: dict[str, Callable[[int], str]] = {
    "decimal": str,
    "decimalZero": lambda number: f"{number:02}",
    "decimalFullWidth": lambda number: str(number).translate(_FULL_WIDTH),
    "decimalFullWidth2": lambda number: str(number).translate(_FULL_WIDTH),
    "decimalHalfWidth": str,
    "upperRoman": lambda number: _roman(number).upper(),
    "lowerRoman": _roman,
    "upperLetter": lambda number: _letters(number).upper(),
    "lowerLetter": _letters,
    "ordinal": _ordinal,
    "hex": lambda number: f"{number:X}",
    "numberInDash": lambda number: f"- {number} -",
    "decimalEnclosedCircle": _circled,
    "decimalEnclosedCircleChinese": _circled,
    "decimalEnclosedFullstop": _enclosed("⒈", 20),
    "decimalEnclosedParen": _enclosed("⑴", 20),
    "ideographEnclosedCircle": _enclosed("㊀", 10),
    # Half width in Word; NFKC makes both one, and full width is what a reader types.
    "aiueo": _from(_AIUEO),
    "aiueoFullWidth": _from(_AIUEO),
    "iroha": _from(_IROHA),
    "irohaFullWidth": _from(_IROHA),
    "ideographDigital": _ideograph_digits,
    "japaneseDigitalTenThousand": _ideograph_digits,
    "japaneseCounting": _KANJI,
    "chineseCounting": _KANJI,
    "chineseCountingThousand": _KANJI,
    "taiwaneseCounting": _KANJI,
    "taiwaneseCountingThousand": _KANJI,
    "japaneseLegal": _counted(_LEGAL_DIGITS, _LEGAL_UNITS, one=True),
    "ideographTraditional": _from(_STEMS),
    "ideographZodiac": _from(_BRANCHES),
    "ganada": _from(_GANADA),
    "bullet": lambda _: "-",
    "none": lambda _: "",
}
