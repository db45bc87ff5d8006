"""Lines and tables of all pages as blocks: headings, paragraphs that run over pages, tables that go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from core.types import BlockKind
from ingest.extract.builder import TextBuilder
from ingest.extract.grid import Cell, write_table
from ingest.extract.pdf_lines import (
    Line,
    Paragraph,
    goes_on,
    heading_sizes,
    is_sentence,
    joined,
    kind_of,
    paragraphs_of,
)
from ingest.extract.pdf_tables import PageTable

_SAME_COLUMNS = 4.0
"""Points by which the borders of a table's columns may differ from one page to the next."""
_TITLE_CHARS = 60


@dataclass(frozen=True, slots=True)
class PageContent:
    """A page: its number from 1, its height in points, and what stands on it in reading order."""

    number: int
    height: float
    items: tuple[Line | PageTable, ...]


@dataclass(slots=True)
class Layout:
    """What `write_pages` found."""

    title: str | None = None
    tables: int = 0


@dataclass(frozen=True, slots=True)
class _Placed:
    page: int
    content: Paragraph | PageTable
    pages: tuple[int, ...] = ()
    """Of each row, of a table that goes on over pages."""


def write_pages(builder: TextBuilder, pages: Sequence[PageContent], bookmarks: Mapping[tuple[int, str], int]) -> Layout:
    """Write all pages. bookmarks: (page, title without white space) to level of heading."""
    flow = _joined_over_pages([placed for page in pages for placed in _contents(page)])
    tables = [(p.content.size, p.content.length) for p in flow if isinstance(p.content, PageTable)]
    body, larger, body_is_bold = heading_sizes([p.content for p in flow if isinstance(p.content, Paragraph)], tables)
    layout = Layout()
    title: str | None = None
    for at, placed in enumerate(flow):
        content = placed.content
        if isinstance(content, PageTable):
            layout.tables += write_table(builder, content.rows, page=placed.page, title=title, pages=placed.pages)
            title = None
            continue
        kind, level = kind_of(content, body, larger, body_is_bold)
        marked = bookmarks.get((placed.page, "".join(content.text.split())))
        if marked is not None and content.line_count <= 3:
            kind, level = BlockKind.HEADING, min(6, marked)
        elif kind is not BlockKind.HEADING and at + 1 < len(flow) and _is_title(placed, flow[at + 1]):
            title = content.text
            continue
        builder.add(kind, content.text, page=placed.page, level=level or None)
        if kind is BlockKind.HEADING and level == 1 and layout.title is None and placed.page <= 2:
            layout.title = " ".join(content.text.split())
    return layout


def _contents(page: PageContent) -> list[_Placed]:
    found: list[_Placed] = []
    for is_line, items in groupby(page.items, key=lambda item: isinstance(item, Line)):
        if is_line:
            found += [_Placed(page.number, p) for p in paragraphs_of([i for i in items if isinstance(i, Line)])]
        else:
            found += [_Placed(page.number, item) for item in items if isinstance(item, PageTable)]
    return found


def _joined_over_pages(contents: Sequence[_Placed]) -> list[_Placed]:
    flow: list[_Placed] = []
    for placed in contents:
        last = flow[-1] if flow else None
        if last is None:
            flow.append(placed)
        elif isinstance(placed.content, PageTable) and isinstance(last.content, PageTable):
            page = last.pages[-1] if last.pages else last.page
            whole = _one_table(last.content, placed.content) if placed.page > page else None
            if whole is None:
                flow.append(placed)
            else:
                known = last.pages or (last.page,) * len(last.content.rows)
                more = len(whole.rows) - len(last.content.rows)
                flow[-1] = _Placed(last.page, whole, (*known, *(placed.page,) * more))
        elif (
            isinstance(placed.content, Paragraph)
            and isinstance(last.content, Paragraph)
            and goes_on(last.content, placed.content)
            and (placed.page > last.page or _next_column(last.content, placed.content))
        ):
            text = joined(last.content.text, placed.content.text)
            count = last.content.line_count + placed.content.line_count
            flow[-1] = _Placed(
                last.page,
                replace(last.content, text=text, line_count=count, open=placed.content.open, last=placed.content.last),
            )
        else:
            flow.append(placed)
    return flow


def _next_column(above: Paragraph, below: Paragraph) -> bool:
    if above.last is None or below.first is None:
        return False
    return below.first.near < above.last.near and below.first.start > above.last.stop


def _one_table(above: PageTable, below: PageTable) -> PageTable | None:
    """Both parts as one where the second goes on with the same columns; a header that is repeated is dropped."""
    if len(above.xs) != len(below.xs) or any(
        abs((a - above.xs[0]) - (b - below.xs[0])) > _SAME_COLUMNS for a, b in zip(above.xs, below.xs, strict=True)
    ):
        return None
    repeated = 0
    for first, second in zip(above.rows, below.rows, strict=False):
        if _texts(first) != _texts(second):
            break
        repeated += 1
    if not repeated and below.heads:
        return None  # a header of its own
    rows = below.rows[repeated:]
    return replace(above, rows=(*above.rows, *rows))


def _texts(row: Sequence[Cell]) -> list[str]:
    return ["".join(cell.text.split()) for cell in row]


def _is_title(above: _Placed, below: _Placed) -> bool:
    """Whether a short line right above a table names it."""
    if not isinstance(above.content, Paragraph) or not isinstance(below.content, PageTable) or above.page != below.page:
        return False
    line, table = above.content.last, below.content
    if line is None or above.content.line_count > 1 or len(above.content.text) > _TITLE_CHARS:
        return False
    near = -line.size <= line.y0 - table.box[3] <= 2.5 * line.size
    return near and not line.vertical and line.x0 < table.box[2] and not is_sentence(above.content.text)
