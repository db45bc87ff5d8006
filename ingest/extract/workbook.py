"""XLSX, XLSM, XLSB, XLS and ODS through calamine, which reads a shared-strings bomb of 3 GiB in openpyxl within limits.

Each sheet is a heading and a page. Numbers come as stored: 0.1 for a cell that shows 10%.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterator
from typing import Any

from core.errors import ExtractionFailed
from core.types import BlockKind, ExtractedDocument
from ingest.extract.builder import TextBuilder
from ingest.extract.container import open_container, refuse_doctypes
from ingest.extract.tables import add_rows

_XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_MAX_CELLS = 20_000_000
"""A sheet is held whole: 24 bytes a cell, whether filled or not."""


def extract_workbook(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a workbook.

    Raises:
        ExtractionFailed: `broken_document`, `encrypted_document`, `zip_bomb`, `unsafe_xml`, `text_too_long`.
    """
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError

    zipped = data.startswith(b"PK")
    if zipped:
        with open_container(data, "workbook") as archive:
            refuse_doctypes(archive)
    builder = TextBuilder(max_chars=max_chars)
    tables = 0
    failed: list[str] = []
    try:
        workbook = CalamineWorkbook.from_filelike(io.BytesIO(data))
        names = list(workbook.sheet_names)
        for number, name in enumerate(names, start=1):
            builder.add(BlockKind.HEADING, name, page=number, level=1)
            try:
                sheet = workbook.get_sheet_by_index(number - 1)
            except CalamineError:
                failed.append(name)
                continue
            if sheet.total_height * sheet.total_width > _MAX_CELLS:
                raise ExtractionFailed(f"sheet '{name}' spans more than {_MAX_CELLS} cells", code="text_too_long")
            tables += add_rows(builder, _rows(sheet), page=number)
    except PasswordError as error:
        raise ExtractionFailed("the workbook has a password; save it without one", code="encrypted_document") from error
    except CalamineError as error:
        raise ExtractionFailed(f"the workbook cannot be read: {error}", code="broken_document") from error
    if failed and len(failed) == len(names):
        raise ExtractionFailed("no sheet of the workbook can be read", code="broken_document")
    return builder.build(
        _XLSX if zipped else "application/vnd.ms-excel",
        page_count=len(names),
        title=names[0] if len(names) == 1 else None,
        quality={"engine": "calamine", "tables": tables, "sheets": len(names), "sheets_failed": failed},
    )


def _rows(sheet: Any) -> Iterator[list[str]]:
    for row in sheet.iter_rows():
        yield [_shown(cell) for cell in row]


def _shown(cell: Any) -> str:
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    if isinstance(cell, float):
        return f"{cell:.12g}"
    if isinstance(cell, dt.datetime):
        return cell.isoformat(sep=" ") if cell.time() != dt.time() else cell.date().isoformat()
    return str(cell)
