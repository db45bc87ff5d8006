"""Styles of an XLSX workbook, as far as its text depends on them: number format, bold or shaded, struck out."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import Any

from ingest.extract.container import read_xml
from ingest.extract.number_format import GENERAL, built_in_format

_WHITE = ("FFFFFFFF", "00FFFFFF", "FFFFFF")
_MAX_STYLES_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Style:
    """What a cell's style says."""

    code: str = GENERAL
    strong: bool = False
    struck: bool = False

    @property
    def is_general(self) -> bool:
        """No number format of its own."""
        return self.code == GENERAL


class Styles:
    """Styles by the index that cells give."""

    def __init__(self, styles: list[Style]) -> None:
        self._styles = styles
        self._plain = styles[0] if styles else Style()

    def of(self, index: str | None) -> Style:
        """The style of a cell; the first one where the index is missing or wrong."""
        if index is None or not (index.isascii() and index.isdigit()) or len(index) > 9:
            return self._plain
        at = int(index)
        return self._styles[at] if at < len(self._styles) else self._plain


def read_styles(archive: zipfile.ZipFile, path: str, *, japanese: bool) -> Styles:
    """Read the part; an absent or huge one leaves every cell plain."""
    if path not in archive.namelist() or archive.getinfo(path).file_size > _MAX_STYLES_BYTES:
        return Styles([])
    root = read_xml(archive, path)
    codes = {item.get("numFmtId"): item.get("formatCode") or GENERAL for item in root.iterfind("{*}numFmts/{*}numFmt")}
    fonts = [(_is_on(font, "b"), _is_on(font, "strike")) for font in root.iterfind("{*}fonts/{*}font")]
    fills = [_is_shaded(fill) for fill in root.iterfind("{*}fills/{*}fill")]
    styles = []
    for xf in root.iterfind("{*}cellXfs/{*}xf"):
        number = xf.get("numFmtId") or "0"
        code = codes.get(number) or built_in_format(int(number) if number.isdigit() else 0, japanese=japanese)
        bold, struck = _at(fonts, xf.get("fontId"), (False, False))
        styles.append(Style(code, bold or _at(fills, xf.get("fillId"), False), struck))
    return Styles(styles)


def _is_on(font: Any, tag: str) -> bool:
    found = font.find("{*}" + tag)
    return found is not None and found.get("val") not in {"0", "false"}


def _is_shaded(fill: Any) -> bool:
    pattern = fill.find("{*}patternFill")
    if pattern is None or pattern.get("patternType") in {None, "none", "gray125"}:
        return False
    colour = pattern.find("{*}fgColor")
    if colour is None:
        return True
    white = colour.get("rgb") in _WHITE or (colour.get("theme") == "0" and not colour.get("tint"))
    return not white


def _at(items: list[Any], index: str | None, default: Any) -> Any:
    at = int(index) if index is not None and index.isascii() and index.isdigit() and len(index) < 9 else 0
    return items[at] if at < len(items) else default
