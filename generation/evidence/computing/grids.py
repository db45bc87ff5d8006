"""Tables of a whole document as grids: rows with a cell for each column, read from the stored text and its blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

from core.table_text import read_row
from core.types import Block, BlockKind

MAX_ROWS = 5_000
"""Rows of one document that are read for a calculation; of a longer one none is."""
_AFTER_CHARS = 600
_BEFORE_CHARS = 160
_TOTAL = re.compile(r"(?:総?合[ 　]?計|総?計|grand total|totals?|sum|overall)\Z", re.IGNORECASE)
_SUBTOTAL = re.compile(r"(?:.{0,20}(?:小計|中計|合計)|sub-? ?totals?|.{1,30} (?:sub)?total)\Z", re.IGNORECASE)
_ENUMERATED = re.compile(r"(?:\d{1,4}|[①-⑳]|[ivx]{1,4})[.)]?\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class GridRow:
    """document_text[start:end] == text. cells: one for each column of the grid, None where the row has none."""

    start: int
    end: int
    page: int | None
    text: str
    cells: tuple[str | None, ...]


@dataclass(frozen=True)
class Grid:
    """A table, all its rows. columns: headers, their levels joined by ' / '."""

    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]
    heading: str
    before: str
    """Lines between the heading, or the table before it, and the table."""
    after: str
    """Lines behind it, up to the next heading or table."""

    @cached_property
    def totals(self) -> tuple[int, ...]:
        """Rows that give the sum of all others."""
        return tuple(at for at in range(len(self.rows)) if self._marked(at, _TOTAL))

    @cached_property
    def data(self) -> tuple[int, ...]:
        """Rows that are neither sums nor sums of some."""
        return tuple(
            at for at in range(len(self.rows)) if not self._marked(at, _TOTAL) and not self._marked(at, _SUBTOTAL)
        )

    def _marked(self, at: int, pattern: re.Pattern[str]) -> bool:
        cells = [cell.strip() for cell in self.rows[at].cells if cell]
        return any(pattern.match(cell) for cell in cells[:3])

    @cached_property
    def label(self) -> int | None:
        """The column that names the rows; None where no column does."""
        best: tuple[float, int] | None = None
        rows = self.data
        for column in range(min(len(self.columns), 4)):
            values = [self.rows[at].cells[column] for at in rows]
            said = [value.strip() for value in values if value and value.strip()]
            if not said or len(said) < 0.9 * len(rows) or all(_ENUMERATED.match(value) for value in said):
                continue
            share = len(set(said)) / len(rows)
            if best is None or share > best[0] + 0.05:
                best = (share, column)
        return None if best is None else best[1]


def grids_of(text: str, blocks: Sequence[Block]) -> list[Grid]:
    """Tables of a document in order; [] where there are more rows than MAX_ROWS. Forms of label and value are none."""
    found: list[Grid] = []
    path: list[tuple[int, str]] = []
    around: list[str] = []
    count = 0
    for kind, run in groupby(blocks, key=lambda block: block.kind):
        members = list(run)
        if kind is BlockKind.HEADING:
            for block in members:
                level = block.level or 1
                while path and path[-1][0] >= level:
                    path.pop()
                path.append((level, " ".join(text[block.start : block.end].split())))
            around = []
        elif kind is BlockKind.TABLE:
            heading = " > ".join(title for _, title in path)
            before = "\n".join(around)[-_BEFORE_CHARS:]
            for grid in _tables(text, members, heading, before):
                count += len(grid.rows)
                found.append(grid)
            around = []
        else:
            lines = [text[block.start : block.end] for block in members]
            around += lines
            if found and kind in {BlockKind.PARAGRAPH, BlockKind.LIST_ITEM}:
                found[-1] = _followed(found[-1], lines, " > ".join(title for _, title in path))
    return found if count <= MAX_ROWS else []


def _followed(grid: Grid, lines: Sequence[str], heading: str) -> Grid:
    if heading != grid.heading:
        return grid
    after = "\n".join([grid.after, *lines]).strip()[:_AFTER_CHARS]
    return Grid(grid.columns, grid.rows, grid.heading, grid.before, after)


def _tables(text: str, blocks: Sequence[Block], heading: str, before: str) -> list[Grid]:
    """Grids of neighbouring blocks; those with the same headers are one table that a page or a sheet parted."""
    tables: list[list[tuple[GridRow, list[str]]]] = []
    for block in blocks:
        rows = _rows(text, block)
        known = {header for _, own in rows for header in own}
        if tables and known == {header for _, own in tables[-1] for header in own}:
            tables[-1] += rows
        else:
            tables.append(rows)
    grids = []
    for table in tables:
        columns: list[str] = []
        for _, headers in table:
            columns += [header for header in headers if header not in columns]
        if len(table) < 2 or len(columns) < 2 or sum(len(own) > 1 for _, own in table) < 0.6 * len(table):
            continue
        full = []
        for row, headers in table:
            by_header = dict(zip(headers, row.cells, strict=True))
            full.append(replace(row, cells=tuple(by_header.get(name) for name in columns)))
        grids.append(Grid(tuple(name.split("\0")[0] for name in columns), tuple(full), heading, before, ""))
    return grids


def _rows(text: str, block: Block) -> list[tuple[GridRow, list[str]]]:
    """Lines of a block with the headers of their cells; a header that comes twice in a line is told apart."""
    rows = []
    position = block.start
    for line in text[block.start : block.end].split("\n"):
        start = position
        position += len(line) + 1
        if not line.strip():
            continue
        headers: list[str] = []
        values: list[str] = []
        for cell in read_row(line):
            again = sum(header.split("\0")[0] == cell.header for header in headers)
            headers.append(f"{cell.header}\0{again}" if again else cell.header)
            values.append(cell.value.strip())
        rows.append((GridRow(start, start + len(line), block.page, line, tuple(values)), headers))
    return rows
