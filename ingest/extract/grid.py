"""The one table model: cells with spans in, lines of `header: value` out (`core.table_text`).

Every extractor that meets a table hands its cells over here; what is a header, a title, a label or a form is decided
once, for all formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby

from core.table_text import write_row
from core.types import BlockKind
from ingest.extract.builder import TextBuilder
from ingest.extract.cell_kinds import (
    closed_up,
    inline_pair,
    is_note,
    is_remark,
    is_section,
    is_total,
    is_value,
)
from ingest.extract.cells import Cell, Row, fill_grid, filled, origins
from ingest.extract.forms import form_lines, is_form, is_list_of_fields, opens_with_values
from ingest.extract.headers import fills_gaps, header_depth, header_texts, is_marked, stacked_tables

__all__ = ["TITLE_LEVEL", "Cell", "Hidden", "Table", "read_table", "write_grid", "write_table"]

_MAX_TITLE = 120
_MAX_ABOVE = 8
_ONCE_CHARS = 100
"""A longer text merged over columns is written once in its row, so that no cell multiplies a document."""
_MIN_FILL_SHARE = 0.25
TITLE_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Hidden:
    """Rows and columns of a grid (from 0) that are not shown, and how their lines and headers say so."""

    rows: frozenset[int] = frozenset()
    columns: frozenset[int] = frozenset()
    mark: str = ""


@dataclass(slots=True)
class Table:
    """A table read: what stands above it, its header by column, its lines, what stands below it."""

    title: str = ""
    remarks: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """The row of the grid that each line is of."""
    notes: list[str] = field(default_factory=list)
    is_form: bool = False

    def add(self, lines: Sequence[str], place: int) -> None:
        """Lines of one row of the grid."""
        self.lines += lines
        self.places += [place] * len(lines)


def write_table(
    builder: TextBuilder,
    rows: Sequence[Sequence[Cell]],
    *,
    page: int | None = None,
    title: str | None = None,
    pages: Sequence[int] = (),
) -> int:
    """Write one table as a TABLE block, a line a row; its title as a heading above. Returns the number of tables.

    rows: as in HTML, each holding only the cells that begin in it; what spans reach is filled here. pages: of each row
    where the table goes on over pages; it is a block a page then.

    Raises:
        ExtractionFailed: `text_too_long`.
    """
    return write_grid(builder, fill_grid(rows), page=page, title=title, pages=pages)


def write_grid(
    builder: TextBuilder,
    grid: Sequence[Row],
    *,
    page: int | None = None,
    title: str | None = None,
    pages: Sequence[int] = (),
) -> int:
    """`write_table` for a grid that is filled already."""
    alone = len(grid) == 1 and len(grid[0]) == 1  # a box around text
    written = 0
    for start, end in stacked_tables(grid):
        table = read_table(grid[start:end], room=builder.room)
        given = " ".join(title.split()) if title and not start else ""
        for text in dict.fromkeys((given, table.title)):
            builder.add(BlockKind.HEADING, text, page=page, level=TITLE_LEVEL)
        for text in table.remarks:
            builder.add(BlockKind.PARAGRAPH, text, page=page)
        last = page
        for at, part in _by_page(table, start, pages, page):
            builder.add(BlockKind.PARAGRAPH if alone else BlockKind.TABLE, "\n".join(part), page=at)
            last = at
        for text in table.notes:
            builder.add(BlockKind.PARAGRAPH, text, page=last)
        written += bool(table.lines)
    return written


def _by_page(
    table: Table, start: int, pages: Sequence[int], page: int | None
) -> Iterator[tuple[int | None, list[str]]]:
    """(page, its lines) of a table that begins in row `start` of its grid."""
    if not pages:
        yield page, table.lines
        return
    placed = zip(table.lines, table.places, strict=True)
    for at, run in groupby(placed, key=lambda one: pages[min(start + one[1], len(pages) - 1)]):
        yield at, [line for line, _ in run]


def read_table(
    grid: Sequence[Row], *, room: int, hidden: Hidden | None = None, headers: Sequence[str] | None = None
) -> Table:
    """Take a filled grid apart. room: characters that may still be written; more lines than that are not made.

    headers: of the table that this one goes on; it then has no title and no header of its own.
    """
    hidden = hidden or Hidden()
    rows = [(at, row) for at, row in enumerate(grid) if any(row)]
    table = Table()
    first = _take_above([row for _, row in rows], table) if headers is None else 0
    rows = rows[first:]
    rows = rows[: len(rows) - _take_below([row for _, row in rows], table)]
    body = [row for _, row in rows]
    if not body:
        return table
    pairs = is_form(body) or opens_with_values(body)
    told = headers is not None or (pairs and not any(map(is_marked, body[:2])))
    depth = 0 if told else header_depth(body)
    fields = not depth and headers is None and not is_form(body) and is_list_of_fields(body)
    if not depth and headers is None and (fields or is_form(body)):
        table.is_form = True
        for at, row in rows:
            table.add(_marked(form_lines([row], in_place=fields), at in hidden.rows, hidden.mark), at)
        return table
    table.headers = header_texts(body[:depth], len(body[0])) if depth else list(headers or [""] * len(body[0]))
    shown = [
        f"{text}（{hidden.mark}）" if at in hidden.columns and hidden.mark else text
        for at, text in enumerate(table.headers)
    ]
    for at, line in _lines(rows[depth:], shown, body[:depth]):
        table.add(_marked([line], at in hidden.rows, hidden.mark), at)
        room -= len(line) + 1
        if room < 0:
            break  # the builder will refuse what there is
    if not table.lines:  # a header above nothing
        for at, row in rows:
            table.add([line for line in [write_row([], [cell.text for cell in filled(row)])] if line], at)
    return table


def _take_above(rows: Sequence[Row], table: Table) -> int:
    """Title and remarks off the top; returns how many rows they were."""
    if not rows or len(rows[0]) < 2:
        return 0
    widths = [len(filled(row)) for row in rows[:200]]
    usual = sorted(widths)[len(widths) * 3 // 4]
    taken = 0
    titles: list[str] = []
    for at, row in enumerate(rows[:_MAX_ABOVE]):
        cells = filled(row)
        alone = len(cells) == 1 and (max(widths[at:]) > 1 or at == 0) and not _is_lone_label(rows, at)
        if at + 1 == len(rows) or not (alone or _stands_above(rows, at, usual)):
            break
        taken += 1
        pairs = [inline_pair(cell.text) for cell in cells]
        if len(cells) > 1 and not any(pairs) and (is_form([row]) or (len(cells) == 2 and is_value(cells[1].text))):
            table.remarks += form_lines([row])
            continue
        for cell, pair in zip(cells, pairs, strict=True):
            text = cell.text
            if pair or is_remark(text) or sum(map(len, titles)) + len(text) > _MAX_TITLE:
                table.remarks.append(text)
            else:
                titles.append(closed_up(text))
    table.title = " ".join(titles)
    return taken


def _stands_above(rows: Sequence[Row], at: int, usual: int) -> bool:
    """A row of few cells over the header of a wide table: a date beside the title, who made it."""
    cells = filled(rows[at])
    if usual < 4 or len(cells) * 10 >= usual * 6 or any(1 < cell.columns < len(rows[at]) for cell in cells):
        return False
    if len(cells) > 2 and not is_form([rows[at]]) and not any(is_value(cell.text) for cell in cells):
        return False
    return not fills_gaps(rows[at:], 1) and any(
        len(filled(row)) * 10 >= usual * 6 for row in rows[at + 1 : at + _MAX_ABOVE]
    )


def _is_lone_label(rows: Sequence[Row], at: int) -> bool:
    """A row with its first cell only, in a table of two columns: a field left empty."""
    cell = rows[at][0]
    return cell is not None and cell.columns < len(rows[at]) and len(rows[at]) == 2 and at > 0


def _take_below(rows: Sequence[Row], table: Table) -> int:
    """Foot notes off the bottom; returns how many rows they were."""
    taken = 0
    for row in reversed(rows[1:]):
        cells = origins(row)
        if len(cells) != 1 or len(row) < 2:
            break
        at, cell = cells[0]
        whole = at == 0 and cell.columns == len(row)
        if not (whole or is_note(cell.text)):
            break
        table.notes.insert(0, cell.text)
        taken += 1
    return taken


def _lines(rows: Sequence[tuple[int, Row]], headers: Sequence[str], head: Sequence[Row]) -> Iterator[tuple[int, str]]:
    """A line a data row, with its place. Header rows that come again are dropped; a section goes before its rows."""
    repeated = {_key(row) for row in head}
    open_columns = _open_label_columns([row for _, row in rows])
    sections = _sections([row for _, row in rows], repeated)
    section = ""
    unused = False
    labels: dict[int, str] = {}
    place = 0
    for number, (place, row) in enumerate(rows):
        if repeated and _key(row) in repeated:
            continue
        if number in sections:
            if unused:
                yield place, write_row([], [section])
            section, unused = sections[number], True
            if is_note(section):  # said of the rows around it, not their name
                yield place, write_row([], [section])
                section, unused = "", False
            continue
        values = _values(row, headers)
        if open_columns and not any(is_total(value) for value in values if value):
            for column in range(open_columns):
                if values[column]:
                    labels = {known: text for known, text in labels.items() if known < column} | {
                        column: values[column]
                    }
                elif column in labels:
                    values[column] = labels[column]
        line = write_row(headers, values)
        if line:
            yield place, write_row([], [section]) + " | " + line if section else line
            unused = False
    if unused:
        yield place, write_row([], [section])


def _values(row: Row, headers: Sequence[str]) -> list[str]:
    """Texts by column. One that is merged over columns of the same header, or is long, is written once."""
    values = []
    last: Cell | None = None
    for at, cell in enumerate(row):
        merged = cell is not None and cell is last and cell.columns > 1
        if cell is None or (merged and (len(cell.text) > _ONCE_CHARS or headers[at] == headers[at - 1])):
            values.append("")
        else:
            values.append(cell.text)
        last = cell
    return values


def _key(row: Row) -> tuple[str, ...]:
    return tuple(cell.text if cell else "" for cell in row)


def _open_label_columns(rows: Sequence[Row]) -> int:
    """How many of the first columns are labels written once for the rows that follow them."""
    if len(rows) < 3 or len(rows[0]) < 3:
        return 0
    columns = 0
    for column in range(min(3, len(rows[0]) - 2)):
        texts = [row[column].text if row[column] else "" for row in rows]  # type: ignore[union-attr]
        named = [text for text in texts if text]
        blank = len(texts) - len(named)
        if not texts[0] or blank < _MIN_FILL_SHARE * len(texts) or any(is_value(text) for text in named):
            break
        columns += 1
    return columns


def _sections(rows: Sequence[Row], heads: Set[tuple[str, ...]]) -> Mapping[int, str]:
    """Rows that name those that follow: one cell over the whole width, marked, or above the header come again."""
    found = {}
    for at, row in enumerate(rows):
        if len(row) < 3:
            break
        if row[0] is None or (row[1] is not None and row[0].columns == 1):
            continue
        cells = filled(row)
        if len(cells) != 1:
            continue
        headed = at + 1 < len(rows) and _key(rows[at + 1]) in heads
        if row[-1] is not None or (row[1] is None and (is_section(row[0].text) or headed)):
            found[at] = closed_up(row[0].text)
    return found


def _marked(lines: list[str], hidden: bool, mark: str) -> list[str]:
    return [f"{line} | （{mark}）" for line in lines] if hidden and mark else lines
