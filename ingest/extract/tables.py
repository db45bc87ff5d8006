"""Rows of sheets and CSV files to table blocks that keep their header: a long table repeats it in every block.

Offsets of passages point into the stored text, so a header cannot be added to a passage later; it is written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core.types import BlockKind
from ingest.extract.builder import TextBuilder

BLOCK_CHARS = 400
"""About one passage. A row is never cut; a single longer row is a block of its own."""
_MAX_HEADER_CHARS = 200
"""A longer header would drown the rows that it heads; it is then written once."""


def add_rows(builder: TextBuilder, rows: Iterable[Sequence[str]], *, page: int | None = None) -> int:
    """Write rows as blocks; empty rows part tables. Returns the number of tables.

    A row with one filled cell before the first wide row of a table is a caption, and becomes a paragraph.
    """
    tables = 0
    table: _Table | None = None
    for row in rows:
        cells = [" ".join(cell.split()) for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        filled = sum(bool(cell) for cell in cells)
        if not filled:
            if table is not None:
                table.close()
                table = None
            continue
        if table is None and filled == 1:
            builder.add(BlockKind.PARAGRAPH, next(cell for cell in cells if cell), page=page)
            continue
        if table is None:
            table = _Table(builder, page)
            tables += 1
        table.add(" | ".join(cells))
    if table is not None:
        table.close()
    return tables


class _Table:
    def __init__(self, builder: TextBuilder, page: int | None) -> None:
        self._builder = builder
        self._page = page
        self._header: str | None = None
        self._lines: list[str] = []
        self._length = 0

    def add(self, line: str) -> None:
        if self._header is None:
            self._header = line
            self._start([line])
            return
        if len(self._lines) > 1 and self._length + len(line) > BLOCK_CHARS:
            self.close()
            self._start([self._header] if len(self._header) <= _MAX_HEADER_CHARS else [])
        self._lines.append(line)
        self._length += len(line) + 1

    def close(self) -> None:
        self._builder.add(BlockKind.TABLE, "\n".join(self._lines), page=self._page)

    def _start(self, lines: list[str]) -> None:
        self._lines = lines
        self._length = sum(len(line) + 1 for line in lines)
