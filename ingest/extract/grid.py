"""The one table model: cells with spans in, lines of `header: value` out (`core.table_text`).

Every extractor that meets a table hands its cells over here; what is a header, a title, a label or a form is decided
once, for all formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.table_text import write_row
from core.types import BlockKind
from ingest.extract.builder import TextBuilder


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell as its format gives it; spans count itself. header: the format marks it as one (`th`, a header row)."""

    text: str = ""
    rows: int = 1
    columns: int = 1
    header: bool = False


def write_table(
    builder: TextBuilder, rows: Sequence[Sequence[Cell]], *, page: int | None = None, title: str | None = None
) -> int:
    """Write one table as TABLE blocks, a line a row; its title as a heading above. Returns the number of tables.

    rows: as in HTML, each holding only the cells that begin in it; what spans reach is filled here.
    """
    if title:
        builder.add(BlockKind.HEADING, title, page=page, level=6)
    header = [cell.text for cell in rows[0]] if rows else []
    lines = [write_row(header, [cell.text for cell in row]) for row in rows[1:]]
    builder.add(BlockKind.TABLE, "\n".join(line for line in lines if line), page=page)
    return int(bool(lines))
