"""CSV and TSV. The delimiter is judged on the first lines; a file without one is a table of one column."""

from __future__ import annotations

import csv
import io

from core.errors import ExtractionFailed
from core.types import ExtractedDocument
from ingest.encoding import decode_text
from ingest.extract.builder import TextBuilder
from ingest.extract.cells import Cell
from ingest.extract.sheet import Sheet, write_sheet

_DELIMITERS = ",;\t|"
_SAMPLE_LINES = 50


def extract_csv(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a CSV or TSV file.

    Raises:
        ExtractionFailed: `broken_document` (a field without end), `unknown_encoding`, `text_too_long`.
    """
    decoded = decode_text(data)
    builder = TextBuilder(max_chars=max_chars)
    csv.field_size_limit(max_chars)
    told, text = _told_delimiter(decoded.text)
    delimiter = told or _delimiter(text)
    sheet = Sheet()
    rows = 0
    try:
        for at, row in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)):
            rows = at + 1
            cells = [(column, Cell(text)) for column, value in enumerate(row) if (text := " ".join(value.split()))]
            if cells:
                sheet.rows.append((at, cells))
    except csv.Error as error:
        raise ExtractionFailed(f"the CSV cannot be read: {error}", code="broken_document") from error
    tables = write_sheet(builder, sheet)
    return builder.build(
        "text/csv",
        encoding=decoded.encoding,
        quality={"engine": "csv", "delimiter": delimiter, "rows": rows, "tables": tables},
    )


def _told_delimiter(text: str) -> tuple[str | None, str]:
    """The delimiter of a first line `sep=;`, as Excel writes it, and the text without that line."""
    first, _, rest = text.partition("\n")
    told = first.strip().strip('"').lower()
    return (told[4], rest) if len(told) == 5 and told.startswith("sep=") else (None, text)


def _delimiter(text: str) -> str:
    """The one that cuts most of the sampled lines into the same number of fields, at least two."""
    sample = "\n".join(text.split("\n", _SAMPLE_LINES)[:_SAMPLE_LINES])
    best, best_score = ",", 0.0
    for delimiter in _DELIMITERS:
        try:
            widths = [len(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row]
        except csv.Error:
            continue
        if not widths:
            continue
        common = max(set(widths), key=widths.count)
        score = widths.count(common) / len(widths) if common > 1 else 0.0
        if score > best_score:
            best, best_score = delimiter, score
    return best
