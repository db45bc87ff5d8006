"""Tables without upright lines: columns from the white space that runs through consecutive rows.

Only rows that the content stream writes as rows are taken: columns of prose are written one after the other, so they do
not look like a table even where they stand side by side.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from ingest.extract.pdf_lattice import Lattice, plain_lattice
from ingest.extract.pdf_page import Box

_GAP = 0.95
"""White space between cells, in sizes of the letters; a space between words is 0.25 to 0.6."""
_MIN_ROWS = 3
_ALIGNED = 0.7
"""Share of a column's cells that must share an edge or their middle."""
_FULL = 0.8
_PROSE_CHARS = 14
_MARK = re.compile(r"[(（\[]?[0-9０-９A-Za-zア-ン一二三四五六七八九十]{1,3}[)）\].．、:：]?|[①-⑳㋐-㋾•●○◦▪■□◆・※✓–\-*]")


@dataclass(frozen=True, slots=True)
class Piece:
    """Characters without a wide gap: range in the page's characters, and where they stand."""

    start: int
    end: int
    x0: float
    x1: float
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the page as pieces from left to right."""

    pieces: tuple[Piece, ...]
    y0: float
    y1: float

    @property
    def size(self) -> float:
        """Height of its letters."""
        return max(1.0, self.y1 - self.y0)


def row_of(chars: Sequence[str], boxes: Sequence[Box], start: int, end: int) -> Row | None:
    """A range of characters as a row; None where it holds no text, or is not written from left to right."""
    pieces: list[Piece] = []
    at = start
    last: int | None = None
    y0, y1 = float("inf"), float("-inf")
    heights: list[float] = []
    for place in range(start, end):
        if not chars[place].strip():
            continue
        x0, low, _, high = boxes[place]
        if last is not None:
            gap = x0 - boxes[last][2]
            if gap < -2 * (high - low):
                return None
            if gap > _GAP * max(1.0, min(high - low, boxes[last][3] - boxes[last][1])):
                pieces.append(_piece(chars, boxes, at, last + 1))
                at = place
        else:
            at = place
        last = place
        heights.append(high - low)
        y0, y1 = min(y0, low), max(y1, high)
    if last is None or y1 - y0 > 2.2 * max(1.0, median(heights)):
        return None
    return Row((*pieces, _piece(chars, boxes, at, last + 1)), y0, y1)


def aligned_lattices(rows: Sequence[Row]) -> list[Lattice]:
    """Grids that consecutive rows make. rows: in the order of the content stream."""
    found: list[Lattice] = []
    block: list[Row] = []
    for row in [*rows, None]:
        if row is not None and block and _follows(block[-1], row) and (len(row.pieces) > 1 or _hangs(row, block)):
            block.append(row)
            continue
        grid = _grid(block)
        if grid is not None:
            found.append(grid)
        block = [row] if row is not None and len(row.pieces) > 1 else []
    return found


def columns_in(rows: Sequence[Row]) -> list[float] | None:
    """Borders of the columns that most rows agree on; None where there are none."""
    split = [row for row in rows if len(row.pieces) > 1]
    if not split:
        return None
    counts = Counter(len(row.pieces) for row in split)
    wanted = max(counts, key=lambda count: (counts[count], count))
    usual = [row for row in split if len(row.pieces) == wanted]
    spans = [(min(row.pieces[at].x0 for row in usual), max(row.pieces[at].x1 for row in usual)) for at in range(wanted)]
    if any(left[1] > right[0] for left, right in pairwise(spans)):
        return None
    for piece in (piece for row in rows for piece in row.pieces):
        # the first line of a cell may be its shortest one: lines below it say how far its column reaches
        near = [at for at, (x0, x1) in enumerate(spans) if piece.x0 < x1 and piece.x1 > x0]
        if len(near) == 1:
            (at,) = near
            spans[at] = (min(spans[at][0], piece.x0), max(spans[at][1], piece.x1))
    if any(left[1] > right[0] for left, right in pairwise(spans)):
        return None
    inner = [(left[1] + right[0]) / 2 for left, right in pairwise(spans)]
    edges = [piece for row in rows for piece in row.pieces]
    return [min(piece.x0 for piece in edges) - 1, *inner, max(piece.x1 for piece in edges) + 1]


def _grid(block: list[Row]) -> Lattice | None:
    while block and len(block[-1].pieces) == 1 and not _wraps(block[-1], block):
        block = block[:-1]
    split = [row for row in block if len(row.pieces) > 1]
    xs = columns_in(block)
    if xs is None or len(split) < _MIN_ROWS or not _is_table(split, xs):
        return None
    heads = [row for at, row in enumerate(block) if not (at and len(row.pieces) == 1 and _wraps(row, block[:at]))]
    tops = [heads[0].y1 + 1]
    for row in heads[1:]:
        above = block[block.index(row) - 1]
        tops.append((above.y0 + row.y1) / 2)
    bottom = min(row.y0 for row in block) - 1
    if any(lower >= upper for upper, lower in zip(tops, [*tops[1:], bottom], strict=False)):
        return None
    return plain_lattice(xs, [*tops, bottom])


def _is_table(split: Sequence[Row], xs: Sequence[float]) -> bool:
    """Whether columns line up, and hold entries rather than running text or the marks of a list."""
    size = median(row.size for row in split)
    prose = lined = 0
    columns: list[list[Piece]] = [[] for _ in range(len(xs) - 1)]
    for row in split:
        for piece in row.pieces:
            middle = (piece.x0 + piece.x1) / 2
            columns[min(max(sum(x <= middle for x in xs) - 1, 0), len(columns) - 1)].append(piece)
    for pieces in columns:
        if not pieces:
            return False
        edges = ([p.x0 for p in pieces], [p.x1 for p in pieces], [(p.x0 + p.x1) / 2 for p in pieces])
        lined += any(_share_near(places, 0.6 * size) >= _ALIGNED for places in edges)
        width = max(piece.x1 for piece in pieces) - min(piece.x0 for piece in pieces)
        full = sum(piece.x1 - piece.x0 > _FULL * width for piece in pieces)
        prose += 2 * full > len(pieces) and median(len(piece.text) for piece in pieces) >= _PROSE_CHARS
    marks = sum(bool(_MARK.fullmatch(piece.text)) for piece in columns[0])
    return lined == len(columns) and prose < 2 and (len(columns) > 2 or 2 * marks < len(columns[0]))


def _share_near(places: Sequence[float], slack: float) -> float:
    middle = median(places)
    return sum(abs(place - middle) <= slack for place in places) / len(places)


def _follows(above: Row, below: Row) -> bool:
    """Whether a row stands under another one, near, in letters of about the same size."""
    size = max(above.size, below.size)
    return -0.3 * size <= above.y0 - below.y1 <= 2.2 * size and min(above.size, below.size) > 0.7 * size


def _hangs(row: Row, block: Sequence[Row]) -> bool:
    """Whether a row of one piece is the rest of a cell above it."""
    return any(len(above.pieces) > 1 for above in block) and _wraps(row, block)


def _wraps(row: Row, block: Sequence[Row]) -> bool:
    """Whether a single piece stands under a cell that is not the first of its row, at the distance of lines."""
    piece = row.pieces[0]
    above = next((other for other in reversed(block) if other is not row and len(other.pieces) > 1), None)
    if above is None or any(other is not row and other.y0 < row.y1 - 0.5 * row.size for other in block):
        return False
    nearest = min(other.y0 for other in block if other is not row)
    return nearest - row.y1 < 0.7 * row.size and any(abs(piece.x0 - other.x0) < row.size for other in above.pieces[1:])


def _piece(chars: Sequence[str], boxes: Sequence[Box], start: int, end: int) -> Piece:
    return Piece(start, end, boxes[start][0], boxes[end - 1][2], "".join(chars[start:end]).strip())
