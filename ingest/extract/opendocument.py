"""ODT and ODP, straight from `content.xml`. Headings by outline level, slides by their page, tables as rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core.types import BlockKind, ExtractedDocument
from ingest.extract.builder import TextBuilder
from ingest.extract.container import open_container, read_xml
from ingest.extract.tables import add_rows

_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_DRAW = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
_DC = "{http://purl.org/dc/elements/1.1/}"
_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_SKIPPED = frozenset({_TEXT + "tracked-changes", _OFFICE + "annotation", _TEXT + "ruby-text"})
_MAX_SPACES = 100
_MAX_REPEATED = 100


def extract_opendocument(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a text document or a presentation.

    Raises:
        ExtractionFailed: `broken_document`, `encrypted_document`, `zip_bomb`, `unsafe_xml`, `text_too_long`.
    """
    with open_container(data, "OpenDocument") as archive:
        content = read_xml(archive, "content.xml")
        meta = read_xml(archive, "meta.xml") if "meta.xml" in archive.namelist() else None
        media_type = archive.read("mimetype")[:200].decode("ascii", errors="replace").strip()
    builder = TextBuilder(max_chars=max_chars)
    title = (meta.findtext(f".//{_DC}title") or "").strip() if meta is not None else ""
    first_heading, pages, tables = _write(content, builder)
    return builder.build(
        media_type,
        page_count=pages or None,
        title=title or first_heading,
        quality={"engine": "odf-xml", "tables": tables},
    )


def _write(content: Any, builder: TextBuilder) -> tuple[str | None, int, int]:
    first_heading: str | None = None
    pages = tables = 0
    for element in _flow(content):
        if element.tag == _DRAW + "page":
            pages += 1
            builder.add(BlockKind.HEADING, element.get(_DRAW + "name") or f"Slide {pages}", page=pages, level=2)
        elif element.tag == _TABLE + "table":
            tables += add_rows(builder, _rows(element), page=pages or None)
        else:
            text = _text_of(element)
            if element.tag == _TEXT + "h":
                level = element.get(_TEXT + "outline-level") or "1"
                text = " ".join(text.split())
                first_heading = first_heading or text or None
                number = min(9, max(1, int(level))) if level.isascii() and level.isdigit() else 1
                builder.add(BlockKind.HEADING, text, page=pages or None, level=number)
            elif next(element.iterancestors(_TEXT + "list-item"), None) is not None:
                builder.add(BlockKind.LIST_ITEM, "- " + text.strip() if text.strip() else "", page=pages or None)
            else:
                builder.add(BlockKind.PARAGRAPH, text, page=pages or None)
    return first_heading, pages, tables


def _flow(root: Any) -> Iterator[Any]:
    stack = [root]
    while stack:
        element = stack.pop()
        if not isinstance(element.tag, str) or element.tag in _SKIPPED:
            continue
        if element.tag in {_TEXT + "h", _TEXT + "p", _TABLE + "table"}:
            yield element
            if element.tag == _TEXT + "p":  # a frame anchored in a paragraph has paragraphs of its own
                stack.extend(reversed(list(element.iter(_DRAW + "text-box"))))
            continue
        if element.tag == _DRAW + "page":
            yield element
        stack.extend(reversed(element))


def _text_of(element: Any) -> str:
    parts: list[str] = []
    stack: list[Any] = [element]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            parts.append(item)
            continue
        if item is not element and item.tail:
            stack.append(item.tail)
        if not isinstance(item.tag, str) or item.tag in _SKIPPED or item.tag == _DRAW + "text-box":
            continue
        if item.tag == _TEXT + "s":
            count = item.get(_TEXT + "c") or "1"
            parts.append(" " * min(_MAX_SPACES, int(count) if count.isascii() and count.isdigit() else 1))
        elif item.tag == _TEXT + "tab":
            parts.append("\t")
        elif item.tag == _TEXT + "line-break":
            parts.append("\n")
        stack.extend(reversed(item))
        if item.text:
            stack.append(item.text)
    return "".join(parts)


def _rows(table: Any) -> Iterator[list[str]]:
    for row in table.iter(_TABLE + "table-row"):
        cells: list[str] = []
        for cell in row:
            if cell.tag not in {_TABLE + "table-cell", _TABLE + "covered-table-cell"}:
                continue
            text = " ".join(_text_of(p) for p in cell.iter(_TEXT + "p", _TEXT + "h"))
            times = cell.get(_TABLE + "number-columns-repeated") or "1"
            repeated = int(times) if times.isascii() and times.isdigit() and len(times) < 6 else 1
            cells.extend([text] * min(repeated, _MAX_REPEATED))
        yield cells
