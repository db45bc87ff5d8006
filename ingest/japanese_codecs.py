"""CP932, EUC-JP and ISO-2022-JP with the vendor characters (①, ㈱, 髙) that Python's codecs for the last two lack.

In EUC-JP and ISO-2022-JP row 13 is NEC's, rows 89 to 92 are the IBM extensions as NEC laid them out, and what JIS X
0212 has in rows 83 and 84 is eucJP-ms's: the places where Windows programs and mail readers write them.
"""

from __future__ import annotations

import codecs
import re

GAIJI = re.compile(r"[\ue000-\uf8ff]")
"""Private use: characters that only the writer's machine had a picture of."""
_IN_JIS = "strict-with-vendor-rows"
_VENDOR_ROWS = frozenset({13, 89, 90, 91, 92})
_EMOJI = b"\xf0\x9f"
_CP932_PIECE = re.compile(
    rb"(?:[\x00-\x80\xa0-\xdf]|[\x81-\x9f\xe0-\xef\xf1-\xfc][\x40-\x7e\x80-\xfc]){1,4000}"
    rb"|\xf0\x9f[\x80-\xbf]{2}|\xf0[\x40-\x7e\x80-\xfc]|[\x81-\xff]",
    re.S,
)
_ESCAPE = re.compile(rb"\x1b(?:\$\([A-Z]|\$[@AB]|\([A-Z])")
_JIS_X_0208 = frozenset({b"\x1b$@", b"\x1b$B", b"\x1b$(@", b"\x1b$(B"})
_JIS_X_0212 = b"\x1b$(D"
_JIS_X_0213 = frozenset({b"\x1b$(O", b"\x1b$(Q", b"\x1b$(P"})
_SECOND_PLANE = frozenset({b"\x1b$(P", _JIS_X_0212})
_HALF_KANA = b"\x1b(I"
_OTHERS = {b"\x1b$A": "gb2312", b"\x1b$(A": "gb2312", b"\x1b$(C": "euc_kr"}


def decode_cp932(data: bytes) -> str:
    """Windows' Shift_JIS. Bytes that mean nothing, gaiji, and emoji put in as UTF-8 come out as U+FFFD, one each.

    Such an emoji (F0 9F and two more bytes) would otherwise be a gaiji and a kanji, or set all behind it one byte off.
    """
    if _EMOJI in data:
        data = b"".join(
            b"\xfd" if len(piece) == 4 and piece.startswith(_EMOJI) else piece
            for piece in (match.group() for match in _CP932_PIECE.finditer(data))
        )
    text = data.decode("cp932", errors="replace").replace("\x80", "\ufffd").replace("\xa0", "\ufffd")
    return GAIJI.sub("\ufffd", text)


def decode_euc_jp(data: bytes) -> str:
    """EUC-JP with half-width kana, JIS X 0212 and the vendors' rows; U+FFFD for each byte that means nothing.

    JIS X 0213 (EUC-JIS-2004) where that reads it without an error and JIS X 0208 does not.
    """
    text = data.decode("euc_jp", errors=_IN_JIS)
    if "\ufffd" in text:
        try:
            return data.decode("euc_jis_2004")
        except UnicodeError:
            return text
    return text


def is_iso_2022_jp(data: bytes) -> bool:
    """Whether ASCII bytes switch to a Japanese set somewhere; a terminal's log switches to ASCII alone."""
    return data.isascii() and any(escape in data for escape in (b"\x1b$", _HALF_KANA))


def decode_iso_2022_jp(data: bytes) -> str:
    """ISO-2022-JP, -1, -2, -3, -2004 and what mail programs add to them: half-width kana, vendors' rows."""
    parts, at, escape = [], 0, b""
    for match in _ESCAPE.finditer(data):
        parts.append(_designated(escape, data[at : match.start()]))
        at, escape = match.end(), match.group()
    parts.append(_designated(escape, data[at:]))
    return "".join(parts)


def _designated(escape: bytes, data: bytes) -> str:
    """Bytes of one set. A line's end returns to ASCII, whether or not the writer said so."""
    if not data:
        return ""
    if escape in _JIS_X_0208 | _JIS_X_0213 | {_JIS_X_0212, _HALF_KANA} | set(_OTHERS):
        line, end, rest = data.partition(b"\n")
        high = bytes(byte | 0x80 if byte > 0x20 else byte for byte in line)
        tail = (end + rest).decode("ascii", errors="replace")
        if escape == _HALF_KANA:
            return high.decode("cp932", errors="replace") + tail
        if escape in _OTHERS:
            return high.decode(_OTHERS[escape], errors="replace") + tail
        if escape in _SECOND_PLANE:
            high = b"".join(b"\x8f" + high[at : at + 2] for at in range(0, len(high), 2))
        wide = high.decode("euc_jis_2004", errors="replace") if escape in _JIS_X_0213 else decode_euc_jp(high)
        return wide + tail
    return data.decode("ascii", errors="replace")


def _sjis_of(row: int, cell: int) -> bytes:
    lead = (row + 1) // 2 + (0x80 if row <= 62 else 0xC0)
    trail = cell + (0x3F if cell < 64 else 0x40) if row % 2 else cell + 0x9E
    return bytes((lead, trail))


def _eucjp_ms() -> dict[bytes, str]:
    """8F F3 F3 to 8F F4 FE: the IBM extensions that JIS X 0212 does not have elsewhere, in IBM's order."""
    trails = [*range(0x40, 0x7F), *range(0x80, 0xFD)]
    ibm = [bytes((lead, trail)) for lead in (0xFA, 0xFB) for trail in trails]
    ibm += [bytes((0xFC, trail)) for trail in range(0x40, 0x4C)]
    characters = []
    for code in ibm:
        character = code.decode("cp932")
        if character == "№" or (character not in "￢￤" and not _encodes(character)):
            characters.append(character)
    places = [(0xF3, cell) for cell in range(0xF3, 0xFF)] + [(0xF4, cell) for cell in range(0xA1, 0xFF)]
    return {bytes((0x8F, *place)): character for place, character in zip(places, characters, strict=True)}


def _encodes(character: str) -> bool:
    try:
        character.encode("euc_jp")
    except UnicodeError:
        return False
    return True


_EUCJP_MS = _eucjp_ms()


def _vendor_rows(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: what the standard leaves empty, as vendors filled it."""
    assert isinstance(error, UnicodeDecodeError)
    start = error.start
    code = error.object[start : start + 3]
    if code in _EUCJP_MS:
        return _EUCJP_MS[code], start + 3
    row, cell = (code[0] - 0xA0, code[1] - 0xA0) if len(code) > 1 else (0, 0)
    if row in _VENDOR_ROWS and 1 <= cell <= 94:
        try:
            return _sjis_of(row, cell).decode("cp932"), start + 2
        except UnicodeError:
            pass
    whole = 1 <= row <= 94 and 1 <= cell <= 94
    return "\ufffd", start + (2 if whole else 1)


codecs.register_error(_IN_JIS, _vendor_rows)
