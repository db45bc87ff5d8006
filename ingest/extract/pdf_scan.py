"""Pages of a PDF that are pictures: no text, noise, or a stamp over a scan. Read by OCR where there is an engine.

One that was not read is reported under `pages_not_read`, apart from empty ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import ExtractionFailed
from core.types import PlacedText
from ingest.extract.ocr import Budget, is_unsure, new_budget, ocr_engine, read_picture
from ingest.extract.pdf_lines import Line
from ingest.extract.pdf_tables import PageTable
from ingest.quality import garbled_share

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
_SPACES = re.compile(r"\s+")


@dataclass(slots=True)
class Scans:
    """What OCR of one document came to."""

    pages_by_ocr: list[int] = field(default_factory=list)
    pages_not_read: list[int] = field(default_factory=list)
    pages_unsure: list[int] = field(default_factory=list)
    places: list[PlacedText] = field(default_factory=list)
    budget: Budget = field(default_factory=new_budget)

    def facts(self) -> dict[str, Any]:
        """For the document's quality."""
        return {
            "pages_by_ocr": self.pages_by_ocr,
            "pages_not_read": self.pages_not_read,
            "pages_unsure": self.pages_unsure,
            "ocr_confidence": self.budget.confidence,
        }


def is_picture(page: Any, texts: Sequence[str]) -> bool:
    """Whether the page shows something that its text layer does not say."""
    import pypdfium2.raw as pdfium

    text = "".join(texts)
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


def read_scan(page: Any, index: int, items: list[Line | PageTable], scans: Scans) -> list[Line | PageTable]:
    """What stands on a page that is a picture; its text layer without an engine, time left, or a better reading."""
    if ocr_engine() is None or not scans.budget.left:
        scans.pages_not_read.append(index + 1)
        return items
    width, height = page.get_size()
    scale = min(_OCR_DPI / 72, (_OCR_MAX_PIXELS / max(1.0, width * height)) ** 0.5)
    image = page.render(scale=scale).to_pil().convert("L")
    if image.getextrema()[0] > _WHITE:
        return items  # nothing is printed on it
    try:
        reading = read_picture(image, dpi=scale * 72, budget=scans.budget, page=index + 1)
    except ExtractionFailed as error:
        if error.code != "extraction_timeout":
            raise
        scans.pages_not_read.append(index + 1)  # this page only; the others may be easier
        return items
    if _length(reading.items) <= _length(items):
        if not items:
            scans.pages_not_read.append(index + 1)
        return items
    scans.pages_by_ocr.append(index + 1)
    scans.places += reading.places
    if is_unsure(reading.confidence):
        scans.pages_unsure.append(index + 1)
    return list(reading.items)


def _length(items: Sequence[Line | PageTable]) -> int:
    return sum(len(item.text) if isinstance(item, Line) else item.length for item in items)
