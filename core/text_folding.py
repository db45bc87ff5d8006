"""How text is compared everywhere: one folding for search, coverage, evidence and citations. Idempotent.

Both sides of a comparison are folded, so folding may join what people write in two ways and must never part what they
write in one. Folded text is never shown: offsets belong to the text as it was.
"""

from __future__ import annotations

import re
import unicodedata

from core.kanji_variants import VARIANTS
from core.numerals import to_arabic

_CHARACTERS = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-")
    | dict.fromkeys("\u2018\u2019\u02bc\uff07", "'")
    | dict.fromkeys("\u301c\uff5e\u223c\u223f\u02dc", "~")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", "")
    | dict.fromkeys(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))), "")
    | VARIANTS
)
"""One kind of dash, apostrophe and wave dash; one form of a kanji; nothing that only chooses a glyph or is not seen."""
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LONG_VOWEL_AS_DASH = re.compile(r"(?<=[0-9a-z])ー(?=[0-9a-z])")
_DASH_AS_LONG_VOWEL = re.compile(r"(?<=[\u30a1-\u30fa])-(?=[\u30a1-\u30fa])")
_V = re.compile(r"ヴ([ァィェォ]?)")
_B = {"": "ブ", "ァ": "バ", "ィ": "ビ", "ェ": "ベ", "ォ": "ボ"}
_COUNTED = re.compile(r"(?<=[0-9一二三四五六七八九十百何数幾])[ヶヵケカ箇個](?=[月所国年条村])")
_IN_NAMES = re.compile(r"(?<=[\u3400-\u9fff])[ヶケ](?=[\u3400-\u9fff])")


def fold(text: str) -> str:
    """Text as it is compared: 'ＰＰＲ－９０８７' -> 'ppr-9087', '髙橋' -> '高橋', '12万円' -> '120000円'.

    NFKC and case folding, one kind of dash, apostrophe and wave dash, one form of a kanji, か月 for ヶ月, numerals in
    Arabic digits, no thousands separators. The steps are repeated until nothing changes: case folding may undo NFKC
    (ß with an accent), and a numeral may end beside a separator.
    """
    if text.isascii():
        return _THOUSANDS.sub("", text.lower())
    while True:
        folded = _once(text)
        if folded == text:
            return folded
        text = folded


def _once(text: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).translate(_CHARACTERS)
    text = _DASH_AS_LONG_VOWEL.sub("ー", _LONG_VOWEL_AS_DASH.sub("-", text))
    text = _IN_NAMES.sub("が", _COUNTED.sub("か", _V.sub(lambda match: _B[match.group(1)], text)))
    return to_arabic(_THOUSANDS.sub("", text))
