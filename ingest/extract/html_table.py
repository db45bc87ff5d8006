"""Tables of a page as cells with their spans, and which tables only place things."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from ingest.extract.grid import Cell

_MAX_COLUMNS = 1_000
_BACKGROUND = re.compile(r"background(?:-color)?\s{0,9}:|font-weight\s{0,9}:\s{0,9}bold", re.IGNORECASE)
_FLOW = ("h1", "h2", "h3", "form", "article", "section", "main")
_LONG_CELL_CHARS = 1_500
"""A cell with more text is a column of a page, where nothing else says that the table holds data."""


def is_data_table(table: Any) -> bool:
    """Whether a table's cells belong to rows and columns; others place parts of a page, and are read in order."""
    if (table.get("role") or "").lower() in {"presentation", "none"}:
        return False
    rows = list(table_rows(table))
    widest = max((sum(1 for _ in _cells(row)) for row in rows), default=0)
    if widest < 2 or next(table.iterdescendants(*_FLOW), None) is not None:
        return False
    marked = table.find("caption") is not None or any(cell.tag == "th" for row in rows for cell in _cells(row))
    if next(table.iterdescendants("table"), None) is not None:
        return marked and len(rows) > 1 and all(_length(inner) < 200 for inner in table.iterdescendants("table"))
    if marked or table.get("border") not in {None, "", "0"}:
        return True
    return len(rows) > 1 and all(_length(cell) < _LONG_CELL_CHARS for row in rows for cell in _cells(row))


def table_cells(table: Any, text_of: Callable[[Any], str]) -> list[list[Cell]]:
    """Rows of cells, each in the row that it begins in. text_of: the text of a `td` or `th`."""
    rows = list(table_rows(table))
    return [
        [
            Cell(
                text_of(cell),
                rows=_span(cell.get("rowspan"), len(rows) - number),
                columns=_span(cell.get("colspan"), _MAX_COLUMNS),
                header=cell.tag == "th" or row.getparent().tag == "thead",
                strong=_is_strong(cell) or row.get("bgcolor") is not None,
            )
            for cell in _cells(row)
        ]
        for number, row in enumerate(rows)
    ]


def table_rows(table: Any) -> Iterator[Any]:
    """Rows of a table itself, not of those inside it; its foot comes last, as it is shown."""
    groups = [item for item in table if item.tag in {"tr", "thead", "tbody", "tfoot"}]
    for group in sorted(groups, key=lambda item: {"thead": 0, "tfoot": 2}.get(item.tag, 1)):
        if group.tag == "tr":
            yield group
        else:
            yield from group.iterchildren("tr")


def _cells(row: Any) -> Iterator[Any]:
    return row.iterchildren("td", "th")  # type: ignore[no-any-return]


def _span(value: str | None, most: int) -> int:
    """A span as browsers take it: 0 reaches to the end, nonsense is 1."""
    value = (value or "1").strip()
    if not value.isascii() or not value.isdigit() or len(value) > 6:
        return 1
    return max(1, min(int(value) or most, most))


def _is_strong(cell: Any) -> bool:
    """Whether a cell stands out: coloured, or bold throughout."""
    if cell.get("bgcolor") is not None or _BACKGROUND.search(cell.get("style") or ""):
        return True
    bold = sum(_length(item) for item in cell.iterdescendants("b", "strong"))
    return bold > 0 and bold >= _length(cell)


def _length(element: Any) -> int:
    return sum(len(text.strip()) for text in element.itertext())
