"""XLS (Excel 97-2003) through xlrd: values as shown, merges, notes, what is hidden."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

from core.errors import ExtractionFailed
from ingest.extract.cells import Cell
from ingest.extract.links import linked
from ingest.extract.number_format import GENERAL, built_in_format, format_general, format_number, format_text
from ingest.extract.sheet import Sheet, hidden_mark

_WHITE_INDEX = 9
_BUILT_IN_LIMIT = 164
"""Formats below are the built-in ones, which depend on the country; a file may or may not spell them out."""
_LOCAL_FORMATS = frozenset({14, 22})


_DAMAGED = (
    *(AssertionError, AttributeError, ArithmeticError, EOFError, LookupError, NotImplementedError),
    *(OSError, TypeError, ValueError, struct.error),
)
"""What xlrd raises on damaged bytes, besides its own."""


class XlsReader:
    """The sheets of one workbook, in order.

    Raises:
        XLRDError: the file is damaged or has a password.
    """

    def __init__(self, data: bytes, facts: Counter[str], *, max_chars: int) -> None:
        import xlrd

        self.facts = facts
        self._left = max_chars
        self._book = _guarded(
            lambda: xlrd.open_workbook(
                file_contents=data, formatting_info=True, on_demand=True, ragged_rows=True, logfile=_Silent()
            )
        )
        self._japanese = self._book.codepage == 932 or hidden_mark("".join(self.names)) == "非表示"
        self._styles: dict[int, tuple[str, bool, bool]] = {}

    @property
    def names(self) -> list[str]:
        """Sheet names in order."""
        return list(self._book.sheet_names())

    def sheet(self, index: int) -> Sheet:
        """Read one sheet.

        Raises:
            XLRDError: the sheet is damaged.
            ExtractionFailed: `text_too_long`.
        """
        source = _guarded(lambda: self._book.sheet_by_index(index))
        sheet = Sheet(name=source.name, hidden=source.visibility != 0)
        sheet.merges = {
            (top, left): (bottom - top, right - left)
            for top, bottom, left, right in source.merged_cells
            if bottom > top
        }
        label = "（コメント: {}）" if self._japanese else " (comment: {})"
        notes = {place: " ".join((note.text or "").split()) for place, note in source.cell_note_map.items()}
        notes = {place: text for place, text in notes.items() if text}
        for row in range(source.nrows):
            cells = []
            for column in range(source.row_len(row)):
                text, strong = self._shown(source, row, column)
                link = source.hyperlink_map.get((row, column))
                text = linked(text, link.url_or_path if link and isinstance(link.url_or_path, str) else None)
                note = notes.pop((row, column), "")
                text += label.format(note) if note else ""
                if text and not text.isspace():
                    self._left -= len(text)
                    cells.append((column, Cell(text, strong=strong)))
            if self._left < 0:
                raise ExtractionFailed("the workbook holds more text than this service takes", code="text_too_long")
            if cells:
                sheet.rows.append((row, cells))
        sheet.remarks = [label.format(text).strip() for text in notes.values()]
        used_rows = {row for row, _ in sheet.rows}
        used_columns = {column for _, cells in sheet.rows for column, _ in cells}
        sheet.hidden_rows = frozenset(
            row for row, info in source.rowinfo_map.items() if info.hidden and row in used_rows
        )
        sheet.hidden_columns = frozenset(
            column for column, info in source.colinfo_map.items() if info.hidden and column in used_columns
        )
        self._book.unload_sheet(index)
        self.facts["hidden_sheets"] += sheet.hidden
        self.facts["hidden_rows"] += len(sheet.hidden_rows)
        self.facts["hidden_columns"] += len(sheet.hidden_columns)
        self.facts["comments"] += len(source.cell_note_map)
        return sheet

    def _shown(self, source: Any, row: int, column: int) -> tuple[str, bool]:
        import xlrd

        kind = source.cell_type(row, column)
        if kind in {xlrd.XL_CELL_EMPTY, xlrd.XL_CELL_BLANK}:
            return "", False
        value = source.cell_value(row, column)
        code, strong, struck = self._style(source.cell_xf_index(row, column))
        if struck:
            self.facts["struck_left_out"] += len(str(value))
            return "", False
        match kind:
            case xlrd.XL_CELL_TEXT:
                return format_text(value, code), strong
            case xlrd.XL_CELL_BOOLEAN:
                return "TRUE" if value else "FALSE", strong
            case xlrd.XL_CELL_ERROR:
                return xlrd.error_text_from_code.get(value, "#ERROR"), strong
        if code == GENERAL:
            return format_general(value), strong
        return format_number(value, code, since_1904=self._book.datemode == 1), strong

    def _style(self, index: int) -> tuple[str, bool, bool]:
        """Number format, whether it stands out, whether it is struck."""
        known = self._styles.get(index)
        if known is None:
            xf = self._book.xf_list[index]
            font = self._book.font_list[xf.font_index]
            named = self._book.format_map.get(xf.format_key)
            code = (named.format_str if named is not None else None) or GENERAL
            if xf.format_key in _LOCAL_FORMATS or (xf.format_key < _BUILT_IN_LIMIT and named is None):
                code = built_in_format(xf.format_key, japanese=self._japanese)
            shaded = xf.background.fill_pattern == 1 and xf.background.pattern_colour_index != _WHITE_INDEX
            code = GENERAL if code.lower() == "general" else code
            known = self._styles[index] = (code, bool(font.bold) or shaded, bool(font.struck_out))
        return known


def _guarded(call: Callable[[], Any]) -> Any:
    import xlrd
    from xlrd.compdoc import CompDocError

    try:
        return call()
    except (CompDocError, *_DAMAGED) as error:
        raise xlrd.XLRDError(f"the file is damaged: {error}") from error


class _Silent:
    """xlrd writes what it wonders about to a log file."""

    def write(self, _text: str) -> None:
        """Drop it."""

    def flush(self) -> None:
        """Nothing is kept."""
