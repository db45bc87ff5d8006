"""Cells with spans, and the grid they fill: every place that a cell covers holds that same cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.errors import ExtractionFailed

MAX_SPAN_COLUMNS = 1_000
"""As HTML limits it."""
MAX_PLACES = 20_000_000


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell as its format gives it; spans count itself.

    header: the format marks it as one (`th`, a header row). strong: it stands out (bold, shaded), which is a hint.
    """

    text: str = ""
    rows: int = 1
    columns: int = 1
    header: bool = False
    strong: bool = False


Row = list[Cell | None]
"""A row of a filled grid. None: no cell, or an empty one. A cell that spans stands in every place that it covers."""


def fill_grid(rows: Sequence[Sequence[Cell]]) -> list[Row]:
    """Rows as in HTML (each holding only the cells that begin in it) to rows of equal width with spans filled.

    Raises:
        ExtractionFailed: `text_too_long`, more than `MAX_PLACES` places.
    """
    grid: list[Row] = [[] for _ in rows]
    places = 0
    reaching: dict[int, tuple[int, Cell]] = {}  # column -> (last row, cell) of what hangs down from above
    for at, row in enumerate(rows):
        out = grid[at]
        for cell in row:
            _take_reaching(out, reaching, at)
            placed = _bounded(tidy(cell), len(rows) - at)
            for _ in range(placed.columns):
                if placed.rows > 1:
                    reaching[len(out)] = (at + placed.rows - 1, placed)
                out.append(placed if placed.text else None)
            if len(out) > MAX_PLACES:
                break
        _take_reaching(out, reaching, at, to_end=True)
        reaching = {column: item for column, item in reaching.items() if item[0] > at}
        places += len(out)
        if places > MAX_PLACES:
            raise ExtractionFailed(
                f"a table has more than {MAX_PLACES} cells; split the document", code="text_too_long"
            )
    width = max(map(len, grid), default=0)
    if width * len(grid) > MAX_PLACES:
        raise ExtractionFailed(f"a table has more than {MAX_PLACES} cells; split the document", code="text_too_long")
    for out in grid:
        out.extend([None] * (width - len(out)))
    return grid


def origins(row: Row) -> list[tuple[int, Cell]]:
    """Column and cell of each cell of the row, once however many columns it covers."""
    found: list[tuple[int, Cell]] = []
    last: Cell | None = None
    for at, cell in enumerate(row):
        if cell is not None and not (cell is last and cell.columns > 1):
            found.append((at, cell))
        last = cell
    return found


def filled(row: Row) -> list[Cell]:
    """The cells of the row, each once."""
    return [cell for _, cell in origins(row)]


def _take_reaching(out: Row, reaching: dict[int, tuple[int, Cell]], at: int, *, to_end: bool = False) -> None:
    last = max(reaching, default=-1) if to_end else -1
    while True:
        item = reaching.get(len(out))
        if item is not None and item[0] >= at:
            out.append(item[1] if item[1].text else None)
        elif len(out) <= last:
            out.append(None)
        else:
            return


def tidy(cell: Cell) -> Cell:
    """The cell with its text on one line."""
    text = " ".join(cell.text.split())
    return cell if text == cell.text else replace(cell, text=text)


def _bounded(cell: Cell, rows_left: int) -> Cell:
    rows, columns = max(1, min(cell.rows, rows_left)), max(1, min(cell.columns, MAX_SPAN_COLUMNS))
    return cell if (rows, columns) == (cell.rows, cell.columns) else replace(cell, rows=rows, columns=columns)
