"""PPTX through python-pptx: a page per slide, headed by its title, then its shapes from top to bottom, then its notes.

Notes stand under a heading of their own, and a hidden slide says so in its title: who quotes them should know.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from core.errors import ExtractionFailed
from core.types import BlockKind, ExtractedDocument
from ingest.extract.builder import TextBuilder
from ingest.extract.container import open_container, refuse_doctypes
from ingest.extract.grid import Cell, write_table
from ingest.extract.slide_text import frame_lines, write_paragraphs

_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
_MAX_GROUP_DEPTH = 20
_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_DIAGRAM_IDS = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}relIds"
_DIAGRAM_DATA = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}dm"
_ODD = (ValueError, LookupError, AttributeError, TypeError)
"""What python-pptx raises on parts that are missing or make no sense."""


@dataclass(slots=True)
class _Facts:
    title: str | None = None
    pictures: int = 0
    tables: int = 0
    hidden: int = 0
    shapes_failed: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    empty: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)


def extract_slides(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a presentation.

    Raises:
        ExtractionFailed: `broken_document`, `encrypted_document`, `zip_bomb`, `unsafe_xml`, `text_too_long`.
    """
    with open_container(data, "presentation") as archive:
        refuse_doctypes(archive)
    from pptx import Presentation

    try:
        presentation = Presentation(io.BytesIO(data))
        slides = list(presentation.slides)
    except MemoryError:
        raise
    except Exception as error:
        raise ExtractionFailed(f"the presentation cannot be read: {error}", code="broken_document") from error
    builder = TextBuilder(max_chars=max_chars)
    facts = _Facts()
    for number, slide in enumerate(slides, start=1):
        try:
            _write_slide(slide, number, builder, facts)
        except _ODD:
            facts.failed.append(number)  # one slide that the library cannot make sense of; the others are read
    try:
        title = (presentation.core_properties.title or "").strip() or facts.title
    except _ODD:
        title = facts.title
    return builder.build(
        _MEDIA_TYPE,
        page_count=len(slides),
        title=title,
        quality={
            "engine": "python-pptx",
            "tables": facts.tables,
            "pictures": facts.pictures,
            "hidden_slides": facts.hidden,
            "struck_left_out": facts.left_out["struck"],
            "shapes_failed": facts.shapes_failed,
            "pages_failed": facts.failed,
            "pages_without_text": facts.empty,
        },
    )


def _write_slide(slide: Any, number: int, builder: TextBuilder, facts: _Facts) -> None:
    from pptx.shapes.picture import Picture

    named = slide.shapes.title
    shown = frame_lines(named.text_frame, facts.left_out) if named is not None else []
    heading = " ".join(" ".join(text for _, text in shown).split())
    hidden = slide.element.get("show") in {"0", "false"}
    facts.hidden += hidden
    mark = " (hidden slide)" if hidden and not _is_japanese(heading) else "（非表示スライド）" if hidden else ""
    builder.add(BlockKind.HEADING, (heading or f"Slide {number}") + mark, page=number, level=2)
    facts.title = facts.title or heading or None
    found = bool(heading)
    for shape in _in_reading_order(slide.shapes):
        if named is not None and shape.shape_id == named.shape_id:
            continue
        facts.pictures += isinstance(shape, Picture)
        try:
            found |= _write_shape(shape, builder, number, facts)
        except _ODD:
            facts.shapes_failed += 1
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        notes = slide.notes_slide.notes_text_frame
        if notes.text.strip():
            title = "発表者ノート" if _is_japanese(heading + notes.text) else "Speaker notes"
            builder.add(BlockKind.HEADING, title, page=number, level=3)
            write_paragraphs(notes, builder, number, facts.left_out)
    if not found:
        facts.empty.append(number)


def _is_japanese(text: str) -> bool:
    return any("\u3040" <= character <= "\u30ff" or "\u4e00" <= character <= "\u9fff" for character in text)


def _in_reading_order(shapes: Any, depth: int = 0) -> Iterator[Any]:
    """Top to bottom, then left to right; groups are entered. Shapes without a place keep the order of the file."""
    for shape in sorted(shapes, key=_place):
        if hasattr(shape, "shapes"):
            if depth < _MAX_GROUP_DEPTH:
                yield from _in_reading_order(shape.shapes, depth + 1)
        else:
            yield shape


def _place(shape: Any) -> tuple[int, int]:
    try:
        return shape.top or 0, shape.left or 0
    except _ODD:  # a placeholder whose place is that of a layout that is not there
        return 0, 0


def _write_shape(shape: Any, builder: TextBuilder, page: int, facts: _Facts) -> bool:
    if getattr(shape, "has_table", False):
        facts.tables += write_table(builder, _table_cells(shape.table, facts), page=page)
        return True
    if getattr(shape, "has_chart", False):
        return _write_chart(shape.chart, builder, page)
    if not shape.has_text_frame:
        return _write_diagram(shape, builder, page)
    return write_paragraphs(shape.text_frame, builder, page, facts.left_out)


def _table_cells(table: Any, facts: _Facts) -> list[list[Cell]]:
    """Cells with their spans; those that another one reaches over are not cells of their own."""
    rows = []
    for number, row in enumerate(table.rows):
        header = bool(table.first_row) and number == 0
        rows.append(
            [
                Cell(
                    "\n".join(text for _, text in frame_lines(cell.text_frame, facts.left_out)),
                    rows=cell.span_height if cell.is_merge_origin else 1,
                    columns=cell.span_width if cell.is_merge_origin else 1,
                    header=header,
                )
                for cell in row.cells
                if not cell.is_spanned
            ]
        )
    return rows


def _write_chart(chart: Any, builder: TextBuilder, page: int) -> bool:
    """A chart is the table behind it."""
    title = chart.chart_title.text_frame.text if chart.has_title and chart.chart_title.has_text_frame else None
    rows: list[list[Cell]] = []
    names: list[str] = []
    try:
        for plot in chart.plots:
            series = list(plot.series)
            names.extend(str(item.name) for item in series)
            corner = "項目" if _is_japanese("".join([title or "", *names])) else "Category"
            rows = rows or [[Cell(corner, header=True), *(Cell(name, header=True) for name in names)]]
            for index, category in enumerate(plot.categories):
                values = [_shown(item.values[index]) if index < len(item.values) else "" for item in series]
                rows.append([Cell(str(category)), *map(Cell, values)])
    except _ODD:
        rows = []  # a kind of chart without categories; its title and series names are kept
    if rows:
        write_table(builder, rows, page=page, title=title)
    else:
        builder.add(BlockKind.PARAGRAPH, "\n".join([title or "", *names]), page=page)
    return bool(rows or names or title)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _write_diagram(shape: Any, builder: TextBuilder, page: int) -> bool:
    """The words of a SmartArt graphic, which stand in a part of their own."""
    relations = next(iter(shape.element.iter(_DIAGRAM_IDS)), None)
    if relations is None:
        return False
    from lxml import etree

    blob = shape.part.related_part(relations.get(_DIAGRAM_DATA)).blob
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    lines = []
    try:
        root = etree.fromstring(blob, parser)
    except etree.XMLSyntaxError as error:
        raise ValueError("the graphic's part is broken") from error
    for paragraph in root.iter(_A + "p"):
        lines.append("".join(item.text or "" for item in paragraph.iter(_A + "t")).strip())
    for line in filter(None, lines):
        builder.add(BlockKind.LIST_ITEM, "- " + line, page=page)
    return any(lines)
