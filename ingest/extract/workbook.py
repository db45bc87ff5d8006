"""Workbooks: XLSX and XLSM, XLS and ODS by readers that know what their cells show, XLSB and damaged ones by calamine.

Each sheet is a heading and a page.
"""

from __future__ import annotations

import datetime as dt
import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

from core.errors import ExtractionFailed
from core.types import BlockKind, ExtractedDocument
from ingest.extract.builder import TextBuilder
from ingest.extract.cells import Cell
from ingest.extract.container import open_container, refuse_doctypes
from ingest.extract.number_format import format_general
from ingest.extract.ods import OdsReader
from ingest.extract.sheet import Sheet, write_sheet
from ingest.extract.xls import XlsReader
from ingest.extract.xlsx import XlsxReader

_XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_ODS = "application/vnd.oasis.opendocument.spreadsheet"
_XLS = "application/vnd.ms-excel"
_MAX_CELLS = 20_000_000
"""calamine holds a sheet whole: 24 bytes a cell, whether filled or not."""


def extract_workbook(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a workbook.

    `quality` counts `formula_without_value` (shown as the formula), `hidden_sheets`, `hidden_rows`, `hidden_columns`
    (marked in the text), `comments` and `struck_left_out` (characters).

    Raises:
        ExtractionFailed: `broken_document`, `encrypted_document`, `zip_bomb`, `unsafe_xml`, `text_too_long`.
    """
    facts: Counter[str] = Counter()
    if not data.startswith(b"PK"):
        sheets = _from_xls(data, max_chars, facts)
        if sheets is not None:
            return _write(iter(sheets), facts, _XLS, "xlrd", max_chars)
        return _write(_from_calamine(data), facts, _XLS, "calamine", max_chars)
    with open_container(data, "workbook") as archive:
        refuse_doctypes(archive)
        names = set(archive.namelist())
        if "content.xml" in names:
            return _write(_from_ods(archive, max_chars, facts), facts, _ODS, "odf-xml", max_chars)
        if "xl/workbook.bin" not in names:
            return _write(_from_xlsx(archive, max_chars, facts), facts, _XLSX, "xlsx-xml", max_chars)
    return _write(_from_calamine(data), facts, _XLSX, "calamine", max_chars)


def _write(
    sheets: Iterator[tuple[str, Sheet | None]], facts: Counter[str], media_type: str, engine: str, max_chars: int
) -> ExtractedDocument:
    """Write sheets in order; None stands for one that cannot be read."""
    builder = TextBuilder(max_chars=max_chars)
    tables = 0
    names: list[str] = []
    failed: list[str] = []
    for number, (name, sheet) in enumerate(sheets, start=1):
        names.append(name)
        if sheet is None:
            builder.add(BlockKind.HEADING, name, page=number, level=1)
            failed.append(name)
        else:
            tables += write_sheet(builder, sheet, page=number)
    if failed and len(failed) == len(names):
        raise ExtractionFailed("no sheet of the workbook can be read", code="broken_document")
    return builder.build(
        media_type,
        page_count=len(names),
        title=names[0] if len(names) == 1 else None,
        quality={
            "engine": engine,
            "tables": tables,
            "sheets": len(names),
            "sheets_failed": failed,
            **{name: count for name, count in facts.items() if count},
        },
    )


def _from_xlsx(archive: zipfile.ZipFile, max_chars: int, facts: Counter[str]) -> Iterator[tuple[str, Sheet | None]]:
    from lxml import etree

    try:
        reader = XlsxReader(archive, facts, max_chars=max_chars)
    except (etree.XMLSyntaxError, KeyError) as error:
        raise ExtractionFailed(f"the workbook cannot be read: {error}", code="broken_document") from error
    for index, name in enumerate(reader.names):
        try:
            sheet = reader.sheet(index)
        except (etree.XMLSyntaxError, KeyError):
            yield name, None
            continue
        yield name, sheet


def _from_ods(archive: zipfile.ZipFile, max_chars: int, facts: Counter[str]) -> Iterator[tuple[str, Sheet | None]]:
    from lxml import etree

    try:
        for sheet in OdsReader(archive, facts, max_chars=max_chars).sheets():
            yield sheet.name, sheet
    except (etree.XMLSyntaxError, KeyError) as error:
        raise ExtractionFailed(f"the workbook cannot be read: {error}", code="broken_document") from error


def _from_xls(data: bytes, max_chars: int, facts: Counter[str]) -> list[tuple[str, Sheet | None]] | None:
    """None where xlrd cannot read the file."""
    import xlrd

    try:
        reader = XlsReader(data, facts, max_chars=max_chars)
        return [(name, reader.sheet(index)) for index, name in enumerate(reader.names)]
    except xlrd.XLRDError:
        facts.clear()
        return None


def _from_calamine(data: bytes) -> Iterator[tuple[str, Sheet | None]]:
    """Values without formats: 0.1 for a cell that shows 10%."""
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetVisibleEnum

    try:
        workbook = CalamineWorkbook.from_filelike(io.BytesIO(data))
        hidden = {item.name for item in workbook.sheets_metadata if item.visible != SheetVisibleEnum.Visible}
        for index, name in enumerate(workbook.sheet_names):
            try:
                source = workbook.get_sheet_by_index(index)
            except CalamineError:
                yield name, None
                continue
            if source.total_height * source.total_width > _MAX_CELLS:
                raise ExtractionFailed(f"sheet '{name}' spans more than {_MAX_CELLS} cells", code="text_too_long")
            rows = []
            for at, values in enumerate(source.iter_rows()):
                cells = [(column, Cell(text)) for column, value in enumerate(values) if (text := _shown(value))]
                if cells:
                    rows.append((at, cells))
            merges = {
                (top, left): (bottom - top + 1, right - left + 1)
                for (top, left), (bottom, right) in source.merged_cell_ranges or ()
            }
            yield name, Sheet(name=name, rows=rows, merges=merges, hidden=name in hidden)
    except PasswordError as error:
        raise ExtractionFailed("the workbook has a password; save it without one", code="encrypted_document") from error
    except CalamineError as error:
        raise ExtractionFailed(f"the workbook cannot be read: {error}", code="broken_document") from error


def _shown(value: Any) -> str:
    match value:
        case bool():
            return "TRUE" if value else "FALSE"
        case int() | float():
            return format_general(value)
        case dt.datetime():
            return value.isoformat(sep=" ") if value.time() != dt.time() else value.date().isoformat()
    return str(value)
