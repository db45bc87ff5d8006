"""What OCR found on a page, as lines in reading order: label and value on one line, columns one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ingest.extract.grid import Cell
from ingest.extract.ocr_rapid import RapidReading, Spot, slope_of
from ingest.extract.pdf_columns import Piece, Row, aligned_lattices
from ingest.extract.pdf_lattice import Lattice
from ingest.extract.pdf_lines import WIDE, Line
from ingest.extract.pdf_tables import PageTable

_SAME_SIZE = 0.25
"""Heights of lines that differ less from the page's median are one size: a line without tall letters is no footnote."""
_GLYPH = 0.75
"""Height of letters by that of the box around their line."""
_PROSE_CHARS = 12
_MIN_LINES = 4


@dataclass(frozen=True, slots=True)
class _Placed:
    """A spot in points, y upwards, with the slope of the page taken out."""

    text: str
    x0: float
    y0: float
    x1: float
    y1: float


def items_of(reading: RapidReading, scale: float) -> list[Line | PageTable]:
    """Lines and tables of a page in reading order. scale: points per pixel."""
    slope = slope_of(reading.spots)
    placed = [_placed(spot, slope, reading.size[1], scale) for spot in reading.spots]
    items: list[Line | PageTable] = []
    heights = [spot.y1 - spot.y0 for spot in placed]
    usual = median(heights) * _GLYPH if heights else 0.0
    for column in _columns(placed, reading.size[0] * scale):
        items += _items(_rows(column), usual)
    return items


def _placed(spot: Spot, slope: float, height: int, scale: float) -> _Placed:
    left, right = spot.corners[0], spot.corners[1]
    bottom = spot.corners[-1]
    middle = sum(y for _, y in spot.corners) / 4 - slope * sum(x for x, _ in spot.corners) / 4
    # the height across the line, not that of the box around a line that falls
    half = max(1.0, ((bottom[0] - left[0]) ** 2 + (bottom[1] - left[1]) ** 2) ** 0.5) / 2
    x0, x1 = min(left[0], bottom[0]), max(right[0], spot.corners[2][0])
    return _Placed(
        spot.text, x0 * scale, (height - middle - half) * scale, x1 * scale, (height - middle + half) * scale
    )


def _columns(spots: list[_Placed], width: float) -> list[list[_Placed]]:
    """Spots by column where the page has two of running text, from left to right; else all of them."""
    narrow = sorted((spot for spot in spots if spot.x1 - spot.x0 < 0.6 * width), key=lambda spot: spot.x0)
    reach = 0.0
    for at, spot in enumerate(narrow):
        left, right = narrow[:at], narrow[at:]
        if at and spot.x0 - reach > 0.015 * width and _is_prose(left) and _is_prose(right):
            top = max(spot.y1 for spot in narrow)
            wide = [spot for spot in spots if spot not in narrow]
            above = [spot for spot in wide if spot.y0 > top - 1]
            below = [spot for spot in wide if spot.y0 <= top - 1]
            return [part for part in (above, left, right, below) if part]
        reach = max(reach, spot.x1)
    return [spots] if spots else []


def _is_prose(spots: Sequence[_Placed]) -> bool:
    return len(spots) >= _MIN_LINES and median(len(spot.text) for spot in spots) >= _PROSE_CHARS


def _rows(spots: Sequence[_Placed]) -> list[Row]:
    """Spots side by side as rows, from the top."""
    rows: list[list[_Placed]] = []
    for spot in sorted(spots, key=lambda spot: -(spot.y0 + spot.y1)):
        last = rows[-1] if rows else None
        if last and _overlap(last, spot) > 0.5:
            last.append(spot)
        else:
            rows.append([spot])
    return [_row(sorted(row, key=lambda spot: spot.x0)) for row in rows]


def _overlap(row: Sequence[_Placed], spot: _Placed) -> float:
    y0, y1 = median(other.y0 for other in row), median(other.y1 for other in row)
    return (min(y1, spot.y1) - max(y0, spot.y0)) / max(0.1, min(y1 - y0, spot.y1 - spot.y0))


def _row(spots: Sequence[_Placed]) -> Row:
    """A row of pieces; spots that nearly touch are one."""
    pieces: list[Piece] = []
    for spot in spots:
        size = spot.y1 - spot.y0
        last = pieces[-1] if pieces else None
        if last is not None and spot.x0 - last.x1 < 0.6 * size:
            pieces[-1] = Piece(0, 0, last.x0, max(last.x1, spot.x1), beside(last.text, spot.text))
        else:
            pieces.append(Piece(0, 0, spot.x0, spot.x1, spot.text))
    return Row(tuple(pieces), median(spot.y0 for spot in spots), median(spot.y1 for spot in spots))


def _items(rows: Sequence[Row], usual: float) -> list[Line | PageTable]:
    grids = aligned_lattices(rows)
    items: list[Line | PageTable] = []
    written: set[int] = set()
    for row in rows:
        middle = (row.y0 + row.y1) / 2
        at = next((at for at, grid in enumerate(grids) if grid.ys[-1] < middle < grid.ys[0]), None)
        if at is None:
            items.append(_line(row, usual))
        elif at not in written:
            written.add(at)
            items.append(_table(grids[at], rows, usual))
    return items


def _line(row: Row, usual: float) -> Line:
    text = row.pieces[0].text
    for piece in row.pieces[1:]:
        text = f"{text} {piece.text}"
    size = row.size * _GLYPH
    size = usual if abs(size - usual) <= _SAME_SIZE * usual else size
    return Line(text, row.pieces[0].x0, row.y0, row.pieces[-1].x1, row.y1, size)


def _table(grid: Lattice, rows: Sequence[Row], usual: float) -> PageTable:
    cells = [["" for _ in grid.xs[1:]] for _ in grid.ys[1:]]
    for row in rows:
        for piece in row.pieces:
            span = grid.cell_at((piece.x0 + piece.x1) / 2, (row.y0 + row.y1) / 2)
            if span is not None:
                cells[span.row][span.column] = beside(cells[span.row][span.column], piece.text)
    return PageTable(tuple(tuple(Cell(text) for text in row) for row in cells), grid.xs, grid.box, 0, usual)


def beside(text: str, word: str) -> str:
    """A line and its next word. Japanese words, and even letters, come parted, and are written together."""
    if not text or WIDE.match(text[-1]) or WIDE.match(word[0]):
        return text + word
    return f"{text} {word}"
