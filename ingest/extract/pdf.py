"""PDF to text: pypdfium2 page by page, pdfminer.six for the pages on which pypdfium2 shows signs of losing text.

Neither engine is right alone. pypdfium2 is ten times faster, but says nothing when it leaves text out (a page of 880
characters came back as 262). Which pages are read again, and whose reading is taken, is in `pdf_check`; a page that is
a picture is read by OCR (`pdf_scan`). Tables come from ruling lines and columns (`pdf_tables`), running headers and
page numbers are left out (`pdf_running`), and what remains becomes paragraphs (`pdf_layout`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from core.errors import ExtractionFailed
from core.types import ExtractedDocument
from ingest.extract.builder import TextBuilder
from ingest.extract.ocr import ocr_engine
from ingest.extract.pdf_check import Checks, looks_short, second_reading
from ingest.extract.pdf_layout import PageContent, write_pages
from ingest.extract.pdf_lines import Line
from ingest.extract.pdf_page import PageText, text_page_of
from ingest.extract.pdf_running import running_lines
from ingest.extract.pdf_scan import Scans, is_picture, read_scan
from ingest.extract.pdf_tables import page_items
from ingest.extract.repair import repair_text

_MAX_BOOKMARKS = 2_000


@dataclass(slots=True)
class _Reading:
    """A document while it is read."""

    checks: Checks
    scans: Scans
    failed: list[int]


def extract_pdf(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a PDF.

    Raises:
        ExtractionFailed: `encrypted_pdf`, `broken_pdf`, `no_text_layer` or `text_too_long`.
    """
    reading = _Reading(Checks(), Scans(), [])
    document = open_pdf(data)
    try:
        pages = list(_pages(document, data, reading))
        marks = _bookmarks(document)
    finally:
        document.close()
    if not pages:
        raise ExtractionFailed("the PDF has no pages that can be read", code="broken_pdf")
    if not any(page.items for page in pages):
        if len(reading.failed) == len(pages):
            raise ExtractionFailed("no page of the PDF can be read", code="broken_pdf")
        raise _no_text(len(pages), reading)
    empty = [page.number for page in pages if not page.items and page.number not in reading.failed]
    running = running_lines([page.items for page in pages], [page.height for page in pages])
    left_out = [
        item.text
        for page, drop in zip(pages, running, strict=True)
        for at, item in enumerate(page.items)
        if at in drop and isinstance(item, Line)
    ]
    pages = [
        replace(page, items=tuple(item for at, item in enumerate(page.items) if at not in drop))
        for page, drop in zip(pages, running, strict=True)
    ]
    repaired: dict[str, int] = {}
    pages = [_repaired(page, repaired) for page in pages]
    builder = TextBuilder(max_chars=max_chars)
    layout = write_pages(builder, pages, marks)
    return builder.build(
        "application/pdf",
        page_count=len(pages),
        title=layout.title,
        places=reading.scans.places,
        quality={
            "engine": "pypdfium2" if not reading.checks.pages_by_pdfminer else "pypdfium2+pdfminer.six",
            "pages_without_text": empty,
            "pages_failed": reading.failed,
            "pages_by_pdfminer": reading.checks.pages_by_pdfminer,
            "pages_not_checked": reading.checks.pages_not_checked,
            "repaired": repaired,
            "tables": layout.tables,
            "running_lines": len(left_out),
            "running_texts": list(dict.fromkeys(left_out))[:5],
            **reading.scans.facts(),
        },
    )


def open_pdf(data: bytes) -> Any:
    """The pypdfium2 document.

    Raises:
        ExtractionFailed: `encrypted_pdf` or `broken_pdf`.
    """
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise ExtractionFailed(
                "the PDF is protected by a password; save it without one and upload it again", code="encrypted_pdf"
            ) from error
        raise ExtractionFailed(f"the PDF cannot be opened: {error}", code="broken_pdf") from error


def _pages(document: Any, data: bytes, reading: _Reading) -> Iterator[PageContent]:
    import pypdfium2

    for index in range(len(document)):
        try:
            page = document[index]
            text_page = text_page_of(page)
        except pypdfium2.PdfiumError:
            reading.failed.append(index + 1)
            yield PageContent(index + 1, 0.0, ())
            continue
        text = PageText(page, text_page)
        raw = [text.shown(start, end) for start, end in text.runs()]
        items = page_items(page, text)
        if looks_short(page, text_page, raw, reading.checks):
            other = second_reading(data, index, raw, reading.checks)
            items = items if other is None else [*other]
        if is_picture(page, raw):
            items = read_scan(page, index, items, reading.scans)
        yield PageContent(index + 1, text.frame.size[1], tuple(items))
        text_page.close()
        page.close()


def _no_text(count: int, reading: _Reading) -> ExtractionFailed:
    """Why a PDF has no text at all: another try helps where an engine was missing, or its time was up."""
    if not reading.scans.pages_not_read:
        return ExtractionFailed(f"the {count} pages of the PDF are empty", code="no_text_layer")
    if ocr_engine() is None:
        return ExtractionFailed(
            f"none of the {count} pages has a text layer: they are pictures, and there is no OCR engine."
            " Install the extra `ocr` and retry, or upload a file with text",
            code="no_text_layer",
            retryable=True,
        )
    return ExtractionFailed(
        f"none of the {count} pages has a text layer: they are pictures, and the OCR engine found no readable text"
        " in them",
        code="no_text_layer",
    )


def _bookmarks(document: Any) -> dict[tuple[int, str], int]:
    """(page, title without white space) to heading level, from the outline. Empty where it cannot be read."""
    import pypdfium2

    marks: dict[tuple[int, str], int] = {}
    try:
        for mark in document.get_toc(max_depth=6):
            target = mark.get_dest()
            index = target.get_index() if target is not None else None
            if index is not None:
                marks.setdefault((index + 1, "".join(mark.get_title().split())), mark.level + 1)
            if len(marks) >= _MAX_BOOKMARKS:
                break
    except pypdfium2.PdfiumError:
        return marks
    return marks


def _repaired(page: PageContent, counts: dict[str, int]) -> PageContent:
    """The page with compatibility characters of broken fonts repaired, in lines and in cells."""
    texts = [
        text
        for item in page.items
        for text in ([item.text] if isinstance(item, Line) else [cell.text for row in item.rows for cell in row])
    ]
    whole, changed = repair_text("\0".join(texts))
    if not changed:
        return page
    for name, count in changed.items():
        counts[name] = counts.get(name, 0) + count
    fresh = iter(whole.split("\0"))
    return replace(
        page,
        items=tuple(
            replace(item, text=next(fresh))
            if isinstance(item, Line)
            else replace(item, rows=tuple(tuple(replace(cell, text=next(fresh)) for cell in row) for row in item.rows))
            for item in page.items
        ),
    )
