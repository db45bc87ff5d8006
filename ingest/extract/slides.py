"""PPTX through python-pptx: a page per slide, headed by its title, then its shapes from top to bottom, then notes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from core.errors import ExtractionFailed
from core.types import BlockKind, ExtractedDocument
from ingest.extract.builder import TextBuilder
from ingest.extract.container import open_container, refuse_doctypes

_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
_MAX_GROUP_DEPTH = 20
_ODD = (ValueError, LookupError, AttributeError, TypeError)
"""What python-pptx raises on parts that are missing or make no sense."""


@dataclass(slots=True)
class _Facts:
    title: str | None = None
    pictures: int = 0
    tables: int = 0
    shapes_failed: int = 0
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
            "shapes_failed": facts.shapes_failed,
            "pages_failed": facts.failed,
            "pages_without_text": facts.empty,
        },
    )


def _write_slide(slide: Any, number: int, builder: TextBuilder, facts: _Facts) -> None:
    from pptx.shapes.picture import Picture

    named = slide.shapes.title
    heading = " ".join(named.text_frame.text.split()) if named is not None else ""
    builder.add(BlockKind.HEADING, heading or f"Slide {number}", page=number, level=2)
    facts.title = facts.title or heading or None
    found = bool(heading)
    for shape in _in_reading_order(slide.shapes):
        if named is not None and shape.shape_id == named.shape_id:
            continue
        facts.pictures += isinstance(shape, Picture)
        facts.tables += bool(getattr(shape, "has_table", False))
        try:
            found |= _write_shape(shape, builder, number)
        except _ODD:
            facts.shapes_failed += 1
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        builder.add(BlockKind.PARAGRAPH, slide.notes_slide.notes_text_frame.text, page=number)
    if not found:
        facts.empty.append(number)


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


def _write_shape(shape: Any, builder: TextBuilder, page: int) -> bool:
    if getattr(shape, "has_table", False):
        rows = [" | ".join(" ".join(cell.text.split()) for cell in row.cells) for row in shape.table.rows]
        builder.add(BlockKind.TABLE, "\n".join(rows), page=page)
        return True
    if getattr(shape, "has_chart", False):
        return _write_chart(shape.chart, builder, page)
    if not shape.has_text_frame:
        return False
    written = False
    for paragraph in shape.text_frame.paragraphs:
        text = paragraph.text.replace("\v", "\n").strip()
        if text:
            written = True
            if paragraph.level:
                builder.add(BlockKind.LIST_ITEM, "- " + text, page=page)
            else:
                builder.add(BlockKind.PARAGRAPH, text, page=page)
    return written


def _write_chart(chart: Any, builder: TextBuilder, page: int) -> bool:
    """A chart is the table behind it."""
    if chart.has_title and chart.chart_title.has_text_frame:
        builder.add(BlockKind.PARAGRAPH, chart.chart_title.text_frame.text, page=page)
    lines: list[str] = []
    try:
        for plot in chart.plots:
            series = list(plot.series)
            lines.append(" | ".join(["", *(str(item.name) for item in series)]))
            for index, category in enumerate(plot.categories):
                values = [str(item.values[index]) if index < len(item.values) else "" for item in series]
                lines.append(" | ".join([str(category), *values]))
    except _ODD:
        lines = lines[:1]  # a kind of chart without categories; its title and series names are kept
    builder.add(BlockKind.TABLE, "\n".join(lines), page=page)
    return bool(lines)
