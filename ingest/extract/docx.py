"""DOCX to text, straight from its XML. Headings by style or outline level, lists, tables as rows of `cell | cell`.

Comes in two dialects: strict Open XML has other namespaces for the same elements, and is turned into the usual one.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from core.errors import ExtractionFailed
from core.types import BlockKind, ExtractedDocument
from ingest.extract.builder import TextBuilder
from ingest.extract.container import open_container, read_part, read_xml

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_W_STRICT = "{http://purl.oclc.org/ooxml/wordprocessingml/main}"
_MC_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_OFFICE_DOCUMENT = re.compile(rb"Target=\"/?([^\"]+)\"")
_MAX_HEADING_CHARS = 300
_NOT_TEXT = {_W + name for name in ("p", "tbl", "del", "moveFrom", "rt", "pPr", "instrText")} | {_MC_FALLBACK}
_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


def extract_docx(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a DOCX file.

    Raises:
        ExtractionFailed: `broken_docx`, `zip_bomb`, `unsafe_xml`, `encrypted_docx` or `text_too_long`.
    """
    with open_container(data, "DOCX", broken="broken_docx", encrypted="encrypted_docx") as archive:
        main = _main_part(archive)
        body = _read_xml(archive, main)
        folder = main.rpartition("/")[0]
        styles = _read_styles(archive, f"{folder}/styles.xml")
        title = _core_title(archive)
        notes = [_read_optional(archive, f"{folder}/{name}.xml") for name in ("footnotes", "endnotes")]
    builder = TextBuilder(max_chars=max_chars)
    first_heading = _write_body(body, styles, builder)
    for note in notes:
        if note is not None:
            _write_body(note, _Styles(), builder)
    return builder.build(
        _MEDIA_TYPE,
        title=title or first_heading,
        quality={"engine": "docx-xml", "tables": len(list(body.iter(_W + "tbl")))},
    )


def _main_part(archive: zipfile.ZipFile) -> str:
    names = set(archive.namelist())
    if "word/document.xml" in names:
        return "word/document.xml"
    if "_rels/.rels" in names:
        for target in _OFFICE_DOCUMENT.findall(read_part(archive, "_rels/.rels")):
            name = target.decode("utf-8", errors="replace")
            if name.endswith(".xml") and "document" in name and name in names:
                return str(name)
    raise ExtractionFailed("the ZIP holds no Word document", code="unsupported_format")


def _read_xml(archive: zipfile.ZipFile, name: str) -> Any:
    """A part, with the names of strict Open XML turned into those that everyone writes."""
    root = read_xml(archive, name, broken="broken_docx")
    if root.tag.startswith(_W_STRICT):
        for element in root.iter():
            if isinstance(element.tag, str) and element.tag.startswith(_W_STRICT):
                element.tag = _W + element.tag[len(_W_STRICT) :]
            for key in [k for k in element.attrib if k.startswith(_W_STRICT)]:
                element.set(_W + key[len(_W_STRICT) :], element.get(key))
    return root


def _read_optional(archive: zipfile.ZipFile, name: str) -> Any | None:
    return _read_xml(archive, name) if name in archive.namelist() else None


def _core_title(archive: zipfile.ZipFile) -> str | None:
    core = _read_optional(archive, "docProps/core.xml")
    if core is None:
        return None
    found = core.find("{http://purl.org/dc/elements/1.1/}title")
    return (found.text or "").strip() or None if found is not None else None


@dataclass(frozen=True, slots=True)
class _Styles:
    """What paragraph styles say about structure, by style id, inherited from the styles they are based on."""

    heading_levels: Mapping[str, int] = field(default_factory=dict)
    lists: frozenset[str] = frozenset()


def _read_styles(archive: zipfile.ZipFile, name: str) -> _Styles:
    root = _read_optional(archive, name)
    if root is None:
        return _Styles()
    levels: dict[str, int] = {}
    lists: set[str] = set()
    based_on: dict[str, str] = {}
    for style in root.iter(_W + "style"):
        identifier = style.get(_W + "styleId") or ""
        parent = style.find(_W + "basedOn")
        if parent is not None:
            based_on[identifier] = parent.get(_W + "val") or ""
        if style.find(f"{_W}pPr/{_W}numPr") is not None:
            lists.add(identifier)
        level = _own_level(style)
        if level is not None:
            levels[identifier] = level
    chains = {identifier: _ancestry(identifier, based_on) for identifier in {*based_on, *levels, *lists}}
    return _Styles(
        heading_levels={
            identifier: next(levels[style] for style in chain if style in levels)
            for identifier, chain in chains.items()
            if any(style in levels for style in chain)
        },
        lists=frozenset(identifier for identifier, chain in chains.items() if not lists.isdisjoint(chain)),
    )


def _own_level(style: Any) -> int | None:
    outline = _outline_level(style)
    if outline is not None:
        return outline
    label = style.find(_W + "name")
    text = (label.get(_W + "val") or "").lower() if label is not None else ""
    named = re.fullmatch(r"(?:heading|見出し)\s*([1-9])", text)
    if named:
        return int(named.group(1))
    return 1 if text == "title" else None


def _outline_level(element: Any) -> int | None:
    """1 to 9 from `w:outlineLvl`, where 0 is the top and 9 means body text."""
    outline = element.find(f"{_W}pPr/{_W}outlineLvl")
    value = outline.get(_W + "val") or "" if outline is not None else ""
    return int(value) + 1 if value in set("012345678") else None


def _ancestry(identifier: str, based_on: Mapping[str, str]) -> list[str]:
    chain = [identifier]
    while chain[-1] in based_on and based_on[chain[-1]] not in chain:
        chain.append(based_on[chain[-1]])
    return chain


def _write_body(root: Any, styles: _Styles, builder: TextBuilder) -> str | None:
    first_heading: str | None = None
    for element in _flow(root):
        if element.tag == _W + "tbl":
            builder.add(BlockKind.TABLE, "\n".join(_rows(element)))
            continue
        text = _paragraph_text(element)
        if not text.strip():
            continue
        style = element.find(f"{_W}pPr/{_W}pStyle")
        style_id = style.get(_W + "val") or "" if style is not None else ""
        level = _outline_level(element) or styles.heading_levels.get(style_id)
        if level is not None and len(text) <= _MAX_HEADING_CHARS:
            text = " ".join(text.split())
            first_heading = first_heading or text
            builder.add(BlockKind.HEADING, text, level=level)
        elif style_id in styles.lists or element.find(f"{_W}pPr/{_W}numPr") is not None:
            builder.add(BlockKind.LIST_ITEM, "- " + text.strip())
        else:
            builder.add(BlockKind.PARAGRAPH, text)
    return first_heading


def _flow(root: Any) -> Iterator[Any]:
    """Paragraphs and top-level tables in reading order, text boxes and content controls included."""
    stack = [root]
    while stack:
        element = stack.pop()
        if element.tag == _W + "tbl":
            yield element
            continue
        if element.tag == _W + "p":
            yield element
        if element.tag != _MC_FALLBACK and isinstance(element.tag, str) and element.tag != _W + "del":
            stack.extend(reversed(element))


def _paragraph_text(paragraph: Any) -> str:
    """Text of one paragraph as accepted: insertions kept, deletions dropped; a text box inside it comes on its own."""
    parts: list[str] = []
    stack = list(reversed(paragraph))
    while stack:
        element = stack.pop()
        tag = element.tag
        if tag in {_W + "t", _W + "delText"}:
            if tag == _W + "t":
                parts.append(element.text or "")
        elif tag in {_W + "tab", _W + "ptab"}:
            parts.append("\t")
        elif tag in {_W + "br", _W + "cr"}:
            parts.append("\n")
        elif tag == _W + "noBreakHyphen":
            parts.append("-")
        elif tag in _NOT_TEXT:
            continue
        else:
            stack.extend(reversed(element))
    return "".join(parts)


def _rows(table: Any) -> Iterator[str]:
    for row in table.iter(_W + "tr"):
        if next(row.iterancestors(_W + "tbl")) is not table:
            continue  # a nested table is read as part of its cell
        cells = []
        for cell in row.iter(_W + "tc"):
            if next(cell.iterancestors(_W + "tr")) is not row:
                continue
            texts = [" ".join(_paragraph_text(p).split()) for p in cell.iter(_W + "p")]
            cells.append(" ".join(text for text in texts if text))
        if any(cells):
            yield " | ".join(cells)
