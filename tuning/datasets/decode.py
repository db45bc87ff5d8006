"""In what an uploaded training set is written. Japanese office tools still write CP932 and EUC-JP, rarely with a hint.

A set is looked through a block at a time: nothing here holds all of it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator

from core.blobs import COPY_BYTES
from core.contents import Content, opened
from core.errors import DatasetRejected

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ISO_2022_JP = re.compile(rb"\x1b\$[@B]|\x1b\([BJ]")
_MARK_BYTES = 3
_FULL_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa。、]")
_HALF_KANA = re.compile(r"[\uff61-\uff9f]")
_PRIVATE = re.compile(r"[\ue000-\uf8ff]")


def find_encoding(content: Content) -> str:
    """Name of the codec that reads all of it; `utf-8-sig` where it begins with a mark of UTF-8.

    Raises:
        DatasetRejected: code `empty` or `unknown_encoding`.
    """
    if not any(block.strip() for block in _blocks(content)):
        raise DatasetRejected("the file is empty", code="empty")
    with opened(content) as file:
        head = file.read(_MARK_BYTES)
    for mark, name in _BOMS:
        if head.startswith(mark):
            return _strict(content, name)
    if _has_escapes(content):
        return _strict(content, "iso2022_jp")
    if (wrong := _read(content, "utf-8")) is None:
        return "utf-8"
    if any(b"\0" in block for block in _blocks(content)):
        raise DatasetRejected("the file is not text", code="unknown_encoding") from wrong
    readings = []
    for name in ("cp932", "euc_jp"):
        kana = _Kana()
        if _read(content, name, kana.count) is None:
            readings.append((kana.plausibility, name))
    if not readings:
        raise DatasetRejected(
            "the file is neither UTF-8 nor CP932 nor EUC-JP; save it as UTF-8 and upload it again",
            code="unknown_encoding",
        )
    return max(readings)[1]


class _Kana:
    """EUC-JP read as CP932 is full of half-width kana; CP932 read as EUC-JP, where it decodes at all, has no kana."""

    def __init__(self) -> None:
        self.plausibility = 0

    def count(self, text: str) -> None:
        self.plausibility += len(_FULL_KANA.findall(text)) - 2 * len(_HALF_KANA.findall(text))
        self.plausibility -= 4 * len(_PRIVATE.findall(text))


def _blocks(content: Content) -> Iterator[bytes]:
    with opened(content) as file:
        while block := file.read(COPY_BYTES):
            yield block


def _has_escapes(content: Content) -> bool:
    kept = b""
    for block in _blocks(content):
        if _ISO_2022_JP.search(kept + block):
            return True
        kept = block[1 - _MARK_BYTES :]
    return False


def _strict(content: Content, name: str) -> str:
    if (error := _read(content, name)) is not None:
        raise DatasetRejected(f"the file says {name} but {error.reason}", code="unknown_encoding") from error
    return name


def _read(content: Content, name: str, see: Callable[[str], None] = lambda _: None) -> UnicodeDecodeError | None:
    """Why a codec does not read it, with the place in the file as the reason; None when it does."""
    decoder = codecs.getincrementaldecoder(name)()
    done = 0
    try:
        for block in _blocks(content):
            done += len(block)
            see(decoder.decode(block))
        see(decoder.decode(b"", final=True))
    except UnicodeDecodeError as error:
        error.reason = f"byte {done - len(error.object) + error.start} is not"
        return error
    return None
