"""HTML to readable text: what a reader sees of a page, without the menus around it.

The tree is walked with an explicit stack: a page of 100,000 nested elements must not reach Python's recursion limit.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from core.types import BlockKind, ExtractedDocument
from ingest.encoding import decode_text
from ingest.extract.builder import TextBuilder
from ingest.extract.grid import write_table
from ingest.extract.html_look import Look
from ingest.extract.html_table import is_data_table, table_cells
from ingest.extract.inline import Inline
from ingest.extract.links import linked
from ingest.extract.numerals import number_text

_LISTS = frozenset(["ul", "ol", "menu"])
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset([
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog", "div", "dl",
    "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "hr", "html", "legend", "li",
    "main", "nav", "p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", *_LISTS, *_HEADINGS,
])  # fmt: skip
_QUESTION = re.compile(r"[QＱ][ \u3000]?[0-9０-９]{0,3}[.．:：、)） \u3000]|問[0-9０-９]")
_DEEPEST = 6
_NUMBER_TYPES = {"1": "decimal", "a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman"}
_NUMBER_STYLES = {
    "decimal": "decimal", "lower-alpha": "lowerLetter", "lower-latin": "lowerLetter", "upper-alpha": "upperLetter",
    "upper-latin": "upperLetter", "lower-roman": "lowerRoman", "upper-roman": "upperRoman",
    "cjk-ideographic": "japaneseCounting", "japanese-informal": "japaneseCounting", "katakana": "aiueo",
    "katakana-iroha": "iroha", "cjk-decimal": "ideographDigital", "cjk-heavenly-stem": "ideographTraditional",
    "decimal-leading-zero": "decimalZero",
}  # fmt: skip
_LIST_STYLE = re.compile(r"list-style(?:-type)?\s{0,9}:\s{0,9}([a-z\-]{1,40})", re.IGNORECASE)
_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s{0,20}=\s{0,20}[\"']?\s{0,20}([A-Za-z0-9_:.\-]{2,40})", re.IGNORECASE
)
_XML_ENCODING = re.compile(rb"\A\s*<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([A-Za-z0-9_:.\-]{2,40})", re.IGNORECASE)
_SPACE = re.compile(r"[^\S\u3000\u00a0]+")
_SPACES = re.compile(r" {2,}")
_WHOLE_INT = re.compile(r"-?[0-9]{1,6}")
_NO_VALUE = frozenset(["hidden", "password", "submit", "reset", "button", "image", "file", "search"])
_NOT_WORDS = " \t\r\n\u3000\u00a0☐☑"
"""A block of these alone is a switch of the page, not a line of it."""
_MIN_SHARE = 0.2
"""A page of which less is left without its menus is all menu: an index, a portal. It is then read whole."""


def extract_html(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract an HTML page. The charset comes from a BOM, else from `<meta>` if it decodes, else it is judged."""
    declared = _CHARSET.search(data[:8192]) or _XML_ENCODING.search(data[:512])
    decoded = decode_text(data, declared=declared.group(1).decode("ascii") if declared else None)
    builder, title, left_out = read_page(decoded.text, max_chars=max_chars)
    return builder.build(
        "text/html",
        encoding=decoded.encoding,
        title=title,
        quality={"engine": "lxml", "replaced": decoded.replaced, **left_out},
    )


def read_page(source: str, *, max_chars: int) -> tuple[TextBuilder, str | None, dict[str, int]]:
    """Blocks of a page, its `<title>`, and how many characters were left out, by reason."""
    builder = TextBuilder(max_chars=max_chars)
    if not source.strip():
        return builder, None, {}
    root = _parse(source)
    found = root.find(".//title")
    title = " ".join("".join(found.itertext()).split()) if found is not None else None
    walker = _Walker(builder, Look(root))
    walker.walk(root)
    if builder.length < _MIN_SHARE * walker.left_out["navigation"]:
        builder = TextBuilder(max_chars=max_chars)
        walker = _Walker(builder, Look(root), whole=True)
        walker.walk(root)
    reasons = ("struck", "hidden", "navigation")
    return builder, title or None, {f"{reason}_left_out": walker.left_out[reason] for reason in reasons}


def _parse(text: str) -> Any:
    from lxml import etree

    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True, huge_tree=True)
    root = etree.fromstring(text.encode("utf-8"), parser)
    return root if root is not None else etree.fromstring(b"<html></html>", parser)


@dataclass(slots=True)
class _List:
    """An open list: number of its next item, None for bullets; `step` is -1 where it counts down."""

    number: int | None
    number_format: str
    step: int = 1


class _CellText:
    """Takes the blocks of one table cell as lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, kind: BlockKind, text: str, *, level: int | None = None) -> None:
        """A line of the cell, whatever its kind."""
        if text.strip():
            self.lines.append(text.strip())


class _Walker:
    """Turns enter and leave events into blocks. `_inline` holds the text of the block being read."""

    def __init__(
        self, sink: TextBuilder | _CellText, look: Look, *, whole: bool = False, left_out: Counter[str] | None = None
    ) -> None:
        self._sink = sink
        self._look = look
        self._whole = whole
        self._inline = Inline()
        self._links: list[tuple[int, int]] = []
        self._lists: list[_List] = []
        self._marker: str | None = None
        self._in_item = 0
        self._below: list[str] = []
        self._terms: list[str] = []
        self._described = False
        self._descriptions: list[int] = []
        self._content = 0
        self._heading: int | None = None
        self._level = 0
        self._pre = 0
        self.left_out: Counter[str] = Counter() if left_out is None else left_out

    def walk(self, root: Any) -> None:
        """Visit the whole tree in document order."""
        stack: list[tuple[Any, bool]] = [(root, False)]
        while stack:
            element, leaving = stack.pop()
            if leaving:
                self._leave(element)
            elif self._is_left_out(element) or self._read_whole(element):
                pass
            else:
                self._enter(element)
                self._text(element.text)
                stack.append((element, True))
                stack.extend((child, False) for child in reversed(element))
                continue
            if element is not root:
                self._text(element.tail)
        self._flush()

    def _is_left_out(self, element: Any) -> bool:
        look = self._look
        if look.is_dropped(element):
            return True
        if look.is_hidden(element):
            reason = "hidden"
        elif look.is_struck(element):
            reason = "struck"
        elif not self._whole and look.is_navigation(element, inside_content=self._content > 0):
            reason = "navigation"
        else:
            return False
        self.left_out[reason] += sum(len(text.strip()) for text in element.itertext())
        return True

    def _read_whole(self, element: Any) -> bool:
        """Elements that are not walked into: data tables, ruby, fields of a form."""
        tag = element.tag
        if tag == "table" and isinstance(self._sink, TextBuilder) and is_data_table(element):
            self._flush()
            caption = element.find("caption")
            title = " ".join(self._cell_text(caption).split()) if caption is not None else None
            write_table(self._sink, table_cells(element, self._cell_text), title=title)
        elif tag == "ruby":
            self._read_ruby(element)
        elif tag in {"input", "textarea", "select"}:
            self._inline.add(_field_text(element))
        else:
            return False
        return True

    def _cell_text(self, cell: Any) -> str:
        lines = _CellText()
        _Walker(lines, self._look, whole=True, left_out=self.left_out).walk(cell)
        return "\n".join(lines.lines)

    def _read_ruby(self, element: Any) -> None:
        """Base texts with the readings that follow them; a base without one is just text."""
        base: list[str] = []
        stack: list[Any] = list(reversed(element))
        base.append(element.text or "")
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                base.append(item)
            elif item.tag == "rt":
                self._inline.add_ruby("".join(base), "".join(item.itertext()))
                base = [item.tail or ""]
            else:
                stack.append(item.tail or "")
                if item.tag not in {"rp", "script", "style"}:
                    stack.extend(reversed(item))
                    base.append(item.text or "")
        self._inline.add("".join(base).strip())

    def _enter(self, element: Any) -> None:
        tag = element.tag
        self._content += self._look.is_content(element)
        if tag == "br":
            self._inline.add("\n")
        elif tag == "img":
            self._inline.add(element.get("alt") or "")
        elif tag == "a":
            self._links.append(self._inline.mark)
        elif tag in {"td", "th"}:
            self._inline.add(" ")
        elif tag in _BLOCKS:
            self._flush()
            self._enter_block(element, tag)

    def _enter_block(self, element: Any, tag: str) -> None:
        if tag == "pre":
            self._pre += 1
        elif tag in _HEADINGS:
            self._heading = self._level = _HEADINGS[tag]
        elif tag == "summary":
            self._heading = min(_DEEPEST, self._level + 1)
        elif tag in _LISTS:
            self._lists.append(_opened_list(element))
        elif tag == "li":
            if self._descriptions and self._marker:
                self._sink.add(BlockKind.LIST_ITEM, self._marker)  # a description that is a list
            self._marker = self._item_marker(element)
            self._in_item += 1
        elif tag == "dt" and self._described:
            self._terms, self._described = [], False
        elif tag == "dd":
            self._open_description()

    def _leave(self, element: Any) -> None:
        tag = element.tag
        self._content -= self._look.is_content(element)
        if tag == "a" and self._links:
            self._inline.rewrite(self._links.pop(), lambda text: self._linked(text, element.get("href")))
        elif tag == "dt":
            term, readings = self._inline.take()
            self._terms.append(" ".join(term.split()) + readings)
        elif tag in _BLOCKS:
            self._flush(BlockKind.CODE if tag == "pre" else None)
            self._leave_block(tag)

    def _leave_block(self, tag: str) -> None:
        if tag in _HEADINGS or tag == "summary":
            self._heading = None
        elif tag == "pre":
            self._pre -= 1
        elif tag in _LISTS and self._lists:
            self._lists.pop()
        elif tag == "li":
            self._in_item -= 1
        elif tag == "dd" and self._descriptions:
            self._in_item -= self._descriptions.pop()
            self._marker = None
        elif tag == "dl":
            if not self._described:
                self._sink.add(BlockKind.LIST_ITEM, " / ".join(self._terms))
            self._terms, self._described = [], False

    def _open_description(self) -> None:
        """What describes a term is a line with it, `term: description`; an answer stands under its question."""
        term = " / ".join(self._terms)
        if term.endswith(("?", "？")) or _QUESTION.match(term):
            if not self._described:
                self._sink.add(BlockKind.HEADING, term, level=min(_DEEPEST, self._level + 1))
            self._descriptions.append(0)
        else:
            self._marker = f"{term}: " if term else None
            self._in_item += 1
            self._descriptions.append(1)
        self._described = True

    def _linked(self, text: str, target: str | None) -> str:
        """A link with its target; that of a heading comes below it, as headings stand above every passage."""
        shown = linked(text, target)
        if self._heading is None or shown == text:
            return shown
        self._below.append(shown.strip())
        return text

    def _item_marker(self, element: Any) -> str:
        numbers = self._lists[-1] if self._lists else None
        if numbers is None or numbers.number is None:
            return "- " if isinstance(self._sink, TextBuilder) else "・"
        own = (element.get("value") or "").strip()
        number = int(own) if _WHOLE_INT.fullmatch(own) else numbers.number
        numbers.number = number + numbers.step
        return f"{number_text(number, numbers.number_format)}. "

    def _text(self, text: str | None) -> None:
        if text:
            self._inline.add(text if self._pre else _SPACE.sub(" ", text))

    def _flush(self, kind: BlockKind | None = None) -> None:
        text, readings = self._inline.take()
        if not self._pre:
            text = "\n".join(_SPACES.sub(" ", line).strip(" ") for line in text.split("\n"))
        if not text.strip(_NOT_WORDS):
            return
        if self._heading is not None:
            self._sink.add(BlockKind.HEADING, " ".join(text.split()), level=self._heading)
            self._sink.add(BlockKind.PARAGRAPH, "\n".join([*self._below, readings]))
            self._below = []
        elif kind is BlockKind.CODE or self._pre:
            self._sink.add(BlockKind.CODE, text)
        elif self._in_item:
            self._sink.add(BlockKind.LIST_ITEM, (self._marker or "") + text.strip() + readings)
            self._marker = None
        else:
            self._sink.add(BlockKind.PARAGRAPH, text.rstrip() + readings)


def _opened_list(element: Any) -> _List:
    if element.tag != "ol":
        return _List(None, "bullet")
    style = _LIST_STYLE.search(element.get("style") or "")
    number_format = _NUMBER_STYLES.get(style.group(1).lower()) if style else None
    number_format = number_format or _NUMBER_TYPES.get(element.get("type") or "1", "decimal")
    start = (element.get("start") or "").strip()
    backwards = element.get("reversed") is not None
    first = sum(1 for _ in element.iterchildren("li")) if backwards else 1
    return _List(int(start) if _WHOLE_INT.fullmatch(start) else first, number_format, -1 if backwards else 1)


def _field_text(element: Any) -> str:
    """What a field of a form shows: its text, its choice, its tick."""
    if element.tag == "select":
        chosen = [item for item in element.iter("option") if item.get("selected") is not None]
        return " ".join(" ".join("".join(item.itertext()).split()) for item in chosen)
    if element.tag == "textarea":
        return "".join(element.itertext())
    kind = (element.get("type") or "text").lower()
    if kind in {"checkbox", "radio"}:
        return "☑" if element.get("checked") is not None else "☐"
    return "" if kind in _NO_VALUE else element.get("value") or ""
