"""DOCX to text, straight from its XML: headings, lists with their automatic numbers, tables, notes, headers once.

Comes in two dialects: strict Open XML has other namespaces for the same elements, and is turned into the usual one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from core.types import BlockKind, ExtractedDocument
from ingest.extract.builder import TextBuilder
from ingest.extract.container import open_container
from ingest.extract.docx_numbering import Label, Numbering
from ingest.extract.docx_parts import R_ID, Package
from ingest.extract.docx_styles import Style, W, outline_level, read_styles, small_int, toggle, value_of
from ingest.extract.docx_table import is_layout, table_cells
from ingest.extract.docx_text import MC_FALLBACK, Note, ParagraphReader
from ingest.extract.grid import write_table

_MAX_HEADING_CHARS = 300
_MAX_NOTES_IN_NOTES = 3
_BULLETS = tuple("・•●○■□▪‣◦-–*※")
_ARTICLE = re.compile(r"第[^第]{1,12}[章節編部款条條項]")
_BARE_BULLET = Label("- ", bullet=True)
_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


def extract_docx(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a DOCX file.

    Raises:
        ExtractionFailed: `broken_docx`, `zip_bomb`, `unsafe_xml`, `encrypted_docx` or `text_too_long`.
    """
    with open_container(data, "DOCX", broken="broken_docx", encrypted="encrypted_docx") as archive:
        package = Package(archive)
        body = package.root(package.main)
        title = package.title()
        comments = package.part("comments.xml")
        writer = _Writer(package, TextBuilder(max_chars=max_chars))
        writer.write_margins(body)
        writer.write(body, package.main)
    return writer.builder.build(
        _MEDIA_TYPE,
        title=title or writer.first_heading,
        quality={
            "engine": "docx-xml",
            "tables": len(list(body.iter(W + "tbl"))),
            **{f"{why}_left_out": writer.left_out[why] for why in ("struck", "hidden", "deleted", "contents")},
            "comments_left_out": len(list(comments.iter(W + "comment"))) if comments is not None else 0,
        },
    )


class _Writer:
    """Writes the parts of one document into a builder."""

    def __init__(self, package: Package, builder: TextBuilder) -> None:
        self._package = package
        self._styles = read_styles(package.part("styles.xml"))
        self._numbering = Numbering(package.part("numbering.xml"), self._styles)
        self._reader = ParagraphReader(self._styles, package.notes())
        self._addresses: dict[str, dict[str, str]] = {}
        self.builder = builder
        self.first_heading: str | None = None

    @property
    def left_out(self) -> Counter[str]:
        """Characters that were not written, by reason."""
        return self._reader.left_out

    def write_margins(self, body: Any) -> None:
        """Headers and footers that the sections name, each text once; numbers of pages are left out."""
        parts, _ = self._package.relationships(self._package.main)
        written: set[str] = set()
        for kind in ("headerReference", "footerReference"):
            for reference in body.iter(W + kind):
                name = parts.get(reference.get(R_ID) or "")
                if name is None or name in written:
                    continue
                written.add(name)
                for element in _flow(self._package.root(name)):
                    if element.tag == W + "tbl":
                        self._write_table(element, name)
                        continue
                    text, _ = self._read(element, self._style(element)[1], name)
                    key = "".join(text.split())
                    if key not in written and any(character.isalpha() for character in text):
                        written.add(key)
                        self.builder.add(BlockKind.PARAGRAPH, text)

    def write(self, root: Any, part: str) -> None:
        """Paragraphs and tables below an element in reading order, each with its notes behind it."""
        for element in _flow(root):
            if element.tag == W + "tbl":
                self._write_table(element, part)
            else:
                self._write_paragraph(element, part)

    def _write_paragraph(self, element: Any, part: str) -> None:
        style_id, style = self._style(element)
        text, notes = self._read(element, style, part)
        label = self._label(element, style_id, style, empty=not text)
        if style.is_contents:
            self.left_out["contents"] += len(text)
            return
        level = outline_level(element) or style.heading_level
        following = element.getnext()
        if style.is_caption and following is not None and following.tag == W + "tbl":
            level = 6
        before = label.text if label is not None else ""
        if text and level is not None and len(text) <= _MAX_HEADING_CHARS:
            text = ("" if label is None or label.bullet else before) + " ".join(text.split())
            self.first_heading = self.first_heading or text
            self.builder.add(BlockKind.HEADING, text, level=level)
        elif text and before and not _ARTICLE.match(before):
            marked = label is not None and label.bullet and text.startswith(_BULLETS)
            self.builder.add(BlockKind.LIST_ITEM, text if marked else before + text)
        elif text:
            self.builder.add(BlockKind.PARAGRAPH, before + text)
        self._write_notes(notes)

    def _write_table(self, table: Any, part: str) -> None:
        if is_layout(table):
            self._write_flow(table, part)
            return
        notes: list[Note] = []
        write_table(self.builder, table_cells(table, lambda cell: self._cell_text(cell, part, notes)))
        self._write_notes(notes)

    def _write_flow(self, table: Any, part: str) -> None:
        """A table that only places text: its paragraphs and the tables inside it, in order."""
        stack: list[Any] = [table]
        while stack:
            outer = stack.pop()
            if outer.tag == W + "p":
                self._write_paragraph(outer, part)
            elif outer is not table and outer.tag == W + "tbl" and not is_layout(outer):
                self._write_table(outer, part)
            else:
                stack.extend(reversed([item for row in outer for item in _flow(row)]))

    def _cell_text(self, cell: Any, part: str, notes: list[Note]) -> str:
        lines = []
        for element in cell.iter(W + "p"):
            style_id, style = self._style(element)
            text, found = self._read(element, style, part)
            label = self._label(element, style_id, style, empty=not text)
            notes.extend(found)
            if text:
                lines.append((label.text if label is not None and not label.bullet else "") + text)
        return "\n".join(lines)

    def _write_notes(self, notes: Sequence[Note], depth: int = 0) -> None:
        for mark, (part, note) in notes:
            read = [self._read(element, self._style(element)[1], part) for element in note.iter(W + "p")]
            self.builder.add(BlockKind.PARAGRAPH, f"{mark} " + "\n".join(text for text, _ in read if text))
            for _, inner in read if depth < _MAX_NOTES_IN_NOTES else ():
                self._write_notes(inner, depth + 1)

    def _read(self, element: Any, style: Style, part: str) -> tuple[str, list[Note]]:
        if part not in self._addresses:
            self._addresses[part] = self._package.relationships(part)[1]
        self._reader.addresses = self._addresses[part]
        return self._reader.read(element, style)

    def _style(self, element: Any) -> tuple[str, Style]:
        identifier = value_of(element, f"{W}pPr/{W}pStyle") or ""
        return identifier, self._styles[identifier]

    def _label(self, element: Any, style_id: str, style: Style, *, empty: bool) -> Label | None:
        """Count a numbered paragraph; an empty one counts as well, but not one whose very end is hidden or deleted."""
        number = value_of(element, f"{W}pPr/{W}numPr/{W}numId") or style.numbering
        mark = element.find(f"{W}pPr/{W}rPr")
        gone = mark is not None and (toggle(mark, "vanish") or mark.find(W + "del") is not None)
        if number is None or number == "0" or (empty and gone):
            return None
        level = value_of(element, f"{W}pPr/{W}numPr/{W}ilvl")
        if level is not None:
            at = small_int(level, 0, most=8)
        elif style.level is not None:
            at = style.level
        else:
            at = self._numbering.level_of_style(number, style_id)
        return self._numbering.label(number, at) or _BARE_BULLET


def _flow(root: Any) -> Iterator[Any]:
    """Paragraphs and top-level tables in reading order, text boxes and content controls included."""
    stack = [root]
    while stack:
        element = stack.pop()
        if element.tag == W + "tbl":
            yield element
            continue
        if element.tag == W + "p":
            yield element
        if element.tag != MC_FALLBACK and isinstance(element.tag, str) and element.tag != W + "del":
            stack.extend(reversed(element))
