"""HTML to readable text: what a reader sees. Scripts, styles, templates and hidden elements are dropped.

The tree is walked with an explicit stack: a page of 100,000 nested elements must not reach Python's recursion limit.
"""

from __future__ import annotations

import re
from typing import Any

from core.types import BlockKind, ExtractedDocument
from ingest.encoding import decode_text
from ingest.extract.builder import TextBuilder

_DROPPED = frozenset(
    [
        "script",
        "style",
        "template",
        "noscript",
        "head",
        "svg",
        "canvas",
        "iframe",
        "object",
        "embed",
        "audio",
        "video",
        "select",
        "button",
        "input",
        "textarea",
    ]
)
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "caption",
        "center",
        "dd",
        "details",
        "dialog",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "hgroup",
        "hr",
        "html",
        "legend",
        "li",
        "main",
        "menu",
        "nav",
        "ol",
        "p",
        "section",
        "summary",
        "ul",
    ]
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.\-]{2,40})", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"\A\s*<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([A-Za-z0-9_:.\-]{2,40})", re.IGNORECASE)
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_SPACE = re.compile(r"[^\S\u3000\u00a0]+")
_MAX_TABLE_CELLS = 40


def extract_html(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract an HTML page. The charset comes from a BOM, else from `<meta>` if it decodes, else it is judged."""
    declared = _CHARSET.search(data[:8192]) or _XML_ENCODING.search(data[:512])
    decoded = decode_text(data, declared=declared.group(1).decode("ascii") if declared else None)
    builder = TextBuilder(max_chars=max_chars)
    title = None
    if decoded.text.strip():
        root = _parse(decoded.text)
        found = root.find(".//title")
        title = " ".join("".join(found.itertext()).split()) if found is not None else None
        _Walker(builder).walk(root)
    return builder.build(
        "text/html",
        encoding=decoded.encoding,
        title=title or None,
        quality={"engine": "lxml", "replaced": decoded.replaced},
    )


def _parse(text: str) -> Any:
    from lxml import etree

    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True, huge_tree=True)
    root = etree.fromstring(text.encode("utf-8"), parser)
    return root if root is not None else etree.fromstring(b"<html></html>", parser)


class _Walker:
    """Turns enter and leave events into blocks. `_inline` holds the text of the block being read."""

    def __init__(self, builder: TextBuilder) -> None:
        self._builder = builder
        self._inline: list[str] = []
        self._lists: list[int | None] = []
        self._marker: str | None = None
        self._in_item = 0
        self._heading: int | None = None
        self._pre = 0

    def walk(self, root: Any) -> None:
        """Visit the whole tree in document order."""
        stack: list[tuple[Any, bool]] = [(root, False)]
        while stack:
            element, leaving = stack.pop()
            if leaving:
                self._leave(element)
                self._text(element.tail)
                continue
            if self._skipped(element):
                self._text(element.tail)
            elif element.tag == "table" and _is_data_table(element):
                self._flush()
                self._builder.add(BlockKind.TABLE, _table_text(element))
                self._text(element.tail)
            else:
                self._enter(element)
                self._text(element.text)
                stack.append((element, True))
                stack.extend((child, False) for child in reversed(element))
        self._flush()

    @staticmethod
    def _skipped(element: Any) -> bool:
        if not isinstance(element.tag, str) or element.tag in _DROPPED:
            return True
        if element.get("hidden") is not None or (element.get("aria-hidden") or "").lower() == "true":
            return True
        return bool(_HIDDEN_STYLE.search(element.get("style") or ""))

    def _enter(self, element: Any) -> None:
        tag = element.tag
        if tag == "br":
            self._inline.append("\n")
        elif tag == "img":
            self._inline.append(element.get("alt") or "")
        elif tag == "pre":
            self._flush()
            self._pre += 1
        elif tag in _HEADINGS:
            self._flush()
            self._heading = _HEADINGS[tag]
        elif tag in {"ul", "ol", "menu"}:
            self._flush()
            start = element.get("start") or "1"
            self._lists.append((int(start) if start.isascii() and start.isdigit() else 1) if tag == "ol" else None)
        elif tag == "li":
            self._flush()
            number = self._lists[-1] if self._lists else None
            self._marker = "- " if number is None else f"{number}. "
            if number is not None:
                self._lists[-1] = number + 1
            self._in_item += 1
        elif tag in _BLOCKS or tag in {"tr", "table"}:
            self._flush()
        elif tag in {"td", "th"}:
            self._inline.append(" ")

    def _leave(self, element: Any) -> None:
        tag = element.tag
        if tag in _HEADINGS:
            self._flush()
            self._heading = None
        elif tag == "pre":
            self._flush(BlockKind.CODE)
            self._pre -= 1
        elif tag in {"ul", "ol", "menu"}:
            self._flush()
            if self._lists:
                self._lists.pop()
        elif tag == "li":
            self._flush()
            self._in_item -= 1
        elif tag in _BLOCKS or tag in {"tr", "table"}:
            self._flush()

    def _text(self, text: str | None) -> None:
        if text:
            self._inline.append(text if self._pre else _SPACE.sub(" ", text))

    def _flush(self, kind: BlockKind | None = None) -> None:
        text = "".join(self._inline)
        self._inline = []
        if not self._pre:
            text = "\n".join(re.sub(r" {2,}", " ", line).strip(" ") for line in text.split("\n"))
        if not text.strip():
            return
        if self._heading is not None:
            self._builder.add(BlockKind.HEADING, " ".join(text.split()), level=self._heading)
        elif kind is BlockKind.CODE or self._pre:
            self._builder.add(BlockKind.CODE, text)
        elif self._in_item:
            self._builder.add(BlockKind.LIST_ITEM, (self._marker or "") + text.strip())
            self._marker = None
        else:
            self._builder.add(BlockKind.PARAGRAPH, text)


def _is_data_table(table: Any) -> bool:
    """Layout tables hold tables, headings or long flows; those are walked as blocks."""
    if table.find(".//table") is not None or table.find(".//p/following-sibling::p") is not None:
        return False
    if any(table.find(f".//{tag}") is not None for tag in ("h1", "h2", "h3", "ul", "ol", "pre", "form")):
        return False
    rows = table.findall(".//tr")
    return bool(rows) and max((len(row) for row in rows), default=0) > 1


def _table_text(table: Any) -> str:
    lines = []
    for row in table.iter("tr", "caption"):
        if row.tag == "caption":
            lines.append(_cell_text(row))
            continue
        cells = [_cell_text(cell) for cell in row if cell.tag in {"td", "th"}]
        if any(cells):
            lines.append(" | ".join(cells[:_MAX_TABLE_CELLS]))
    return "\n".join(lines)


def _cell_text(cell: Any) -> str:
    parts: list[str] = []
    stack: list[Any] = [cell]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            parts.append(item)
            continue
        if item is not cell:
            if item.tail:
                stack.append(item.tail)
            if _Walker._skipped(item):
                continue
            if item.tag == "br":
                parts.append(" ")
        stack.extend(reversed(item))
        if item.text:
            parts.append(item.text)
    return " ".join("".join(parts).split())
