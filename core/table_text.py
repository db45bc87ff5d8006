"""Rows of tables as lines of text: `header: value | header: value`, one line a row, read back without a second store.

A passage that holds a row holds its headers, so it can be found, quoted and looked up by itself. What would read as
structure inside a cell is written with its full-width twin.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

CELL_SEPARATOR = " | "
HEADER_SEPARATOR = ": "

_BREAKS = re.compile(r"\s+")
_BAR = re.compile(r"(?:^|(?<=\s))\|(?=\s|$)")


@dataclass(frozen=True, slots=True)
class RowCell:
    """A cell of a row line: line[start:end] is its value; `header` is empty where the row tells none."""

    header: str
    value: str
    start: int
    end: int


def write_row(headers: Sequence[str], values: Sequence[str]) -> str:
    """One line for a row; empty values are left out, a value without a header stands alone. Lengths may differ."""
    cells = []
    for at, value in enumerate(values):
        shown = _plain(value)
        if not shown:
            continue
        header = _plain(headers[at]).replace(HEADER_SEPARATOR, "：") if at < len(headers) else ""
        cells.append(f"{header}{HEADER_SEPARATOR}{shown}" if header else shown)
    return CELL_SEPARATOR.join(cells)


def read_row(line: str) -> list[RowCell]:
    """Cells of a line that `write_row` wrote, with offsets into the line. Any other line is one cell."""
    cells = []
    position = 0
    for part in line.split(CELL_SEPARATOR):
        header, separator, value = part.partition(HEADER_SEPARATOR)
        if not separator:
            header, value = "", part
        start = position + len(part) - len(value)
        cells.append(RowCell(header.strip(), value, start, start + len(value)))
        position += len(part) + len(CELL_SEPARATOR)
    return cells


def _plain(text: str) -> str:
    """On one line, without a bar that would part cells."""
    return _BAR.sub("｜", _BREAKS.sub(" ", text).strip())
