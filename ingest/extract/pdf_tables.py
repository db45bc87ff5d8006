"""What stands on a PDF page: its lines, and its tables as cells.

Characters are looked at one by one only on pages that show signs of a table: ruling lines, or pieces of text that stand
apart in one row.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from ingest.extract.grid import Cell
from ingest.extract.pdf_columns import Row, aligned_lattices, columns_in, row_of
from ingest.extract.pdf_lattice import Lattice, Span, bands_of, lattices_of, plain_lattice
from ingest.extract.pdf_lines import WIDE, Line, joined
from ingest.extract.pdf_page import Box, PageText
from ingest.extract.pdf_rules import Rules, rules_of

_APART = re.compile(r"\S[ \t\u3000]{2,16}\S")
_SIGNS = 3
"""Rows with pieces apart from which a page may hold a table without lines."""
_NEAR = 3.5
"""Heights of letters between such rows at most."""
_MAX_CHARS = 60_000
"""A page of more characters is read as lines: it is a listing, not a table."""
_BOX_CHARS = 250
"""Where half of the cells hold more than this, they are text side by side, not a table."""
_PROSE_CHARS = 18
"""Lines of a cell, so long and full, are one text that goes on, not entries one below the other."""
_MAX_CELL_CHARS = 3_000
"""A box with more text than that is a frame around a page."""


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table of one page. rows: cells that begin in each row. heads: leading rows that the page marks as headers."""

    rows: tuple[tuple[Cell, ...], ...]
    xs: tuple[float, ...]
    box: Box
    heads: int = 0
    size: float = 0.0
    """Height of its letters."""

    @property
    def length(self) -> int:
        """Characters in its cells."""
        return sum(len(cell.text) for row in self.rows for cell in row)


def page_items(page: Any, text: PageText) -> list[Line | PageTable]:
    """Lines and tables of a page in the order of its content stream; a table stands where its first character does."""
    runs = list(text.runs())
    rules = rules_of(page, text.frame)
    grids = lattices_of(rules)
    stacks = bands_of(rules, grids)
    apart = _stands_apart(text, runs)
    if len(text.chars) > _MAX_CHARS or not (grids or stacks or apart):
        return [line for start, end in runs if (line := text.line(start, end)) is not None]
    boxes = text.boxes()
    owner: dict[int, int] = {}
    tables: list[PageTable] = []
    for grid in grids:
        _claim(grid, text, boxes, rules, owner, tables)
    if stacks:
        rows = _rows(text, boxes, runs, owner)
        for stack in stacks:
            banded = _banded(stack, rows)
            if banded is not None:
                _claim(banded, text, boxes, rules, owner, tables)
    if apart:
        for grid in aligned_lattices(_rows(text, boxes, runs, owner)):
            _claim(grid, text, boxes, rules, owner, tables)
    return _in_order(text, runs, owner, tables)


def _banded(stack: tuple[float, float, list[float]], rows: Sequence[Row]) -> Lattice | None:
    """The grid of level lines and of the columns that the words between them stand in."""
    left, right, heights = stack
    inside = [
        row
        for row in rows
        if heights[-1] < (row.y0 + row.y1) / 2 < heights[0]
        and left - 3 <= row.pieces[0].x0
        and row.pieces[-1].x1 <= right + 3
    ]
    xs = columns_in(inside)
    if xs is None or len(xs) < 3:
        return None
    return plain_lattice([min(left, xs[0]), *xs[1:-1], max(right, xs[-1])], heights)


def _in_order(
    text: PageText, runs: Sequence[tuple[int, int]], owner: dict[int, int], tables: Sequence[PageTable]
) -> list[Line | PageTable]:
    items: list[Line | PageTable] = []
    written: set[int] = set()
    for start, end in runs:
        for part_start, part_end, table in _parts(text.chars, owner, start, end):
            if table is None:
                line = text.line(*text.trimmed(part_start, part_end))
                if line is not None:
                    items.append(line)
            elif table not in written:
                written.add(table)
                items.append(tables[table])
    return items


def _parts(chars: Sequence[str], owner: dict[int, int], start: int, end: int) -> list[tuple[int, int, int | None]]:
    """A run cut where it enters or leaves a table; white space goes with what is before it."""
    parts: list[tuple[int, int, int | None]] = []
    begin, current = start, owner.get(start)
    for at in range(start, end):
        if chars[at].strip() and owner.get(at) != current:
            parts.append((begin, at, current))
            begin, current = at, owner.get(at)
    return [*parts, (begin, end, current)]


def _stands_apart(text: PageText, runs: Sequence[tuple[int, int]]) -> bool:
    """Whether rows near each other hold pieces with wide space between them."""
    if sum(bool(_APART.search("".join(text.chars[start:end]))) for start, end in runs) >= _SIGNS:
        return True
    found = 0
    above: Box | None = None
    for before, after in pairwise(text.pieces()):
        height = max(1.0, min(before[3] - before[1], after[3] - after[1]))
        same_row = min(before[3], after[3]) - max(before[1], after[1]) > 0.6 * height
        if not same_row or after[0] - before[2] <= 0.9 * height:
            continue
        down = above[1] - before[1] if above is not None else 0.0
        if above is not None and abs(down) < 0.5 * height:
            continue  # the same row
        found = found + 1 if 0 < down <= _NEAR * height else 1
        above = before
        if found >= _SIGNS:
            return True
    return False


def _rows(text: PageText, boxes: Sequence[Box], runs: Sequence[tuple[int, int]], owner: dict[int, int]) -> list[Row]:
    rows = []
    for start, end in runs:
        if not any(at in owner for at in range(start, end)):
            row = row_of(text.chars, boxes, start, end)
            if row is not None:
                rows.append(row)
    return rows


def _claim(
    grid: Lattice,
    text: PageText,
    boxes: Sequence[Box],
    rules: Rules,
    owner: dict[int, int],
    tables: list[PageTable],
) -> None:
    """Make a table of a grid and take its characters, where what stands in it looks like one."""
    members: dict[Span, list[int]] = defaultdict(list)
    for at, (x0, y0, x1, y1) in enumerate(boxes):
        if at not in owner and text.chars[at].strip():
            span = grid.cell_at((x0 + x1) / 2, (y0 + y1) / 2)
            if span is not None:
                members[span].append(at)
    lengths = [len(places) for places in members.values()]
    if len({span.column for span in members}) < 2 or max(lengths) > _MAX_CELL_CHARS or median(lengths) > _BOX_CHARS:
        return
    spans_of: list[list[Span]] = [[] for _ in range(len(grid.ys) - 1)]
    for span in sorted(set(grid.cells.values()), key=_column):
        spans_of[span.row].append(span)
    marked = [_is_marked(grid, spans, members, text, rules) for spans in spans_of]
    heads = next((at for at, mark in enumerate(marked) if not mark), len(marked))
    rows: list[tuple[Cell, ...]] = []
    for row, spans in enumerate(spans_of):
        rows += _cells(grid, spans, members, text, boxes, header=row < heads < len(marked))
    texts = [row for row in rows if any(cell.text for cell in row)]
    if len(texts) < 2:
        return
    for places in members.values():
        owner.update(dict.fromkeys(places, len(tables)))
    size = median(boxes[at][3] - boxes[at][1] for places in members.values() for at in places)
    tables.append(PageTable(tuple(rows), grid.xs, grid.box, heads if heads < len(marked) else 0, size))


def _column(span: Span) -> int:
    return span.column


def _cells(
    grid: Lattice,
    spans: Sequence[Span],
    members: dict[Span, list[int]],
    text: PageText,
    boxes: Sequence[Box],
    *,
    header: bool,
) -> list[tuple[Cell, ...]]:
    """Cells of one row of the grid, which may hold several rows of the table where no lines part them."""
    lines = {span: _lines_in(members.get(span, []), text, boxes) for span in spans}
    apart = _rows_apart(spans, lines)
    if apart is not None:
        return [
            tuple(
                Cell(_in_cell(part, grid.borders(span)), header=header) for span, part in zip(spans, row, strict=True)
            )
            for row in apart
        ]
    return [
        tuple(
            Cell(_in_cell(lines[span], grid.borders(span)), rows=span.rows, columns=span.columns, header=header)
            for span in spans
        )
    ]


@dataclass(frozen=True, slots=True)
class _CellLine:
    text: str
    x1: float
    y: float
    size: float


def _rows_apart(spans: Sequence[Span], lines: dict[Span, list[_CellLine]]) -> list[list[list[_CellLine]]] | None:
    """Lines of a row's cells as rows of their own, where nearly every cell has a line at the height of each."""
    if len(spans) < 2 or any(span.rows > 1 or span.columns > 1 for span in spans):
        return None
    if any(_is_prose(lines[span]) for span in spans):
        return None
    heights: list[float] = []
    for line in sorted((line for span in spans for line in lines[span]), key=lambda line: -line.y):
        if not heights or heights[-1] - line.y > 0.5 * line.size:
            heights.append(line.y)
    if len(heights) < 3:
        return None
    rows: list[list[list[_CellLine]]] = [[[] for _ in spans] for _ in heights]
    for column, span in enumerate(spans):
        for line in lines[span]:
            rows[min(range(len(heights)), key=lambda at: abs(heights[at] - line.y))][column].append(line)
    count = sum(bool(cell) for row in rows for cell in row)
    return rows if count >= 0.8 * len(heights) * len(spans) else None


def _is_prose(lines: Sequence[_CellLine]) -> bool:
    """Whether lines of a cell are running text: long, and most of them full."""
    if not lines:
        return False
    edge = max(line.x1 for line in lines)
    full = sum(edge - line.x1 < 4 * line.size for line in lines)
    return median(len(line.text) for line in lines) >= _PROSE_CHARS and 2 * full > len(lines)


def _lines_in(places: Sequence[int], text: PageText, boxes: Sequence[Box]) -> list[_CellLine]:
    """Characters of a cell as lines, from the top."""
    lines: list[_CellLine] = []
    current: list[int] = []
    for at in [*places, -1]:
        if current and (at < 0 or not _same_line(boxes[current[-1]], boxes[at])):
            x1 = max(boxes[place][2] for place in current)
            _, y0, _, y1 = boxes[current[0]]
            lines.append(_CellLine(_spelled(current, text, boxes), x1, (y0 + y1) / 2, max(1.0, y1 - y0)))
            current = []
        current.append(at)
    return sorted(lines, key=lambda line: -line.y)


def _same_line(before: Box, after: Box) -> bool:
    overlap = min(before[3], after[3]) - max(before[1], after[1])
    return overlap > 0.4 * min(before[3] - before[1], after[3] - after[1])


def _spelled(places: Sequence[int], text: PageText, boxes: Sequence[Box]) -> str:
    """The text of a line, with a space where the page has one."""
    parts = [text.shown(places[0], places[0] + 1)]
    for before, at in pairwise(places):
        spaced = any(not char.strip() and char for char in text.chars[before + 1 : at])
        wide = boxes[at][0] - boxes[before][2] > 0.25 * (boxes[at][3] - boxes[at][1])
        if spaced or (at != before + 1 and wide):
            parts.append(" ")
        parts.append(text.shown(at, at + 1))
    return "".join(parts)


def _in_cell(lines: Sequence[_CellLine], borders: Box) -> str:
    """Lines of a cell as text: a line that reached the border goes on in the next one."""
    if all(len(line.text) == 1 for line in lines):
        return "".join(line.text for line in lines)  # a label in vertical letters
    text = ""
    for at, line in enumerate(lines):
        before = lines[at - 1] if at else None
        if before is None:
            text = line.text
        elif before.x1 > borders[2] - 2.5 * before.size - 6 or not WIDE.search(before.text[-1:] + line.text[:1]):
            text = joined(text, line.text)
        else:
            text = f"{text}\n{line.text}"
    return text


def _is_marked(
    grid: Lattice, spans: Sequence[Span], members: dict[Span, list[int]], text: PageText, rules: Rules
) -> bool:
    """Whether every cell that begins in a row is bold or shaded; so is a row that only goes on with those above."""
    filled = [span for span in spans if members.get(span)]
    if spans and not filled:
        return False
    return all(text.is_bold(members[span][0]) or _is_shaded(grid.borders(span), rules.shaded) for span in filled)


def _is_shaded(cell: Box, shaded: Sequence[Box]) -> bool:
    x, y = (cell[0] + cell[2]) / 2, (cell[1] + cell[3]) / 2
    return any(box[0] < x < box[2] and box[1] < y < box[3] for box in shaded)
