"""ODT and ODP, straight from their XML: headings and lists with their numbers, slides by their page, tables with spans.

Tracked deletions, comments, struck and hidden text are left out; headers and footers come once, before the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from core.types import BlockKind, ExtractedDocument
from ingest.extract.builder import TextBuilder
from ingest.extract.container import open_container, read_xml
from ingest.extract.grid import Cell, write_table
from ingest.extract.inline import Inline
from ingest.extract.links import linked
from ingest.extract.odf_styles import STYLE, TEXT, Numbers, Styles, whole

_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_DRAW = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
_PRESENTATION = "{urn:oasis:names:tc:opendocument:xmlns:presentation:1.0}"
_DC = "{http://purl.org/dc/elements/1.1/}"
_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_SKIPPED = frozenset({
    TEXT + "tracked-changes", TEXT + "ruby", TEXT + "page-number", TEXT + "page-count", TEXT + "table-of-content",
    TEXT + "alphabetical-index", _OFFICE + "annotation", _OFFICE + "forms",
})  # fmt: skip
_PARAGRAPHS = frozenset({TEXT + "p", TEXT + "h"})
_MARGINS = ("header", "footer", "header-left", "footer-left", "header-first", "footer-first")
_MAX_SPACES = 100
_MAX_REPEATED = 100
_MAX_COLUMNS = 1_000


def extract_opendocument(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a text document or a presentation.

    Raises:
        ExtractionFailed: `broken_document`, `encrypted_document`, `zip_bomb`, `unsafe_xml`, `text_too_long`.
    """
    with open_container(data, "OpenDocument") as archive:
        names = archive.namelist()
        content = read_xml(archive, "content.xml")
        styles = read_xml(archive, "styles.xml") if "styles.xml" in names else None
        meta = read_xml(archive, "meta.xml") if "meta.xml" in names else None
        media_type = archive.read("mimetype")[:200].decode("ascii", errors="replace").strip()
    writer = _Writer(Styles([item for item in (styles, content) if item is not None]), TextBuilder(max_chars=max_chars))
    if styles is not None and "presentation" not in media_type:
        writer.write_margins(styles)
    writer.write(content)
    title = (meta.findtext(f".//{_DC}title") or "").strip() if meta is not None else ""
    comments = sum(1 for _ in content.iter(_OFFICE + "annotation"))
    return writer.builder.build(
        media_type,
        page_count=writer.pages or None,
        title=title or writer.first_heading,
        quality={
            "engine": "odf-xml",
            "tables": writer.tables,
            **{f"{why}_left_out": writer.left_out[why] for why in ("struck", "hidden", "deleted")},
            "comments_left_out": comments,
        },
    )


class _Writer:
    """Writes paragraphs and tables into a builder and keeps count."""

    def __init__(self, styles: Styles, builder: TextBuilder) -> None:
        self._styles = styles
        self._outline = Numbers(styles.outline) if styles.outline else None
        self._lists: dict[Any, Numbers] = {}
        self._last: dict[str, Numbers] = {}
        self._notes = 0
        self.builder = builder
        self.first_heading: str | None = None
        self.pages = 0
        self.tables = 0
        self.left_out: Counter[str] = Counter()

    def write_margins(self, styles: Any) -> None:
        """Headers and footers of the page styles, each text once; numbers of pages are left out."""
        written: set[str] = set()
        for name in _MARGINS:
            for margin in styles.iter(STYLE + name):
                for paragraph in margin.iter(TEXT + "p"):
                    text, _ = self._text(paragraph)
                    if text not in written and any(character.isalpha() for character in text):
                        written.add(text)
                        self.builder.add(BlockKind.PARAGRAPH, text)

    def write(self, content: Any) -> None:
        """The body in reading order."""
        for region in content.iter(TEXT + "deletion"):
            self.left_out["deleted"] += sum(len("".join(item.itertext())) for item in region.iter(*_PARAGRAPHS))
        for element in _flow(content):
            if element.tag == _DRAW + "page":
                self.pages += 1
                name = element.get(_DRAW + "name") or f"Slide {self.pages}"
                self.builder.add(BlockKind.HEADING, name, page=self.pages, level=2)
            elif element.tag == _PRESENTATION + "notes":
                if any("".join(item.itertext()).strip() for item in element.iter(TEXT + "p")):
                    self.builder.add(BlockKind.HEADING, "Speaker notes", page=self.pages or None, level=3)
            elif element.tag == _TABLE + "table":
                self._write_table(element)
            else:
                self._write_paragraph(element)

    def _write_paragraph(self, element: Any) -> None:
        page = self.pages or None
        text, notes = self._text(element)
        if element.tag == TEXT + "h":
            level = min(9, max(1, whole(element.get(TEXT + "outline-level"), 1)))
            number = self._outline.label(level) if self._outline is not None and text else ""
            text = ("" if number == "- " else number) + " ".join(text.split())
            self.first_heading = self.first_heading or text or None
            self.builder.add(BlockKind.HEADING, text, page=page, level=level)
        elif text and (label := self._label(element)) is not None:
            self.builder.add(BlockKind.LIST_ITEM, label + text, page=page)
        else:
            self.builder.add(BlockKind.PARAGRAPH, text, page=page)
        for note in notes:
            self.builder.add(BlockKind.PARAGRAPH, note, page=page)

    def _label(self, paragraph: Any) -> str | None:
        """The number before an item's first paragraph; None outside of lists, empty for what follows in an item."""
        items: list[Any] = list(paragraph.iterancestors(TEXT + "list-item", TEXT + "list-header"))
        if not items:
            return None
        item = items[0]
        if item.tag == TEXT + "list-header" or list(item.iterchildren(*_PARAGRAPHS))[:1] != [paragraph]:
            return ""
        around = list(paragraph.iterancestors(TEXT + "list"))
        outermost = around[-1]
        name = next((found for one in around if (found := one.get(TEXT + "style-name"))), "")
        name = name or self._styles.list_style(paragraph.get(TEXT + "style-name")) or ""
        if outermost not in self._lists:
            goes_on = outermost.get(TEXT + "continue-numbering") == "true" or outermost.get(TEXT + "continue-list")
            numbers = self._last.get(name) if goes_on else None
            self._lists[outermost] = numbers or Numbers(self._styles.levels(name))
            self._last[name] = self._lists[outermost]
        start = item.get(TEXT + "start-value")
        return self._lists[outermost].label(len(around), whole(start, 1) if start else None)

    def _write_table(self, table: Any) -> None:
        rows: list[list[Cell]] = []
        notes: list[str] = []
        for row in table.iter(_TABLE + "table-row"):
            if next(row.iterancestors(_TABLE + "table")) is not table:
                continue  # a table inside a cell is read as the cell's text
            header = next(row.iterancestors(_TABLE + "table-header-rows"), None) is not None
            cells = [
                made for cell in row.iterchildren(_TABLE + "table-cell") for made in self._cells(cell, header, notes)
            ]
            times = whole(row.get(_TABLE + "number-rows-repeated"), 1)
            rows.extend([cells] * min(times, _MAX_REPEATED if any(cell.text for cell in cells) else 1))
        if max((sum(cell.columns for cell in row) for row in rows), default=0) <= 1:
            for cell in (cell for row in rows for cell in row):
                self.builder.add(BlockKind.PARAGRAPH, cell.text, page=self.pages or None)
        else:
            self.tables += write_table(self.builder, rows, page=self.pages or None)
        for note in notes:
            self.builder.add(BlockKind.PARAGRAPH, note, page=self.pages or None)

    def _cells(self, cell: Any, header: bool, notes: list[str]) -> list[Cell]:
        lines = []
        for paragraph in cell.iter(*_PARAGRAPHS):
            text, found = self._text(paragraph)
            lines.append(text)
            notes.extend(found)
        made = Cell(
            "\n".join(line for line in lines if line),
            rows=max(1, whole(cell.get(_TABLE + "number-rows-spanned"), 1)),
            columns=max(1, whole(cell.get(_TABLE + "number-columns-spanned"), 1, _MAX_COLUMNS)),
            header=header,
        )
        times = whole(cell.get(_TABLE + "number-columns-repeated"), 1)
        return [made] * min(times, _MAX_REPEATED) if made.text else [replace(made, columns=min(times, _MAX_REPEATED))]

    def _text(self, paragraph: Any) -> tuple[str, list[str]]:
        """Text of one paragraph as it is shown, and its notes with the marks that stand in it."""
        inline = Inline()
        notes: list[str] = []
        why = self._styles.why_left_out(paragraph.get(TEXT + "style-name"))
        if why is not None:
            self.left_out[why] += len("".join(paragraph.itertext()))
            return "", []
        stack: list[Any] = [*reversed(paragraph), paragraph.text or ""]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                inline.add(item)
                continue
            if isinstance(item, tuple):
                mark, target = item
                inline.rewrite(mark, lambda text, target=target: linked(text, target))  # type: ignore[misc]
                continue
            stack.append(item.tail or "")
            if not isinstance(item.tag, str) or item.tag in {_DRAW + "text-box", _TABLE + "table"}:
                continue
            if item.tag == TEXT + "ruby":
                base, reading = ("".join(item.find(TEXT + name).itertext()) for name in ("ruby-base", "ruby-text"))
                inline.add_ruby(base, reading)
                continue
            if item.tag in _SKIPPED:
                continue
            why = self._styles.why_left_out(item.get(TEXT + "style-name")) if item.tag == TEXT + "span" else None
            if why is not None:
                self.left_out[why] += len("".join(item.itertext()))
                continue
            if item.tag == TEXT + "note":
                notes.append(self._note(item, inline))
                continue
            if item.tag == TEXT + "s":
                inline.add(" " * min(_MAX_SPACES, whole(item.get(TEXT + "c"), 1)))
            elif item.tag == TEXT + "tab":
                inline.add("\t")
            elif item.tag == TEXT + "line-break":
                inline.add("\n")
            elif item.tag == TEXT + "a":
                stack.append((inline.mark, item.get(_HREF)))
            stack.extend(reversed(item))
            stack.append(item.text or "")
        text, readings = inline.take()
        return text.strip() + readings, notes

    def _note(self, note: Any, inline: Inline) -> str:
        citation = note.find(TEXT + "note-citation")
        mark = "".join(citation.itertext()).strip() if citation is not None else ""
        if not mark:
            self._notes += 1
            mark = str(self._notes)
        inline.add(f"[{mark}]")
        body = note.find(TEXT + "note-body")
        words = ["".join(item.itertext()).strip() for item in body.iter(*_PARAGRAPHS)] if body is not None else []
        return f"[{mark}] " + "\n".join(filter(None, words))


def _flow(root: Any) -> Iterator[Any]:
    """Paragraphs, top-level tables, slides and their notes in reading order."""
    stack = [root]
    while stack:
        element = stack.pop()
        if not isinstance(element.tag, str) or element.tag in _SKIPPED:
            continue
        if element.tag in _PARAGRAPHS or element.tag == _TABLE + "table":
            yield element
            if element.tag in _PARAGRAPHS:  # a frame anchored in a paragraph has paragraphs of its own
                stack.extend(reversed(list(element.iter(_DRAW + "text-box"))))
            continue
        if element.tag in {_DRAW + "page", _PRESENTATION + "notes"}:
            yield element
        stack.extend(reversed(element))
