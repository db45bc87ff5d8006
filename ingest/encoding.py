"""Bytes to text. What the sender says first, then certain evidence (BOM, escape sequences, strict UTF-8), then a guess.

A guess compares readings by how likely their text is (`ingest.plausibility`); Japanese ones come before any Western
code page and before chardet, which judges what is not Japanese. Line ends come out as LF, whatever the platform wrote.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Final

from core.errors import ExtractionFailed
from ingest.japanese_codecs import decode_cp932, decode_euc_jp, decode_iso_2022_jp, is_iso_2022_jp
from ingest.plausibility import best_readings, is_daily, japanese_bits, wide_bits

MAX_ENCODING_NAME: Final = 40
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its BOM starts with the UTF-16 one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ALIASES = {
    **dict.fromkeys(
        ("shift_jis", "sjis", "windows_31j", "x_sjis", "ms932", "s_jis", "csshiftjis", "ms_kanji"), "cp932"
    ),
    **dict.fromkeys(("eucjp", "euc_jp", "ujis", "x_euc_jp", "eucjp_ms", "eucjp_win", "cp51932"), "euc_jp"),
    **dict.fromkeys(
        ("jis", "iso_2022_jp", "iso2022_jp", "csiso2022jp", "cp50220", "cp50221", "cp50222"), "iso-2022-jp"
    ),
    **dict.fromkeys(("iso_8859_1", "latin_1", "latin1", "ascii", "us_ascii", "windows_1252"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk", "euc_kr", "ks_c_5601_1987"), ""),
}
"""What calls itself Shift_JIS is CP932 in practice: ①, ㈱ and ～ are in no strict Shift_JIS. Latin-1 is CP1252."""
_ALIASES |= {"gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949", "ks_c_5601_1987": "cp949"}
_NO_TEXT = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "utf_7", "undefined", "mbcs", "oem"})
"""Python codecs that are no encodings of files; idna takes quadratic time."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\- ]{0,39}\Z")
_JAPANESE: dict[str, Callable[[bytes], str]] = {
    "cp932": decode_cp932,
    "euc_jp": decode_euc_jp,
    "iso-2022-jp": decode_iso_2022_jp,
}
_FOR_READING = {"western": "cp1252", "big5": "big5hkscs"}
_SAMPLE_BYTES = 16_384
_JUDGED_BYTES = 200_000
_LINE_ENDS = re.compile(r"\r\n?|\u0085|\u2028|\u2029")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ufeff]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_HIGH = re.compile(rb"[\x80-\xff]")
_HIGH_RUNS = re.compile(rb"[\x80-\xff]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_UNTYPED = re.compile(rb"[\x01-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_FEW_CHARACTERS = 12
"""So few in UTF-8 may be CP932 by chance: 德永 is 푉i, ﾅｺ is ź."""
_CLEAR_BITS = 8.0
_NEAR_BITS = 10.0
_MAX_BAD_SHARE = 0.02
_MAX_BAD_SHARE_SURE = 0.05
_MAX_WIDE_BITS = 12.5
_MAX_CONTROL_SHARE = 0.05
_MIN_CONFIDENCE = 0.1
_MAX_ACCENT_SHARE = 0.3
_EBCDIC = re.compile(r"(?:cp|ibm-?)(?:037|273|424|500|875|1026|1140)\Z")
"""Mainframe code pages map any bytes to letters, so statistics find them in damaged files."""


@dataclass(frozen=True, slots=True)
class DecodedText:
    """Text and the encoding that gave it; `replaced` counts U+FFFD marks put where bytes made no sense.

    guessed: nothing in the file or from its sender says the encoding; `alternative` is the next likely one.
    """

    text: str
    encoding: str
    replaced: int = 0
    guessed: bool = False
    alternative: str | None = None


@dataclass(slots=True)
class Decodings:
    """What the texts decoded for one document had in common: for its `quality`."""

    given: str | None = None
    replaced: int = 0
    guess: DecodedText | None = field(default=None)

    def facts(self) -> dict[str, object]:
        """`encoding_guessed` {encoding, alternative} and `replaced_characters`, where there are any."""
        facts: dict[str, object] = {}
        if self.guess is not None:
            facts["encoding_guessed"] = {"encoding": self.guess.encoding, "alternative": self.guess.alternative}
        if self.replaced:
            facts["replaced_characters"] = self.replaced
        return facts


_DECODINGS: ContextVar[Decodings | None] = ContextVar("decodings", default=None)


@contextmanager
def decoding(given: str | None = None) -> Iterator[Decodings]:
    """Within: every text is taken to be in `given`, where that is known; what was decoded is noted."""
    notes = Decodings(given)
    token = _DECODINGS.set(notes)
    try:
        yield notes
    finally:
        _DECODINGS.reset(token)


def decode_text(data: bytes, *, declared: str | None = None) -> DecodedText:
    """Decode a whole file. `declared` (a charset from HTML, say) is believed only if it decodes without an error, and
    one of single bytes, which decodes anything, only where no Japanese reading is far likelier.

    Raises:
        ExtractionFailed: `unknown_encoding`, no encoding reads it with at most 2 % of its non-ASCII characters broken;
            `encoding_mismatch`, the one that was given with the upload does not.
    """
    notes = _DECODINGS.get()
    if notes is not None and notes.given is not None:
        decoded = _as_given(data, notes.given)
    else:
        decoded = _marked(data) or _declared(data, declared) or _guess(data)
    if notes is not None:
        notes.replaced += decoded.replaced
        notes.guess = notes.guess or (decoded if decoded.guessed else None)
    return decoded


def clean_text(text: str) -> str:
    """LF line ends; no control characters (tab and form feed stay, as tab and line break), no lone surrogates."""
    text = _LINE_ENDS.sub("\n", text).replace("\f", "\n")
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))


def known_encoding(name: str) -> str | None:
    """The name under which this service knows an encoding, or None: `Shift_JIS` is `cp932`."""
    if not _NAME.match(name.strip()):
        return None
    key = re.sub(r"[^a-z0-9]+", "_", name.strip().lower())
    if key in _ALIASES:
        return _ALIASES[key]
    try:
        codec = codecs.lookup(key)
    except (LookupError, ValueError, ImportError):
        return None
    if not getattr(codec, "_is_text_encoding", True) or codec.name.replace("-", "_") in _NO_TEXT:
        return None  # hex, zlib and others are codecs too
    return codec.name.removesuffix("-sig")


def wide_encoding(data: bytes) -> str | None:
    """`utf-16-le` or `utf-16-be` where bytes without a BOM are that: NUL bytes beside text, or kana throughout."""
    sample = data[:4096][: len(data) // 2 * 2]
    if len(sample) < 4:
        return None
    names = ("utf-16-le", "utf-16-be")
    if 0 not in sample:
        # こんにちは is S0k0a0o0 and 三大 is a tab, N, an apostrophe and Y: without a control, only where that goes on
        least = 4 if _UNTYPED.search(sample) else 16
        daily = [name for name in names if len(sample) >= least and is_daily(_replacing(sample, name))]
        return daily[0] if daily else None
    texts = {name: _replacing(sample, name) for name in names}
    bits = {name: japanese_bits(text) for name, text in texts.items()}
    best = min(names, key=lambda name: bits[name])
    if bits[best] > _MAX_WIDE_BITS * len(texts[best]):  # not Japanese, but one byte of each pair may be mostly 00
        even, odd = sample[::2].count(0), sample[1::2].count(0)
        if max(even, odd) < 0.025 * len(sample) or min(even, odd) > 0.2 * max(even, odd):
            return None
        best = "utf-16-le" if odd > even else "utf-16-be"
    controls = len(_CONTROLS.findall(texts[best]))
    return best if controls <= _MAX_CONTROL_SHARE * len(texts[best]) else None


def _marked(data: bytes) -> DecodedText | None:
    """By a mark in the bytes: a BOM, escape sequences, NULs, or being UTF-8, which other text hardly ever is."""
    for bom, name in _BOMS:
        if data.startswith(bom):
            text = _replacing(data[len(bom) :] if name == "utf-8" else data, name)
            return DecodedText(clean_text(text), name, text.count("\ufffd"))
    if is_iso_2022_jp(data):
        text = decode_iso_2022_jp(data)
        return DecodedText(clean_text(text), "iso-2022-jp", text.count("\ufffd"))
    wide = wide_encoding(data)
    if wide is not None:
        text = _replacing(data, wide)
        return DecodedText(clean_text(text), wide, text.count("\ufffd"))
    decoded = _strict(data, "utf-8")
    few = sum(map(len, _HIGH_RUNS.findall(data))) <= 3 * _FEW_CHARACTERS
    return None if decoded is not None and few and not data.isascii() and _is_hardly_utf_8(data) else decoded


def _is_hardly_utf_8(data: bytes) -> bool:
    """Whether the few characters beyond ASCII are far likelier in CP932 or EUC-JP."""
    readings = {name: bits for bits, name in best_readings(_sample(data))}
    clear = [name for name in ("cp932", "euc_jp") if readings[name] + _CLEAR_BITS < readings["utf-8"]]
    return any(_strict(data, name) is not None for name in clear)


def _declared(data: bytes, declared: str | None) -> DecodedText | None:
    name = known_encoding(declared) if declared else None
    decoded = _strict(data, name) if name else None
    if decoded is None or _is_of_several_bytes(decoded.encoding):
        return decoded
    return None if best_readings(_sample(data))[0][1] in _JAPANESE else decoded


def _is_of_several_bytes(name: str) -> bool:
    """Whether not any bytes can be of this encoding."""
    return name in _JAPANESE or bool(re.match(r"utf|gb|big5|cp949|euc|johab|hz|iso2022|shift", name))


def _as_given(data: bytes, name: str) -> DecodedText:
    bom = next((bom for bom, of in _BOMS if data.startswith(bom) and of == name), b"")
    text = _replacing(data[len(bom) :] if name == "utf-8" else data, name)
    bad = text.count("\ufffd")
    if bad > max(1, _MAX_BAD_SHARE * len(_NOT_ASCII.findall(text))):
        raise ExtractionFailed(
            f"{bad} places of the file are not {name}, which was given as its encoding; upload it again with the"
            " encoding it is in, or without one to have it judged",
            code="encoding_mismatch",
        )
    return DecodedText(clean_text(text), name, bad)


def _guess(data: bytes) -> DecodedText:
    readings = best_readings(_sample(data))
    if len(data) % 2 == 0 and len(data) <= _SAMPLE_BYTES:
        wide = ((wide_bits(_replacing(data, name)), name) for name in ("utf-16-le", "utf-16-be"))
        readings = sorted([*readings, *wide])
    decoded = _read_as(data, readings[0][1])
    if decoded is None:
        try:
            decoded = _judge(data)
        except ExtractionFailed:
            near = (name for bits, name in readings[1:] if name in _JAPANESE and bits <= readings[0][0] + _NEAR_BITS)
            decoded = next(filter(None, (_strict(data, name) for name in near)), None)
            if decoded is None:
                raise
    return replace(decoded, guessed=True, alternative=_next(readings, decoded.encoding))


def _read_as(data: bytes, name: str) -> DecodedText | None:
    """As Japanese or Unicode with a few broken places; None for all else, and where too much is broken."""
    if name not in _JAPANESE and not name.startswith("utf"):
        return None
    text = _replacing(data, name)
    bad = text.count("\ufffd")
    few = bad <= 1 + _MAX_BAD_SHARE_SURE * len(_NOT_ASCII.findall(text))
    return DecodedText(clean_text(text), name, bad) if few else None


def _next(readings: list[tuple[float, str]], taken: str) -> str | None:
    names = (_FOR_READING.get(name, name) for _, name in readings if name != "other")
    return next((name for name in names if name != taken), None)


def _judge(data: bytes) -> DecodedText:
    """Take chardet's word for what is not Japanese; CP1252 where it has none and few bytes are accents."""
    import chardet

    verdict = chardet.detect(data[:_JUDGED_BYTES])
    name = known_encoding(str(verdict["encoding"] or "")) or ""
    names = [name] if name and not _EBCDIC.match(name) and verdict["confidence"] >= _MIN_CONFIDENCE else []
    for name in names:
        decoded = _strict(data, name)
        if decoded is not None:
            return decoded
    if sum(map(len, _HIGH_RUNS.findall(data))) < _MAX_ACCENT_SHARE * len(data):
        decoded = _strict(data, "cp1252")
        if decoded is not None:
            return decoded
    for name in names:  # a few broken bytes in an otherwise clear file
        text = _replacing(data, name)
        if text.count("\ufffd") <= _MAX_BAD_SHARE * len(_NOT_ASCII.findall(text)):
            return DecodedText(clean_text(text), name, text.count("\ufffd"))
    raise ExtractionFailed(
        "the bytes are text in no encoding this service knows; save the file as UTF-8 and upload it again, or say its"
        " encoding with the upload",
        code="unknown_encoding",
    )


def _sample(data: bytes) -> bytes:
    """The first lines that hold more than ASCII: how much ASCII is around them says nothing."""
    lines: list[bytes] = []
    size = at = 0
    while size < _SAMPLE_BYTES and (high := _HIGH.search(data, at)):
        start = max(data.rfind(b"\n", at, high.start()) + 1, at)
        end = data.find(b"\n", high.start()) + 1 or len(data)
        line = data[max(start, high.start() - 200) : min(end, high.start() + _SAMPLE_BYTES)]
        lines.append(line)
        size += len(line)
        at = end
    return b"".join(lines)


def _strict(data: bytes, name: str) -> DecodedText | None:
    try:
        text = _JAPANESE[name](data) if name in _JAPANESE else data.decode(name)
    except (LookupError, UnicodeError):
        return None
    return None if name in _JAPANESE and "\ufffd" in text else DecodedText(clean_text(text), name)


def _replacing(data: bytes, name: str) -> str:
    return _JAPANESE[name](data) if name in _JAPANESE else data.decode(name, errors="replace")
