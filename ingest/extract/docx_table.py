"""Tables of a DOCX as cells with their true spans: `w:gridSpan` across, `w:vMerge` down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ingest.extract.docx_styles import W, small_int, toggle, value_of
from ingest.extract.grid import Cell

_MAX_COLUMNS = 1_000
_WRAPPERS = frozenset({W + "sdt", W + "sdtContent", W + "customXml", W + "ins", W + "moveTo", W + "smartTag"})


def is_layout(table: Any) -> bool:
    """Whether a table only places text: one cell in every row, or tables of several columns inside it."""
    if all(sum(1 for _ in children(row, W + "tc")) <= 1 for row in children(table, W + "tr")):
        return True
    inner = (item for item in table.iter(W + "tbl") if item is not table)
    return any(sum(1 for _ in children(row, W + "tc")) > 1 for item in inner for row in children(item, W + "tr"))


def table_cells(table: Any, text_of: Callable[[Any], str]) -> list[list[Cell]]:
    """Rows of cells, each in the row that it begins in. text_of: the text of a `w:tc`."""
    rows: list[list[Cell]] = []
    open_cells: dict[int, tuple[int, int]] = {}  # column to the place of the cell that may reach down from there
    for row in children(table, W + "tr"):
        properties = row.find(W + "trPr")
        if properties is not None and (properties.find(W + "del") is not None or toggle(properties, "hidden")):
            continue
        header = bool(toggle(properties, "tblHeader"))
        cells: list[Cell] = []
        reached: dict[int, tuple[int, int]] = {}
        column = _skipped(properties, "gridBefore", cells)
        for cell in children(row, W + "tc"):
            if column >= _MAX_COLUMNS:
                break
            width = max(1, small_int(value_of(cell, f"{W}tcPr/{W}gridSpan"), 1, most=_MAX_COLUMNS))
            merge = cell.find(f"{W}tcPr/{W}vMerge")
            text = text_of(cell)
            above = open_cells.get(column) if merge is not None and merge.get(W + "val") != "restart" else None
            if above is not None:
                begun, at = above
                upper = rows[begun][at]
                rows[begun][at] = replace(
                    upper, rows=upper.rows + 1, text=f"{upper.text}\n{text}".strip() if text else upper.text
                )
                reached[column] = above
            else:
                cells.append(Cell(text, columns=width, header=header, strong=bool(text) and _is_strong(cell)))
                if merge is not None:
                    reached[column] = (len(rows), len(cells) - 1)
            column += width
        _skipped(properties, "gridAfter", cells)
        open_cells = reached
        rows.append(cells)
    return rows


def _is_strong(cell: Any) -> bool:
    """Whether a cell stands out: shaded, or bold throughout."""
    shading = cell.find(f"{W}tcPr/{W}shd")
    fill = (shading.get(W + "fill") or "auto").lower() if shading is not None else "auto"
    if fill not in {"auto", "ffffff"}:
        return True
    runs = [run for run in cell.iter(W + "r") if any((item.text or "").strip() for item in run.iter(W + "t"))]
    return bool(runs) and all(toggle(run.find(W + "rPr"), "b") for run in runs)


def _skipped(properties: Any, name: str, cells: list[Cell]) -> int:
    """Columns of the grid that a row leaves free at one end."""
    count = small_int(value_of(properties, W + name), 0, most=_MAX_COLUMNS) if properties is not None else 0
    if count:
        cells.append(Cell(columns=count))
    return count


def children(element: Any, tag: str) -> Iterator[Any]:
    """Children of one kind, those inside content controls and kept insertions included; none of their own inside."""
    stack = list(reversed(element))
    while stack:
        child = stack.pop()
        if child.tag == tag:
            yield child
        elif child.tag in _WRAPPERS:
            stack.extend(reversed(child))
