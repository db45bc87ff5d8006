"""ODS straight from `content.xml`, row by row: the text that cells show, spans, repeats, notes, what is hidden."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

from core.errors import ExtractionFailed
from ingest.extract.cells import Cell
from ingest.extract.links import linked
from ingest.extract.sheet import Sheet, hidden_mark

_MAX_REPEATED_ROWS = 10_000
_MAX_COLUMNS = 16_384
_SPACES = 100


class OdsReader:
    """Sheets of one document, read in one pass: `sheets` yields each as it ends."""

    def __init__(self, archive: zipfile.ZipFile, facts: Counter[str], *, max_chars: int) -> None:
        self.facts = facts
        self._archive = archive
        self._left = max_chars
        self._hidden_styles: set[str] = set()
        self._strong_styles: set[str] = set()
        self._struck_styles: set[str] = set()

    def sheets(self) -> Iterator[Sheet]:
        """Sheets in order.

        Raises:
            lxml.etree.XMLSyntaxError: the part is damaged.
            ExtractionFailed: `text_too_long`.
        """
        from lxml import etree

        sheet = Sheet()
        merges: dict[tuple[int, int], tuple[int, int]] = {}
        hidden_rows: set[int] = set()
        hidden_columns: set[int] = set()
        row_at = column_at = depth = 0
        tags = ["{*}" + tag for tag in ("style", "table", "table-column", "table-row", "shapes")]
        with self._archive.open("content.xml") as part:
            events = etree.iterparse(
                part, events=("start", "end"), tag=tags, resolve_entities=False, no_network=True, load_dtd=False
            )
            for event, element in events:
                tag = str(element.tag).rpartition("}")[2]
                if tag == "table":
                    depth += 1 if event == "start" else -1
                    if depth == 1 and event == "start":
                        style = _attribute(element, "style-name")
                        sheet = Sheet(name=_attribute(element, "name"), hidden=style in self._hidden_styles)
                        merges, hidden_rows, hidden_columns, row_at, column_at = {}, set(), set(), 0, 0
                    elif depth == 0:
                        used = {column for _, cells in sheet.rows for column, _ in cells}
                        sheet.merges, sheet.hidden_rows = merges, frozenset(hidden_rows)
                        sheet.hidden_columns = frozenset(hidden_columns & used)
                        self._count(sheet)
                        yield sheet
                        _drop(element)
                    continue
                if event == "start" or depth > 1:
                    continue
                if tag == "style":
                    self._keep_style(element)
                elif tag == "table-column":
                    times = _count_of(element, "number-columns-repeated", _MAX_COLUMNS)
                    if _attribute(element, "visibility") in {"collapse", "filter"}:
                        hidden_columns.update(range(column_at, min(column_at + times, _MAX_COLUMNS)))
                    column_at += times
                elif tag == "table-row":
                    times = _count_of(element, "number-rows-repeated", 2**21)
                    cells = self._cells(element, row_at, merges)
                    if cells:
                        for at in range(row_at, row_at + min(times, _MAX_REPEATED_ROWS)):
                            self._take(cells)
                            sheet.rows.append((at, cells))
                            if _attribute(element, "visibility") in {"collapse", "filter"}:
                                hidden_rows.add(at)
                    row_at += times
                    _drop(element)

    def _cells(self, row: Any, row_at: int, merges: dict[tuple[int, int], tuple[int, int]]) -> list[tuple[int, Cell]]:
        cells: list[tuple[int, Cell]] = []
        column = 0
        for element in row:
            tag = str(element.tag).rpartition("}")[2]
            if tag not in {"table-cell", "covered-table-cell"}:
                continue
            times = _count_of(element, "number-columns-repeated", _MAX_COLUMNS)
            rows = _count_of(element, "number-rows-spanned", 2**20)
            columns = _count_of(element, "number-columns-spanned", _MAX_COLUMNS)
            text, comment = self._text_of(element)
            style = _attribute(element, "style-name")
            if style in self._struck_styles and text:
                self.facts["struck_left_out"] += len(text)
                text = ""
            if not text and _attribute(element, "formula") and not _attribute(element, "value-type"):
                self.facts["formula_without_value"] += 1
                text = "=" + _attribute(element, "formula").removeprefix("of:").removeprefix("=")
            if comment:
                self.facts["comments"] += 1
                japanese = hidden_mark(comment + text) == "非表示"
                text += f"（コメント: {comment}）" if japanese else f" (comment: {comment})"
            if text and tag == "table-cell":
                cell = Cell(text, strong=style in self._strong_styles)
                cells += [(at, cell) for at in range(column, min(column + times, _MAX_COLUMNS))]
                if rows > 1 or columns > 1:
                    merges[(row_at, column)] = (rows, columns)
            column += times
        return cells

    def _take(self, cells: list[tuple[int, Cell]]) -> None:
        self._left -= sum(len(cell.text) for _, cell in cells)
        if self._left < 0:
            raise ExtractionFailed("the workbook holds more text than this service takes", code="text_too_long")

    def _count(self, sheet: Sheet) -> None:
        self.facts["hidden_sheets"] += sheet.hidden
        self.facts["hidden_rows"] += len(sheet.hidden_rows)
        self.facts["hidden_columns"] += len(sheet.hidden_columns)

    def _keep_style(self, style: Any) -> None:
        name = _attribute(style, "name")
        for child in style:
            kind = str(child.tag).rpartition("}")[2]
            if kind == "table-properties" and _attribute(child, "display") == "false":
                self._hidden_styles.add(name)
            elif kind == "text-properties":
                if _attribute(child, "font-weight") == "bold":
                    self._strong_styles.add(name)
                if _attribute(child, "text-line-through-style") not in {"", "none"}:
                    self._struck_styles.add(name)
            elif kind == "table-cell-properties":
                colour = _attribute(child, "background-color").lower()
                if colour.startswith("#") and colour != "#ffffff":
                    self._strong_styles.add(name)

    def _text_of(self, cell: Any) -> tuple[str, str]:
        """What a cell shows, its paragraphs on lines of their own, and its comment."""
        shown: list[str] = []
        comment: list[str] = []
        for child in cell:
            tag = str(child.tag).rpartition("}")[2]
            if tag == "p":
                shown.append(_inline(child))
            elif tag == "annotation":
                comment += [_inline(part) for part in child if str(part.tag).rpartition("}")[2] == "p"]
        return "\n".join(shown).strip(), " ".join(" ".join(comment).split())


def _inline(paragraph: Any) -> str:
    parts = [paragraph.text or ""]
    for child in paragraph:
        tag = str(child.tag).rpartition("}")[2]
        if tag == "s":
            parts.append(" " * min(_SPACES, _count_of(child, "c", _SPACES)))
        elif tag in {"tab", "line-break"}:
            parts.append(" ")
        elif tag == "a":
            parts.append(linked(_inline(child), _attribute(child, "href")))
        elif tag in {"ruby", "span", "ruby-base"}:
            parts.append(_inline(child))
        parts.append(child.tail or "")
    return "".join(parts)


def _attribute(element: Any, name: str) -> str:
    return next((str(value) for key, value in element.attrib.items() if key.rpartition("}")[2] == name), "")


def _count_of(element: Any, name: str, limit: int) -> int:
    text = _attribute(element, name)
    return max(1, min(int(text), limit)) if text.isascii() and text.isdigit() and len(text) < 10 else 1


def _drop(element: Any) -> None:
    element.clear()
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]
