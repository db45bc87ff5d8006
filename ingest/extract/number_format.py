"""Numbers as a sheet shows them (formats of ECMA-376 part 1, 18.8.31): 00000123, 8.5%, 令和7年4月1日, 26:30.

Colours, alignment and fill characters are left out; a format that is damaged or over-long shows the number itself.
"""

from __future__ import annotations

import datetime as dt
import math
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from ingest.extract.number_code import Section, Token, sections_of

GENERAL = "General"
_MAX_DAYS = 3_000_000
"""Past the year 9999."""
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_WEEKDAYS_JA = "月火水木金土日"
_ERAS = (
    (dt.date(2019, 5, 1), "令和", "R"),
    (dt.date(1989, 1, 8), "平成", "H"),
    (dt.date(1926, 12, 25), "昭和", "S"),
    (dt.date(1912, 7, 30), "大正", "T"),
    (dt.date(1868, 1, 25), "明治", "M"),
)
_ERA_DATE = '[$-411]ggge"年"m"月"d"日"'
_BUILT_IN = {
    **{1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%", 11: "0.00E+00", 12: "# ?/?", 13: "# ??/??"},
    **{5: '"¥"#,##0;"¥"-#,##0', 6: '"¥"#,##0;"¥"-#,##0', 7: '"¥"#,##0.00;"¥"-#,##0.00', 8: '"¥"#,##0.00;"¥"-#,##0.00'},
    **{14: "yyyy-mm-dd", 15: "d-mmm-yy", 16: "d-mmm", 17: "mmm-yy", 18: "h:mm AM/PM", 19: "h:mm:ss AM/PM", 20: "h:mm"},
    **{21: "h:mm:ss", 22: "yyyy-mm-dd h:mm", 37: "#,##0;-#,##0", 38: "#,##0;-#,##0", 39: "#,##0.00;-#,##0.00"},
    **{40: "#,##0.00;-#,##0.00", 41: "#,##0", 42: '"¥"#,##0', 43: "#,##0.00", 44: '"¥"#,##0.00', 45: "mm:ss"},
    **{46: "[h]:mm:ss", 47: "mm:ss.0", 48: "##0.0E+0", 49: "@"},
    **dict.fromkeys((27, 36, 50, 57), "[$-411]ge.m.d"),
    **dict.fromkeys((28, 29, 51, 54, 58), _ERA_DATE),
    **{30: "m/d/yy", 31: 'yyyy"年"m"月"d"日"', 32: 'h"時"mm"分"', 33: 'h"時"mm"分"ss"秒"'},
    **dict.fromkeys((34, 52, 55), 'yyyy"年"m"月"'),
    **dict.fromkeys((35, 53, 56), 'm"月"d"日"'),
}
_BUILT_IN_JA = {14: "yyyy/m/d", 22: "yyyy/m/d h:mm"}


def built_in_format(number: int, *, japanese: bool = False) -> str:
    """Code of a format that files name by number only; what depends on the reader's country is Japanese or ISO."""
    if japanese and number in _BUILT_IN_JA:
        return _BUILT_IN_JA[number]
    return _BUILT_IN.get(number, GENERAL)


def format_number(value: float, code: str, *, since_1904: bool = False) -> str:
    """The number as the format shows it, without white space around; empty where the format shows nothing."""
    if not math.isfinite(value):
        return str(value)
    sections = sections_of(code)
    if not sections:
        return format_general(value)
    section, value = _choose(sections, value)
    if section.is_date:
        shown = _show_date(section, value, since_1904)
        return format_general(value) if shown is None else shown.strip()
    return _show_number(section.tokens, value).strip()


def format_text(text: str, code: str) -> str:
    """A text as the format shows it: `@"様"` puts 様 after it."""
    sections = sections_of(code)
    section = sections[3] if len(sections) > 3 else sections[-1] if sections else None
    if section is None or not any(token.kind == "at" for token in section.tokens):
        return text
    return "".join(text if token.kind == "at" else token.text for token in section.tokens)


def format_general(value: float) -> str:
    """As without a format: integers whole to 15 digits, else ten significant digits."""
    if float(value).is_integer() and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.10g}"


def is_date_format(code: str) -> bool:
    """The format shows a date, a time or a duration."""
    return any(section.is_date for section in sections_of(code)[:1])


def _choose(sections: tuple[Section, ...], value: float) -> tuple[Section, float]:
    """The section for a value, and the value that it shows: sections for negative numbers write the sign themselves."""
    numeric = sections[:3]
    if any(section.condition for section in numeric):
        for section in numeric:
            if section.condition is None or _holds(section.condition, value):
                return section, value
        return numeric[-1], value
    if len(numeric) > 1 and value < 0:
        return numeric[1], -value
    if len(numeric) > 2 and value == 0:
        return numeric[2], value
    return numeric[0], value


def _holds(condition: tuple[str, float], value: float) -> bool:
    sign, bound = condition
    match sign:
        case ">":
            return value > bound
        case ">=":
            return value >= bound
        case "<":
            return value < bound
        case "<=":
            return value <= bound
        case "<>":
            return value != bound
    return value == bound


def _show_number(tokens: tuple[Token, ...], value: float) -> str:
    kinds = [token.kind for token in tokens]
    if "general" in kinds or "at" in kinds:
        return "".join(format_general(value) if t.kind in {"general", "at"} else t.text for t in tokens)
    if "digit" not in kinds:
        sign = "-" if value < 0 and kinds else ""
        return sign + "".join(token.text for token in tokens)
    sign = "-" if value < 0 else ""
    number = Decimal(repr(abs(value))) * 100 ** kinds.count("percent")
    if "exponent" in kinds:
        return sign + _scientific(tokens, number)
    if "slash" in kinds and "point" not in kinds:
        return sign + _fraction(tokens, number)
    point = kinds.index("point") if "point" in kinds else len(tokens)
    last = max(at for at, kind in enumerate(kinds) if kind == "digit")
    for kind in kinds[last + 1 :]:
        if kind != "comma":
            break
        number /= 1000
    decimals = tokens[point + 1 :]
    places = sum(token.kind == "digit" for token in decimals)
    plain = f"{number.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP):f}" if number < 10**20 else f"{number:f}"
    whole, _, part = plain.partition(".")
    if not whole.strip("0") and not part.strip("0"):
        sign = ""
    first = kinds.index("digit")
    grouped = "comma" in kinds[first : min(last, point)]
    lead = "".join(token.text for token in tokens[: min(first, point)] if token.kind in {"text", "percent"})
    shown = _integer(tokens[min(first, point) : point], whole.lstrip("0"), grouped)
    return lead + sign + shown + (_decimals(decimals, part) if point < len(tokens) else "")


def _integer(tokens: tuple[Token, ...], digits: str, grouped: bool) -> str:
    out: list[str] = []
    left = list(digits)
    count = 0
    places = sum(token.kind == "digit" for token in tokens)
    if not places:
        out += left[::-1]
    for token in reversed(tokens):
        if token.kind != "digit":
            out.append(token.text if token.kind != "comma" else "")
            continue
        places -= 1
        taken = [left.pop() if left else {"0": "0", "?": " "}.get(token.text, "")]
        while places == 0 and left:  # the first place takes all that is left
            taken.append(left.pop())
        for digit in taken:
            if grouped and count and count % 3 == 0 and digit.strip():
                out.append(",")
            out.append(digit)
            count += bool(digit)
    return "".join(reversed(out))


def _decimals(tokens: tuple[Token, ...], part: str) -> str:
    out: list[str] = []
    kept = 0
    for at, token in enumerate(t for t in tokens if t.kind == "digit"):
        if token.text == "0" or part[at:].strip("0"):
            kept = at + 1
    place = 0
    for token in tokens:
        if token.kind == "digit":
            if place < kept:
                out.append(part[place : place + 1])
            place += 1
        elif token.kind != "comma":
            out.append(token.text)
    return ("." if kept else "") + "".join(out)


def _scientific(tokens: tuple[Token, ...], number: Decimal) -> str:
    kinds = [token.kind for token in tokens]
    at = kinds.index("exponent")
    point = kinds.index("point") if "point" in kinds[:at] else at
    places = sum(token.kind == "digit" for token in tokens[point:at])
    width = sum(token.kind == "digit" for token in tokens[at:])
    mantissa, _, exponent = f"{number:.{places}E}".partition("E")
    sign = "-" if exponent.startswith("-") else "+" if tokens[at].text == "+" else ""
    return f"{mantissa}E{sign}{exponent.lstrip('+-').lstrip('0').rjust(width, '0')}"


def _fraction(tokens: tuple[Token, ...], number: Decimal) -> str:
    at = next(i for i, token in enumerate(tokens) if token.kind == "slash")
    below = "".join(token.text for token in tokens[at + 1 :]).strip()
    fixed = int(below) if below.isdigit() and below.strip("0") and len(below) < 6 else 0
    mixed = any(token.kind == "digit" for token in tokens[: max(0, at - 1)]) and any(
        token.kind == "text" and token.text == " " for token in tokens[:at]
    )
    whole = int(number) if mixed else 0
    rest = Fraction(number) - whole
    if fixed:
        above = round(rest * fixed)
        part = f"{above}/{fixed}" if above else ""
    else:
        close = rest.limit_denominator(10 ** min(4, max(1, below.count("?") + below.count("#"))) - 1)
        if close == 1 and mixed:
            whole, close = whole + 1, Fraction(0)
        part = f"{close.numerator}/{close.denominator}" if close else ""
    return " ".join(filter(None, (str(whole) if whole or not part else "", part)))


def _show_date(section: Section, value: float, since_1904: bool) -> str | None:
    """None where the number is no date."""
    if abs(value) > _MAX_DAYS:
        return None
    kinds = [token.kind for token in section.tokens]
    fraction = 0
    for at, kind in enumerate(kinds):  # s.00: digits after the seconds
        if kind == "point":
            fraction = sum(token.kind == "digit" for token in section.tokens[at:])
    seconds = round(abs(value) * 86400, fraction) if fraction else float(round(abs(value) * 86400))
    if value < 0 and "elapsed" not in kinds:
        return None
    days, second_of_day = divmod(seconds, 86400)
    try:
        if since_1904:
            date = dt.date(1904, 1, 1) + dt.timedelta(days=days)
        else:
            date = dt.date(1899, 12, 30) + dt.timedelta(days=days + (1 if days < 60 else 0))
    except OverflowError:
        return None
    noon = "noon" in kinds
    out: list[str] = ["-" if value < 0 else ""]
    for at, token in enumerate(section.tokens):
        match token.kind:
            case "date":
                minute = token.text[0] == "m" and _is_minute(section.tokens, at)
                clock = token.text[0] in "hs" or minute
                out.append(_clock(token.text, second_of_day, noon) if clock else _calendar(token.text, date, section))
            case "elapsed":
                unit = {"h": 3600, "m": 60, "s": 1}[token.text[0]]
                out.append(str(int(seconds // unit)).rjust(len(token.text), "0"))
            case "noon":
                morning = second_of_day < 43200
                out.append(("AM" if morning else "PM") if len(token.text) == 5 else ("A" if morning else "P"))
            case "point":
                out.append("." + f"{seconds % 1:.{fraction}f}"[2:] if fraction else ".")
            case "digit":
                pass
            case _:
                out.append(token.text)
    return "".join(out)


def _is_minute(tokens: tuple[Token, ...], at: int) -> bool:
    """Whether `m` is the minute, as it is after hours and before seconds."""
    if len(tokens[at].text) > 2:
        return False
    timed = [token for token in tokens[:at] if token.kind in {"date", "elapsed"}]
    if timed and timed[-1].text[0] == "h":
        return True
    following = next((token for token in tokens[at + 1 :] if token.kind in {"date", "elapsed"}), None)
    return following is not None and following.text[0] == "s"


def _clock(code: str, second_of_day: float, noon: bool) -> str:
    hour, rest = divmod(int(second_of_day), 3600)
    if noon:
        hour = (hour + 11) % 12 + 1
    number = {"h": hour, "m": rest // 60, "s": rest % 60}[code[0]]
    return str(number).rjust(min(2, len(code)), "0")


def _calendar(code: str, date: dt.date, section: Section) -> str:
    weekday = _WEEKDAYS_JA[date.weekday()]
    japanese = section.japanese
    match code[0], len(code):
        case "y", length:
            return f"{date.year:04}" if length > 2 else f"{date.year % 100:02}"
        case "m", length if length > 2 and japanese:
            return f"{date.month}月"
        case "m", length if length > 2:
            name = _MONTHS[date.month - 1]
            return {3: name[:3], 5: name[0]}.get(length, name)
        case "d", length if length > 2 and japanese:
            return weekday if length == 3 else weekday + "曜日"
        case "d", length if length > 2:
            return _WEEKDAYS[date.weekday()][: 3 if length == 3 else None]
        case "a", length if length > 2:
            return weekday if length == 3 else weekday + "曜日"
        case ("m" | "d") as unit, length:
            return str(date.month if unit == "m" else date.day).rjust(length, "0")
        case ("g" | "e" | "r" | "b") as unit, length:
            return _era(unit, length, date, section)
    return code


def _era(unit: str, length: int, date: dt.date, section: Section) -> str:
    start, name, letter = next((era for era in _ERAS if era[0] <= date), _ERAS[-1])
    if unit == "g":
        return {1: letter, 2: name[0]}.get(length, name)
    if unit == "b":
        return str(date.year + 543)
    named = any(token.kind == "date" and token.text[0] == "g" for token in section.tokens)
    if unit == "e" and not (named or section.japanese):
        return str(date.year)
    year = str(date.year - start.year + 1)
    return (name if unit == "r" and not named else "") + (year.rjust(2, "0") if length > 1 else year)
