"""Sheets, of workbooks and CSV files, to text: parted by blank rows and columns into tables, forms and notes.

On grid paper (方眼紙) the columns of a region are those in which a cell begins: narrow ones under merged cells do not
count.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from core.errors import ExtractionFailed
from core.types import BlockKind
from ingest.extract.builder import TextBuilder
from ingest.extract.cell_kinds import is_note, is_value
from ingest.extract.cells import MAX_PLACES, Cell, Row, filled, tidy
from ingest.extract.forms import form_lines, is_form
from ingest.extract.grid import TITLE_LEVEL, Hidden, Table, read_table
from ingest.extract.headers import header_depth, stacked_tables

_JAPANESE = range(0x3040, 0xA000)
_MAX_HEAD_LINES = 6
_SAMPLE_ROWS = 200
_MAX_CELLS = 4_000_000
"""Filled cells of one sheet, 200 bytes each."""
_LONG_CHARS = 24


@dataclass(slots=True)
class Sheet:
    """A sheet as its format gives it; rows and columns count from 0.

    rows: ascending, the filled cells of each by column, ascending. merges: (top, left) -> (rows, columns).
    """

    name: str = ""
    rows: list[tuple[int, list[tuple[int, Cell]]]] = field(default_factory=list)
    merges: Mapping[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    hidden: bool = False
    hidden_rows: frozenset[int] = frozenset()
    hidden_columns: frozenset[int] = frozenset()
    remarks: list[str] = field(default_factory=list)
    """Texts that lie on the sheet rather than in a cell."""


@dataclass(slots=True)
class _Region:
    """Part of a sheet; cells by row and column with their spans, all inside it."""

    cells: list[tuple[int, int, Cell]] = field(default_factory=list)

    def rows(self) -> set[int]:
        return {row for row, _, _ in self.cells}

    def columns(self) -> list[int]:
        return sorted({column for _, column, _ in self.cells})


@dataclass(frozen=True, slots=True)
class _Written:
    """The table before: its columns and headers, and the columns whose cells are mostly values."""

    columns: list[int] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    value_columns: frozenset[int] = frozenset()


def write_sheet(builder: TextBuilder, sheet: Sheet, *, page: int | None = None) -> int:
    """Write a sheet under its name (HEADING level 1, left out where empty). Returns the number of tables.

    Raises:
        ExtractionFailed: `text_too_long`.
    """
    mark = hidden_mark(sheet.name)
    if sheet.name:
        builder.add(BlockKind.HEADING, sheet.name + (_in_brackets(mark) if sheet.hidden else ""), page=page, level=1)
    writer = _Writer(builder, page, sheet, mark)
    for band in _bands(sheet):
        for region in [band] if writer.goes_on(band) else _side_by_side(band):
            writer.add(region)
    writer.close()
    for text in sheet.remarks:
        builder.add(BlockKind.PARAGRAPH, text, page=page)
    return writer.tables


def hidden_mark(name: str) -> str:
    """How what is hidden is marked, in the language of the sheet's name."""
    return "非表示" if any(ord(character) in _JAPANESE for character in name) else "hidden"


def _in_brackets(mark: str) -> str:
    return f"（{mark}）" if mark == "非表示" else f" ({mark})"


class _Writer:
    """Writes regions in order; keeps lone lines until it is known whether they are a title or notes."""

    def __init__(self, builder: TextBuilder, page: int | None, sheet: Sheet, mark: str) -> None:
        self.tables = 0
        self._builder = builder
        self._page = page
        self._sheet = sheet
        self._mark = mark
        self._lines: list[str] = []
        self._form: list[str] = []
        self._last = _Written()

    def goes_on(self, region: _Region) -> bool:
        """The region goes on with the table before a blank row: values stand where that one has values."""
        if self._lines or self._form or len(self._last.columns) < 2:
            return False
        columns = region.columns()
        if not set(columns) & set(self._last.columns) or len(columns) < 2:
            return False
        if columns[0] < self._last.columns[0] or columns[-1] > self._last.columns[-1]:
            return False
        first = region.cells[0][0]
        return any(
            column in self._last.value_columns and is_value(cell.text)
            for row, column, cell in region.cells
            if row == first
        )

    def add(self, region: _Region) -> None:
        """Write one region."""
        if self.goes_on(region):
            columns = sorted({*self._last.columns, *region.columns()})
            named = dict(zip(self._last.columns, self._last.headers, strict=True))
            self._write(region, columns, [], [named.get(column, "") for column in columns])
            return
        columns = region.columns()
        grid, _ = _grid(region, columns)
        if all(len(filled(row)) < 2 for row in grid):
            self._flush_form()
            self._lines += [cell.text.strip() for _, _, cell in region.cells]
            return
        if _is_preamble(grid):
            self._flush_form()
            for row in grid:
                self._lines += form_lines([row])
            return
        self._write(region, columns, self._take_heads(), None)

    def close(self) -> None:
        self._flush_form()
        for text in self._lines:
            self._builder.add(BlockKind.PARAGRAPH, text, page=self._page)
        self._lines = []

    def _take_heads(self) -> list[str]:
        """The lines just before a table that may be its title; the others are written as notes."""
        at = len(self._lines)
        while at and len(self._lines) - at < _MAX_HEAD_LINES and not is_note(self._lines[at - 1]):
            at -= 1
        heads, self._lines = [" ".join(line.split()) for line in self._lines[at:]], self._lines[:at]
        if self._lines or heads:
            self.close()
        return heads

    def _write(self, region: _Region, columns: list[int], above: list[str], headers: list[str] | None) -> None:
        grid, places = _grid(region, columns)
        width = max(len(columns), 2)
        if len(columns) < width:
            grid = [[*row, None] for row in grid]
        head: list[Row] = [[Cell(text, columns=width)] * width for text in above]
        for start, end in stacked_tables(grid) if headers is None else [(0, len(grid))]:
            hidden = self._hidden(columns, places[start:end], len(head))
            table = read_table(head + grid[start:end], room=self._builder.room, hidden=hidden, headers=headers)
            self._put(table)
            if any(table.headers) and len(table.headers) == len(columns):
                values = _value_columns(grid[start:end], columns)
                self._last = _Written(columns, table.headers, values | self._last.value_columns)
            elif headers is None:
                self._last = _Written()
            head = []

    def _put(self, table: Table) -> None:
        if self._lines:
            self.close()
        titled = table.title and table.title != self._sheet.name
        if titled or table.remarks or not table.is_form:
            self._flush_form()
        if titled:
            self._builder.add(BlockKind.HEADING, table.title, page=self._page, level=TITLE_LEVEL)
        for text in table.remarks:
            self._builder.add(BlockKind.PARAGRAPH, text, page=self._page)
        if table.is_form:
            self._form += table.lines
        else:
            self.tables += bool(table.lines)
            self._builder.add(BlockKind.TABLE, "\n".join(table.lines), page=self._page)
        self._lines += table.notes

    def _flush_form(self) -> None:
        self.tables += bool(self._form)
        self._builder.add(BlockKind.TABLE, "\n".join(self._form), page=self._page)
        self._form = []

    def _hidden(self, columns: Sequence[int], places: Sequence[int], head: int) -> Hidden:
        sheet = self._sheet
        if not sheet.hidden_rows and not sheet.hidden_columns:
            return Hidden()
        return Hidden(
            frozenset(at + head for at, row in enumerate(places) if row in sheet.hidden_rows),
            frozenset(at for at, column in enumerate(columns) if column in sheet.hidden_columns),
            self._mark,
        )


def _bands(sheet: Sheet) -> Iterator[_Region]:
    """Runs of rows without a blank one between; a merged cell holds the rows that it covers together."""
    band = _Region()
    end = -2
    last = sheet.rows[-1][0] if sheet.rows else 0
    if sum(len(cells) for _, cells in sheet.rows) > _MAX_CELLS:
        raise ExtractionFailed(
            f"sheet '{sheet.name}' has more than {_MAX_CELLS} filled cells; split it", code="text_too_long"
        )
    for row, cells in sheet.rows:
        if row > end + 1 and band.cells:
            yield band
            band = _Region()
        end = max(end, row)
        for column, cell in cells:
            rows, columns = sheet.merges.get((row, column), (1, 1))
            if (rows, columns) != (1, 1):
                end = max(end, min(row + rows - 1, last))
                band.cells.append((row, column, replace(cell, rows=rows, columns=columns)))
            else:
                band.cells.append((row, column, cell))
    if band.cells:
        yield band


def _side_by_side(band: _Region) -> list[_Region]:
    """The tables of a band that blank columns part, after a title over all of them; one where they belong together."""
    in_row = Counter(row for row, _, _ in band.cells)
    top = next((row for row, _, _ in band.cells if in_row[row] > 1), None)
    head = [item for item in band.cells if top is not None and item[0] < top]
    cells = band.cells[len(head) :]
    runs = _column_runs(cells)
    if len(runs) < 2 or len(in_row) < 2:
        return [band]
    regions: list[_Region] = []
    for start, end in runs:
        part = _Region([item for item in cells if start <= item[1] <= end])
        if regions and not _stands_alone(part, regions[-1]):
            regions[-1] = _Region(sorted(regions[-1].cells + part.cells, key=lambda item: item[:2]))
        else:
            regions.append(part)
    if len(regions) == 1:
        return [band]
    return [_Region(head), *regions] if head else regions


def _column_runs(cells: Iterable[tuple[int, int, Cell]]) -> list[tuple[int, int]]:
    """First and last column of each run of columns that cells cover."""
    reach: dict[int, int] = {}
    for _, column, cell in cells:
        reach[column] = max(reach.get(column, 0), column + cell.columns - 1)
    runs: list[tuple[int, int]] = []
    for column in sorted(reach):
        if runs and column <= runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], max(runs[-1][1], reach[column]))
        else:
            runs.append((column, reach[column]))
    return runs


def _is_preamble(grid: Sequence[Row]) -> bool:
    """A few rows of a title, dates, units: neither a table nor a form."""
    if len(grid) > 4 or len(grid[0]) < 3 or any(len(filled(row)) > 2 for row in grid):
        return False
    return not is_form(grid) and not header_depth(grid)


def _value_columns(grid: Sequence[Row], columns: Sequence[int]) -> frozenset[int]:
    found = set()
    for at, column in enumerate(columns):
        texts = [cell.text for row in grid[:_SAMPLE_ROWS] if (cell := row[at]) is not None]
        if sum(is_value(text) for text in texts) * 2 > len(texts):
            found.add(column)
    return frozenset(found)


def _stands_alone(right: _Region, left: _Region) -> bool:
    """Both are tables of their own: two columns and rows each, and the first column of the right one names its rows."""
    if len(right.columns()) == 1 and len(left.columns()) > 1:  # notes beside a table
        texts = [cell.text for _, _, cell in right.cells]
        return not any(map(is_value, texts)) and any(is_note(text) or len(text) > _LONG_CHARS for text in texts)
    for part in (left, right):
        if len(part.columns()) < 2 or len(part.rows()) < 2:
            return False
    top, bottom = min(right.rows()), max(right.rows())
    if (top, bottom) != (min(left.rows()), max(left.rows())):
        head = [cell.text for row, _, cell in right.cells if row == top]
        below = [cell.text for row, _, cell in right.cells if row > top]
        if len(head) > 1 and not any(map(is_value, head)) and any(map(is_value, below)):
            return True
    first = right.columns()[0]
    names = [cell.text for _, column, cell in right.cells if column == first]
    below = names[1:]
    if len(names) < len(right.rows()) - 1 or any(is_value(name) for name in below):
        return False
    return len(set(below)) > len(below) / 2


def _grid(region: _Region, columns: Sequence[int]) -> tuple[list[Row], list[int]]:
    """Rows over the given columns with spans filled, and the place of each row in the sheet.

    Raises:
        ExtractionFailed: `text_too_long`, more than `MAX_PLACES` places.
    """
    places: list[int] = []
    grid: list[Row] = []
    hanging: dict[int, tuple[int, Cell]] = {}  # column of the grid -> (last row, cell) of what hangs down from above
    filled_rows = sorted(region.rows())
    filled_places = len(filled_rows) * len(columns)
    for row, column, raw in region.cells:
        if filled_places > MAX_PLACES:
            raise ExtractionFailed(f"a sheet spans more than {MAX_PLACES} cells", code="text_too_long")
        if not places or places[-1] != row:
            places.append(row)
            grid.append([None] * len(columns))
            hanging = {at: item for at, item in hanging.items() if item[0] >= row}
            for at, (_, above) in hanging.items():
                grid[-1][at] = above
        start = bisect_left(columns, column)
        cell = tidy(raw)
        if cell.columns == 1 and cell.rows == 1:
            grid[-1][start] = cell
            continue
        end = max(start + 1, bisect_left(columns, column + cell.columns))
        rows = bisect_left(filled_rows, row + cell.rows) - bisect_left(filled_rows, row)
        placed = replace(cell, rows=max(1, rows), columns=end - start)
        filled_places += end - start
        for at in range(start, end):
            grid[-1][at] = placed
            if cell.rows > 1:
                hanging[at] = (row + cell.rows - 1, placed)
    return grid, places
