"""PDF to text: pypdfium2 page by page, pdfminer.six for the pages on which pypdfium2 shows signs of losing text.

Neither engine is right alone. pypdfium2 is ten times faster, but says nothing when it leaves text out (a page of 880
characters came back as 262). The sign is text objects that yield no text; such a page is read by pdfminer.six too, and
its text is taken when it holds character sequences that the other one lacks. Doubled text, which some writers print to
look bold, adds none and so does not count. A page that is a picture (no text, noise, or a stamp over a scan) is read by
OCR where there is an engine; one that was not read is reported under `pages_not_read`, apart from empty ones.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import ExtractionFailed
from core.types import BlockKind, ExtractedDocument
from ingest.extract.builder import TextBuilder
from ingest.extract.ocr import Budget, new_budget, ocr_languages, read_picture
from ingest.extract.pdf_lines import Line, Paragraph, heading_sizes, kind_of, paragraphs_of
from ingest.extract.pdf_miner import miner_lines
from ingest.extract.repair import repair_text
from ingest.quality import garbled_share

_SILENT_SHARE = 0.15
_SILENT_SHARE_WHEN_FRUITLESS = 0.5
_FRUITLESS_READINGS = 6
"""Writers that print each space as an object of its own look as if text were missing. After so many second readings
in vain the document is taken for one of those, and only pages with mostly silent objects are read again."""
_MIN_NEW_SHARE = 0.1
_MAX_GARBLED = 0.05
_SECOND_READING_S = 40.0
"""CPU time for second readings of one document; pages beyond it keep their first reading, and are counted."""
_OCR_DPI = 200
_OCR_MAX_PIXELS = 30_000_000
_OCR_GARBLED = 0.3
"""Share of unreadable characters from which the text layer is worth less than a picture of the page."""
_STAMP_CHARS = 60
"""So few characters over a picture are a stamp or a page number, not the page's text."""
_PICTURE_SHARE = 0.5
"""Share of a page from which a picture on it is taken for a scan of the page."""
_WHITE = 200
"""Grey value of 255 above which nothing can be read: a blank scan has specks, but no ink."""
_REPEATS = re.compile(r"(.)\1+")
_SPACES = re.compile(r"\s+")
_BOLD = re.compile(r"bold|black|heavy|demi|-W[6-9]\b", re.IGNORECASE)
_HYPHENS = str.maketrans({"\ufffe": None, "\x02": None})
"""How pypdfium2 marks the hyphen of a word that it has put together again over a line end."""


@dataclass(slots=True)
class _Facts:
    """What is told about an extraction."""

    pages_without_text: list[int] = field(default_factory=list)
    pages_failed: list[int] = field(default_factory=list)
    pages_by_pdfminer: list[int] = field(default_factory=list)
    pages_by_ocr: list[int] = field(default_factory=list)
    pages_not_read: list[int] = field(default_factory=list)
    pages_not_checked: int = 0
    ocr: Budget = field(default_factory=new_budget)
    repaired: dict[str, int] = field(default_factory=dict)
    second_reading_s: float = 0.0
    fruitless_readings: int = 0


def extract_pdf(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a PDF.

    Raises:
        ExtractionFailed: `encrypted_pdf`, `broken_pdf`, `no_text_layer` or `text_too_long`.
    """
    facts = _Facts()
    title = None
    pages: list[list[Paragraph]] = []
    for lines in _pages(data, facts):
        pages.append(_repaired(paragraphs_of(lines), facts))
        if not pages[-1] and len(pages) not in facts.pages_failed:
            facts.pages_without_text.append(len(pages))
    if not pages:
        raise ExtractionFailed("the PDF has no pages that can be read", code="broken_pdf")
    if not any(pages):
        if len(facts.pages_failed) == len(pages):
            raise ExtractionFailed("no page of the PDF can be read", code="broken_pdf")
        raise _no_text(len(pages), facts)
    builder = TextBuilder(max_chars=max_chars)
    body, larger, body_is_bold = heading_sizes([paragraph for page in pages for paragraph in page])
    for number, page in enumerate(pages, start=1):
        for paragraph in page:
            kind, level = kind_of(paragraph, body, larger, body_is_bold)
            builder.add(kind, paragraph.text, page=number, level=level or None)
            if kind is BlockKind.HEADING and level == 1 and title is None and number <= 2:
                title = " ".join(paragraph.text.split())
    return builder.build(
        "application/pdf",
        page_count=len(pages),
        title=title,
        quality={
            "engine": "pypdfium2" if not facts.pages_by_pdfminer else "pypdfium2+pdfminer.six",
            "pages_without_text": facts.pages_without_text,
            "pages_failed": facts.pages_failed,
            "pages_by_pdfminer": facts.pages_by_pdfminer,
            "pages_by_ocr": facts.pages_by_ocr,
            "pages_not_read": facts.pages_not_read,
            "ocr_confidence": facts.ocr.confidence,
            "pages_not_checked": facts.pages_not_checked,
            "repaired": facts.repaired,
        },
    )


def _pages(data: bytes, facts: _Facts) -> Iterator[Sequence[Line]]:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise ExtractionFailed(
                "the PDF is protected by a password; save it without one and upload it again", code="encrypted_pdf"
            ) from error
        raise ExtractionFailed(f"the PDF cannot be opened: {error}", code="broken_pdf") from error
    try:
        for index in range(len(document)):
            try:
                page = document[index]
                text_page = page.get_textpage()
            except pypdfium2.PdfiumError:
                facts.pages_failed.append(index + 1)
                yield ()
                continue
            lines = list(_pdfium_lines(text_page))
            if _looks_short(page, text_page, lines, facts):
                lines = _second_reading(data, index, lines, facts)
            if _is_picture(page, lines):
                lines = _read_by_ocr(page, index, lines, facts)
            yield lines
            text_page.close()
            page.close()
    finally:
        document.close()


def _no_text(count: int, facts: _Facts) -> ExtractionFailed:
    """Why a PDF has no text at all: another try helps where an engine was missing, or its time was up."""
    if not facts.pages_not_read:
        return ExtractionFailed(f"the {count} pages of the PDF are empty", code="no_text_layer")
    if ocr_languages() is None:
        return ExtractionFailed(
            f"none of the {count} pages has a text layer: they are pictures, and there is no OCR engine."
            " Install Tesseract and the extra `ocr` and retry, or upload a file with text",
            code="no_text_layer",
            retryable=True,
        )
    return ExtractionFailed(
        f"none of the {count} pages has a text layer: they are pictures, and the OCR engine found no readable text"
        " in them",
        code="no_text_layer",
    )


def _is_picture(page: Any, lines: Sequence[Line]) -> bool:
    """Whether the page shows something that its text layer does not say."""
    import pypdfium2.raw as pdfium

    text = "".join(line.text for line in lines)
    visible = len(_SPACES.sub("", text))
    if visible and garbled_share(text) > _OCR_GARBLED:
        return True
    if visible > _STAMP_CHARS:
        return False
    if not visible:
        return next(iter(page.get_objects(max_depth=3)), None) is not None
    width, height = page.get_size()
    for item in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=3):
        left, bottom, right, top = item.get_bounds()
        if (right - left) * (top - bottom) >= _PICTURE_SHARE * width * height:
            return True
    return False


def _read_by_ocr(page: Any, index: int, lines: list[Line], facts: _Facts) -> list[Line]:
    """Lines of a page that is a picture; those of its text layer without an engine, time left, or a better reading."""
    if ocr_languages() is None or not facts.ocr.left:
        facts.pages_not_read.append(index + 1)
        return lines
    width, height = page.get_size()
    scale = min(_OCR_DPI / 72, (_OCR_MAX_PIXELS / max(1.0, width * height)) ** 0.5)
    image = page.render(scale=scale).to_pil().convert("L")
    if image.getextrema()[0] > _WHITE:
        return lines  # nothing is printed on it
    try:
        reading = read_picture(image, dpi=scale * 72, budget=facts.ocr)
    except ExtractionFailed as error:
        if error.code != "extraction_timeout":
            raise
        facts.pages_not_read.append(index + 1)  # this page only; the others may be easier
        return lines
    if sum(len(line.text) for line in reading.lines) <= sum(len(line.text) for line in lines):
        if not lines:
            facts.pages_not_read.append(index + 1)
        return lines
    facts.pages_by_ocr.append(index + 1)
    return list(reading.lines)


def _looks_short(page: Any, text_page: Any, lines: Sequence[Line], facts: _Facts) -> bool:
    """Whether text objects of the page yield nothing, or what they yield is noise."""
    import pypdfium2.raw as pdfium

    if garbled_share("".join(line.text for line in lines)) > _MAX_GARBLED:
        return True
    total = silent = 0
    for item in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_TEXT], max_depth=3):
        total += 1
        silent += pdfium.FPDFTextObj_GetText(item.raw, text_page.raw, None, 0) <= 2
    fruitless = facts.fruitless_readings >= _FRUITLESS_READINGS
    return silent > (_SILENT_SHARE_WHEN_FRUITLESS if fruitless else _SILENT_SHARE) * total


def _second_reading(data: bytes, index: int, lines: list[Line], facts: _Facts) -> list[Line]:
    if facts.second_reading_s > _SECOND_READING_S:
        facts.pages_not_checked += 1
        return lines
    started = time.process_time()
    other = miner_lines(data, index)
    facts.second_reading_s += time.process_time() - started
    first, second = _sequences(lines), _sequences(other)
    first_garbled = garbled_share("".join(line.text for line in lines))
    second_garbled = garbled_share("".join(line.text for line in other))
    if second_garbled > max(first_garbled, _MAX_GARBLED):
        return lines
    if len(second - first) > _MIN_NEW_SHARE * max(1, len(second)) or second_garbled < first_garbled - _MAX_GARBLED:
        facts.pages_by_pdfminer.append(index + 1)
        facts.fruitless_readings = 0
        return other
    facts.fruitless_readings += 1
    return lines


def _sequences(lines: Sequence[Line]) -> set[str]:
    """Pairs of neighbouring characters inside lines, in either order: the engines disagree on right-to-left text.

    Repeats count once, because doubled glyphs mean bold, not text.
    """
    pairs: set[str] = set()
    for line in lines:
        text = _REPEATS.sub(r"\1", _SPACES.sub("", line.text))
        pairs.update("".join(sorted(text[i : i + 2])) for i in range(max(1, len(text) - 1)))
    return pairs


def _pdfium_lines(text_page: Any) -> Iterator[Line]:
    """Lines in the order of the content stream, with boxes from the first and last character of each."""
    text = text_page.get_text_range()
    placed = len(text) == text_page.count_chars()  # else characters and their boxes cannot be matched
    position = 0
    for raw in re.split(r"(\r\n|\n|\r)", text):
        start, position = position, position + len(raw)
        shown = raw.translate(_HYPHENS)
        if not shown.strip():
            continue
        if not placed:
            yield Line(shown, 0, 0, 1, 1, 0)
            continue
        first = start + len(raw) - len(raw.lstrip())
        last = start + len(raw.rstrip()) - 1
        yield _placed_line(shown, text_page, first, last)


def _placed_line(text: str, text_page: Any, first: int, last: int) -> Line:
    left, bottom, right, top = text_page.get_charbox(first, loose=True)
    left2, bottom2, right2, top2 = text_page.get_charbox(last, loose=True)
    width, height = max(right, right2) - min(left, left2), max(top, top2) - min(bottom, bottom2)
    size = max(top - bottom, 0.1)
    vertical = last - first >= 2 and height > 2.5 * size and width < 2 * size
    return Line(
        text,
        min(left, left2),
        min(bottom, bottom2),
        max(right, right2),
        max(top, top2),
        size,
        bold=bool(_BOLD.search(_font_name(text_page, first))),
        vertical=vertical,
    )


def _font_name(text_page: Any, index: int) -> str:
    import ctypes

    import pypdfium2.raw as pdfium

    buffer = ctypes.create_string_buffer(128)
    flags = ctypes.c_int()
    length = pdfium.FPDFText_GetFontInfo(text_page.raw, index, buffer, len(buffer), flags)
    return buffer.raw[: max(0, min(int(length) - 1, 127))].decode("utf-8", errors="replace")


def _repaired(paragraphs: list[Paragraph], facts: _Facts) -> list[Paragraph]:
    whole, changed = repair_text("\0".join(paragraph.text for paragraph in paragraphs))
    if not changed:
        return paragraphs
    for name, count in changed.items():
        facts.repaired[name] = facts.repaired.get(name, 0) + count
    return [
        Paragraph(text, old.size, old.bold, old.line_count)
        for text, old in zip(whole.split("\0"), paragraphs, strict=True)
    ]
