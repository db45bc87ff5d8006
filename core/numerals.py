"""Kanji numerals and mixed ones as Arabic digits: 二十日 -> 20日, 第三十一条 -> 第31条, 12万5千円 -> 125000円.

A numeral is read only where something says that it is one: 第 before it, a counter after it, or digits in it. 一般 and
三重県 stay as they are.
"""

from __future__ import annotations

import re
from decimal import Decimal

_DIGITS = {c: at for at, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "壱": 1, "弐": 2, "参": 3}
_SMALL = {"十": 10, "拾": 10, "百": 100, "千": 1_000}
_LARGE = {"万": 10**4, "億": 10**8, "兆": 10**12}
_COUNTED = """
日 月 年 条 項 号 章 節 款 編 か月 か所 か国 か年 か条 週 時 分 秒 円 銭 ドル 人 名 件 台 回 個 本 枚 冊 通 階 歳 才
割 厘 % パーセント 泊 ポイント 次 番 位 度 倍 級 等 期 丁目 メートル センチ ミリ キロ グラム リットル 坪 畳 社 店 点
箱 足 着 校 世帯 便 席 室 戸 棟 種類 段階 親等
"""
_COUNTERS = tuple(_COUNTED.split())
_LONGEST = 32
_CHARACTERS = "0-9" + "".join((*_DIGITS, *_SMALL, *_LARGE))
_NUMERAL = re.compile(rf"(?<![{_CHARACTERS}])[{_CHARACTERS}]++(?:\.[0-9]++[十百千万億兆][{_CHARACTERS}]*+)?")
_HAN = re.compile(r"[\u3400-\u9fff]")
_NOT_NUMERALS = (("十", "分"), ("千", "歳"))
"""十分 is "enough", 千歳 a city; 十分間 is ten minutes."""


def to_arabic(text: str) -> str:
    """`text` with every numeral that can be told as one in Arabic digits; `text` is NFKC. Idempotent."""
    return _NUMERAL.sub(_converted, text)


def _converted(match: re.Match[str]) -> str:
    run, text, end = match.group(), match.string, match.end()
    if run.isascii() or len(run) > _LONGEST:
        return run
    kept = ""
    if run.endswith("四") and text.startswith("半期", end):  # 第2四半期 holds no 24
        run, kept, end = run[:-1], "四", end - 1
        if not run or run.isascii():
            return run + kept
    counted = text.startswith(_COUNTERS, end)
    if any(c.isascii() for c in run):
        if run[-1] in _SMALL and not counted and _HAN.match(text, end):
            return run + kept  # 1千葉市
    elif not _stands_alone(run, text, match.start(), end, counted):
        return run + kept
    return (_value(run) or run) + kept


def _stands_alone(run: str, text: str, start: int, end: int, counted: bool) -> bool:
    """Whether a numeral without a digit is one."""
    if run[0] in _LARGE or set(run) == {"〇"}:
        return False
    if any(run == word and text.startswith(after, end) for word, after in _NOT_NUMERALS):
        return text.startswith("分間", end)
    return counted or text.startswith("第", start - 1) or text.startswith("四半期", end)


def _value(run: str) -> str | None:
    """Digits of a numeral; None for what is none (十万千千)."""
    total, section, number = Decimal(0), Decimal(0), ""
    last_small, last_large = 10**5, 10**16
    for character in run:
        if character in _DIGITS:
            number += str(_DIGITS[character])
        elif character in _SMALL:
            unit = _SMALL[character]
            if unit >= last_small:
                return None
            section += Decimal(number or 1) * unit
            last_small, number = unit, ""
        elif character in _LARGE:
            unit = _LARGE[character]
            section += Decimal(number or 0)
            if unit >= last_large or not section:
                return None
            total += section * unit
            last_large, last_small, section, number = unit, 10**5, Decimal(0), ""
        else:
            number += character
    value = total + section + Decimal(number or 0)
    if all(c in _DIGITS or c.isascii() for c in run):
        return number  # 二〇二五, with its leading zeros
    return format(value.normalize(), "f")
