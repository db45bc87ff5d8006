"""Repairs of text that PDF fonts give out wrongly. Only code points that no writer typed are touched.

NFKC over everything would be wrong: it turns ㈱ into (株), ① into 1 and full-width letters into ASCII, and the stored
text must say what the document says. Two mistakes are certain enough to undo:

- CJK radicals (⼀ U+2F00 for 一 U+4E00): fonts whose map back from glyphs prefers the radical. A search for 一 misses.
- Kana as rare ideographs (䛾 for の): fonts with a shifted map, see https://github.com/langgenius/dify/issues/6012.
  Hiragana come out 0x1690 higher, katakana 0x168E; in real text these ideographs are all but unused.
"""

from __future__ import annotations

import re
import unicodedata

_KANGXI = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0x2F00, 0x2FD6)}
_SUPPLEMENT = dict(
    zip(
        "⺟⺠⻁⻄⻆⻑⻘⻝⻞⻟⻣⻤⻨⻩⻫⻭⻯⻲⻳",
        "母民虎西角長青食食食骨鬼麦黄斉歯竜亀龜",
        strict=True,
    )
)
_RADICALS = _KANGXI | {ord(radical): ideograph for radical, ideograph in _SUPPLEMENT.items()}
_RADICAL = re.compile(f"[{''.join(map(chr, _RADICALS))}]")

_HIRAGANA_SHIFT, _KATAKANA_SHIFT = 0x1690, 0x168E
_SHIFTED_KANA = {code + _HIRAGANA_SHIFT: chr(code) for code in range(0x3041, 0x3097)}
_SHIFTED_KANA |= {code + _KATAKANA_SHIFT: chr(code) for code in range(0x30A1, 0x30FD)}
_SHIFTED = re.compile(f"[{''.join(map(chr, _SHIFTED_KANA))}]")
_KANA = re.compile(r"[\u3041-\u30fc]")
_MIN_SHIFTED = 5


def repair_text(text: str) -> tuple[str, dict[str, int]]:
    """The text with both repairs made, and how many characters each one changed."""
    changed: dict[str, int] = {}
    radicals = len(_RADICAL.findall(text))
    if radicals:
        text = text.translate(_RADICALS)
        changed["radicals"] = radicals
    shifted = len(_SHIFTED.findall(text))
    if shifted >= _MIN_SHIFTED and shifted > len(_KANA.findall(text)):
        text = text.translate(_SHIFTED_KANA)
        changed["shifted_kana"] = shifted
    return text, changed
