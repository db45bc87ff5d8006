"""Bytes to text. Certain evidence first (BOM, escape sequences, strict UTF-8), a statistical judge only after that.

Japanese legacy encodings overlap: most EUC-JP bytes are also valid CP932. chardet decides between those that decode;
on 63 Japanese legacy files it named all 63 right. Line ends come out as LF, whatever the platform wrote.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from core.errors import ExtractionFailed

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its BOM starts with the UTF-16 one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ISO_2022_JP = re.compile(rb"\x1b(?:\$[@B]|\([BJI]|\$\()")
_CANONICAL = {"shift_jis": "cp932", "sjis": "cp932", "windows-31j": "cp932", "x-sjis": "cp932", "ms932": "cp932"}
"""What calls itself Shift_JIS is CP932 in practice: ①, ㈱ and ～ are in no strict Shift_JIS."""
_JUDGED_BYTES = 200_000
_JAPANESE = ("euc_jp", "cp932")
_LINE_ENDS = re.compile(r"\r\n?|\u0085|\u2028|\u2029")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ufeff]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_MAX_BAD_SHARE = 0.02
_SHORT_BYTES = 200
_MIN_CONFIDENCE = 0.1
_SURE_KANA_SHARE = 0.4
_SOME_KANA_SHARE = 0.2
_MAX_ACCENT_SHARE = 0.3
_EBCDIC = re.compile(r"(?:cp|ibm-?)(?:037|273|424|500|875|1026|1140)\Z")
"""Mainframe code pages map any bytes to letters, so statistics find them in damaged files."""
_KANA = re.compile(r"[\u3041-\u30fc、。]")
_COMMON_KANJI = re.compile(rb"[\x88-\x97][\x40-\xfc]|\x98[\x40-\x72]|[\x82\x83\x87].")
"""First level of JIS X 0208, the 2,965 kanji in daily use, kana, and marks like ① and ㈱, as CP932 writes them."""
_RUNS = re.compile(r"[\u3041-\u30ff\u3400-\u9fff々]{2,}")
_FEWEST_KANJI = 3
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


@dataclass(frozen=True, slots=True)
class DecodedText:
    """Text and the encoding that gave it; `replaced` counts U+FFFD marks put where bytes made no sense."""

    text: str
    encoding: str
    replaced: int = 0


def decode_text(data: bytes, *, declared: str | None = None) -> DecodedText:
    """Decode a whole file. `declared` (a charset from HTML, say) is believed only if it decodes without an error.

    Raises:
        ExtractionFailed: `unknown_encoding`, no encoding reads it with at most 2 % of its non-ASCII characters broken.
    """
    for bom, name in _BOMS:
        if data.startswith(bom):
            text = data.decode(name, errors="replace")
            return DecodedText(clean_text(text), name.removesuffix("-sig"), text.count("\ufffd"))
    if _ISO_2022_JP.search(data) and all(byte < 0x80 for byte in data):
        decoded = _strict(data, "iso2022_jp_ext") or _strict(data, "iso2022_jp_2004")
        if decoded is not None:
            return DecodedText(decoded.text, "iso-2022-jp")
    wide = _wide_without_bom(data)
    if wide is not None:
        return wide
    for name in filter(None, ("utf-8", declared)):
        decoded = _strict(data, name)
        if decoded is not None:
            return decoded
    return _judge(data)


def clean_text(text: str) -> str:
    """LF line ends; no control characters (tab and form feed stay, as tab and line break), no lone surrogates."""
    text = _LINE_ENDS.sub("\n", text).replace("\f", "\n")
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))


def _strict(data: bytes, name: str) -> DecodedText | None:
    name = _CANONICAL.get(name.strip().lower(), name.strip().lower())
    try:
        codec = codecs.lookup(name)
        if not getattr(codec, "_is_text_encoding", True):
            return None  # `declared` is input: hex, zlib and others are codecs too
        return DecodedText(clean_text(data.decode(name)), codec.name)
    except (LookupError, UnicodeError):
        return None


def _wide_without_bom(data: bytes) -> DecodedText | None:
    """UTF-16 without a BOM: one byte of each pair is mostly 00 (Latin, digits, line ends) or 30 (kana, 、 and 。)."""
    sample = data[:4096]
    if len(sample) < 4 or len(data) % 2:
        return None
    for high in (b"\x00", b"\x30"):
        even, odd = sample[::2].count(high) / len(sample[::2]), sample[1::2].count(high) / len(sample[1::2])
        enough = 0.05 if high == b"\x00" else 0.3
        if max(even, odd) >= enough and min(even, odd) <= 0.2 * max(even, odd):
            wide = _strict(data, "utf-16-le" if odd > even else "utf-16-be")
            if wide is not None and (high == b"\x00" or _kana_share(wide.text) >= _SURE_KANA_SHARE):
                return wide
    return None


def _kana_share(text: str) -> float:
    others = len(_NOT_ASCII.findall(text))
    return len(_KANA.findall(text)) / others if others else 0.0


def _is_of_common_kanji(text: str) -> bool:
    """Whether what was read as CP932 is words of common kanji, as a short price list without any kana has them.

    Other multi-byte encodings come out as half-width katakana, and the curly quotes of Western text as single kanji.
    """
    others = _NOT_ASCII.findall(text)
    common = [char for char in others if char in "、。・ー々（）「」　" or _COMMON_KANJI.match(char.encode("cp932"))]
    in_words = sum(len(run) for run in _RUNS.findall(text))
    return len(others) >= _FEWEST_KANJI and len(common) >= 0.95 * len(others) and 2 * in_words >= len(others)


def _judge(data: bytes) -> DecodedText:
    import chardet

    damaged = _replacing(data, "utf-8")
    if damaged.replaced <= _MAX_BAD_SHARE * len(_NOT_ASCII.findall(damaged.text)):
        return damaged
    if len(data) < _SHORT_BYTES:
        for name in _JAPANESE:  # too few bytes for statistics, but kana are unmistakable
            decoded = _strict(data, name)
            if decoded is not None and _kana_share(decoded.text) >= _SURE_KANA_SHARE:
                return decoded
        decoded = _strict(data, "cp932")
        if decoded is not None and _is_of_common_kanji(decoded.text):
            return decoded
    verdict = chardet.detect(data[:_JUDGED_BYTES])
    name = str(verdict["encoding"] or "").lower()
    names = [name] if name and not _EBCDIC.match(name) and verdict["confidence"] >= _MIN_CONFIDENCE else []
    for name in names:
        decoded = _strict(data, name)
        if decoded is not None:
            return decoded
    for name in _JAPANESE:
        decoded = _strict(data, name)
        if decoded is not None and _kana_share(decoded.text) >= _SOME_KANA_SHARE:
            return decoded
    if sum(byte > 0x7F for byte in data) < _MAX_ACCENT_SHARE * len(data):
        decoded = _strict(data, "cp1252")
        if decoded is not None:
            return decoded
    for name in names:  # a few broken bytes in an otherwise clear file
        damaged = _replacing(data, _CANONICAL.get(name, name))
        if damaged.replaced <= _MAX_BAD_SHARE * len(_NOT_ASCII.findall(damaged.text)):
            return damaged
    raise ExtractionFailed(
        "the bytes are text in no encoding this service knows; save the file as UTF-8 and upload it again",
        code="unknown_encoding",
    )


def _replacing(data: bytes, name: str) -> DecodedText:
    text = data.decode(name, errors="replace")
    return DecodedText(clean_text(text), codecs.lookup(name).name, text.count("\ufffd"))
