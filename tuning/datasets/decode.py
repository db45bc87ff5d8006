"""Bytes of an uploaded training set to text. Japanese office tools still write CP932 and EUC-JP, rarely with a hint."""

from __future__ import annotations

import codecs
import re

from core.errors import DatasetRejected

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ISO_2022_JP = re.compile(rb"\x1b\$[@B]|\x1b\([BJ]")
_FULL_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa。、]")
_HALF_KANA = re.compile(r"[\uff61-\uff9f]")
_PRIVATE = re.compile(r"[\ue000-\uf8ff]")


def decode(data: bytes) -> tuple[str, str]:
    """Text and the encoding it was read in. Line ends are left as they are.

    Raises:
        DatasetRejected: code `empty` or `unknown_encoding`.
    """
    if not data.strip():
        raise DatasetRejected("the file is empty", code="empty")
    for mark, name in _BOMS:
        if data.startswith(mark):
            return _strict(data, name)
    if _ISO_2022_JP.search(data):
        return _strict(data, "iso2022_jp")
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        if b"\0" in data:
            raise DatasetRejected("the file is not text", code="unknown_encoding") from error
    readings = []
    for name in ("cp932", "euc_jp"):
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            continue
        readings.append((_plausibility(text), name, text))
    if not readings:
        raise DatasetRejected(
            "the file is neither UTF-8 nor CP932 nor EUC-JP; save it as UTF-8 and upload it again",
            code="unknown_encoding",
        )
    _, name, text = max(readings)
    return text, name


def _strict(data: bytes, name: str) -> tuple[str, str]:
    try:
        return data.decode(name), name.removesuffix("-sig")
    except UnicodeDecodeError as error:
        raise DatasetRejected(f"the file says {name} but byte {error.start} is not", code="unknown_encoding") from error


def _plausibility(text: str) -> int:
    """EUC-JP read as CP932 is full of half-width kana; CP932 read as EUC-JP, where it decodes at all, has no kana."""
    return len(_FULL_KANA.findall(text)) - 2 * len(_HALF_KANA.findall(text)) - 4 * len(_PRIVATE.findall(text))
