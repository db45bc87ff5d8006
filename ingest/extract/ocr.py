"""Text from images and scanned pages: which engine reads them, in what time, and what counts as read.

RapidOCR comes with the extra `ocr` and needs nothing else; Tesseract is used where it is asked for, where RapidOCR is
missing, and for a page that RapidOCR cannot read (vertical Japanese). Without an engine nothing is guessed: a page is
reported as not read. Nor is noise taken for text: a page whose reading stays poor counts as not read, one that is
middling is named in `pages_unsure`.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from core.errors import ExtractionFailed
from core.types import ExtractedDocument, PlacedText
from ingest.extract.builder import TextBuilder
from ingest.extract.ocr_layout import items_of
from ingest.extract.ocr_rapid import rapid_installed, read_rapid
from ingest.extract.ocr_tesseract import read_tesseract, tesseract_languages
from ingest.extract.pdf_layout import PageContent, write_pages
from ingest.extract.pdf_lines import Line
from ingest.extract.pdf_tables import PageTable

OcrEngine = Literal["auto", "rapidocr", "tesseract", "off"]

_MAX_PIXELS = 100_000_000
_OVERRUN_S = 10.0
"""How far the last page of a document may go beyond its time."""
_POINTS = 72
_POOR = 0.55
"""A reading less sure than this is noise: the page counts as not read."""
_UNSURE = 0.85
"""A reading less sure than this is told, so that an answer from it can be looked at twice."""
_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, struct.error, AssertionError)
"""What Pillow raises on damaged bytes; TypeError, for one, where a TIFF has no size."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What stands in one picture, in reading order, in points; confidence 0 to 1, by characters.

    places: each piece of text and its box, of a page whose number is given by the caller.
    """

    items: tuple[Line | PageTable, ...] = ()
    confidence: float = 0.0
    places: tuple[PlacedText, ...] = ()
    engine: str = ""


@dataclass(slots=True)
class Budget:
    """Wall time that OCR may take in one document, and what it came to."""

    seconds: float
    spent_s: float = 0.0
    confidences: list[float] = field(default_factory=list)

    @property
    def left(self) -> bool:
        """Whether another page may be begun."""
        return self.spent_s < self.seconds

    @property
    def confidence(self) -> float | None:
        """Mean over the pages read; None when none was."""
        return round(sum(self.confidences) / len(self.confidences), 3) if self.confidences else None


@dataclass(slots=True)
class _Settings:
    seconds: float = 60.0
    engine: OcrEngine = "auto"


_settings = _Settings()


def configure_ocr(seconds: float, engine: OcrEngine) -> None:
    """Set what `new_budget` and `ocr_engine` give in this process: each document has a process of its own."""
    _settings.seconds, _settings.engine = seconds, engine


def new_budget() -> Budget:
    """The budget of one document."""
    return Budget(_settings.seconds)


def ocr_engine() -> str | None:
    """`rapidocr` or `tesseract`, whichever reads first here; None without an engine, or where OCR is off."""
    if _settings.engine in {"auto", "rapidocr"} and rapid_installed():
        return "rapidocr"
    if _settings.engine in {"auto", "tesseract"} and tesseract_languages() is not None:
        return "tesseract"
    return None


def is_unsure(confidence: float) -> bool:
    """Whether a page was read, but not surely."""
    return confidence < _UNSURE


def read_picture(image: Any, *, dpi: float, budget: Budget, page: int) -> Reading:
    """Read one grey picture; an empty reading when what comes out is noise, or nothing.

    Raises:
        ExtractionFailed: `ocr_unavailable` (retryable), `extraction_timeout`.
    """
    engine = ocr_engine()
    if engine is None:
        raise ExtractionFailed(
            "this service has no OCR engine; install the extra `ocr` and retry",
            code="ocr_unavailable",
            retryable=True,
        )
    started = time.monotonic()
    try:
        best = _by_rapid(image, dpi, page) if engine == "rapidocr" else Reading()
        languages = tesseract_languages() if engine == "tesseract" or _settings.engine == "auto" else None
        if best.confidence < _POOR and languages is not None:
            ends = started + max(0.0, budget.seconds - budget.spent_s) + _OVERRUN_S
            other = _by_tesseract(image, languages, dpi, ends, page)
            best = max(best, other, key=lambda reading: reading.confidence)
    finally:
        budget.spent_s += time.monotonic() - started
    if best.confidence < _POOR or not best.items:
        return Reading()
    budget.confidences.append(best.confidence)
    return best


def extract_image(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a picture, or every page of a TIFF.

    Raises:
        ExtractionFailed: `ocr_unavailable`, `broken_document`, `too_many_pixels`, `text_too_long`.
    """
    budget = new_budget()
    pages: list[PageContent] = []
    places: list[PlacedText] = []
    engines: set[str] = set()
    media_type = ""
    without_text: list[int] = []
    out_of_time: list[int] = []
    unsure: list[int] = []
    for number, (frame, kind_of_file) in enumerate(image_frames(data), start=1):
        media_type = kind_of_file
        dpi = _dpi(frame)
        reading = Reading()
        if not budget.left:
            out_of_time.append(number)
        else:
            reading = read_picture(frame, dpi=dpi, budget=budget, page=number)
            if not reading.items:
                without_text.append(number)
            elif is_unsure(reading.confidence):
                unsure.append(number)
        engines |= {reading.engine} - {""}
        places += reading.places
        pages.append(PageContent(number, frame.height * _POINTS / dpi, reading.items))
    builder = TextBuilder(max_chars=max_chars)
    layout = write_pages(builder, pages, {})
    not_read = sorted([*without_text, *out_of_time])
    return builder.build(
        media_type,
        page_count=len(pages),
        title=layout.title,
        places=places,
        quality={
            "engine": "+".join(sorted(engines)) or ocr_engine(),
            "pages_by_ocr": [page.number for page in pages if page.number not in not_read],
            "pages_without_text": not_read,
            "pages_not_read": out_of_time,
            "pages_unsure": unsure,
            "ocr_confidence": budget.confidence,
            "tables": layout.tables,
        },
    )


def image_frames(data: bytes) -> Iterator[tuple[Any, str]]:
    """(grey picture the right way up, media type) of every page of a file.

    Raises:
        ExtractionFailed: `broken_document`, `too_many_pixels`.
    """
    from PIL import Image, ImageOps, ImageSequence

    Image.MAX_IMAGE_PIXELS = _MAX_PIXELS
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ExtractionFailed(f"the image has more than {_MAX_PIXELS} pixels", code="too_many_pixels")
            media_type = Image.MIME.get(image.format or "", "application/octet-stream")
            paged = image.format in {"TIFF", "MPO"}  # frames of an animation are no pages
            for frame in islice(ImageSequence.Iterator(image), None if paged else 1):
                yield (ImageOps.exif_transpose(frame) or frame).convert("L"), media_type  # decoded here, errors too
    except _IMAGE_ERRORS as error:
        raise ExtractionFailed(f"the image cannot be read: {error}", code="broken_document") from error
    except Image.DecompressionBombError as error:
        raise ExtractionFailed(f"the image is not taken: {error}", code="too_many_pixels") from error


def _by_rapid(image: Any, dpi: float, page: int) -> Reading:
    found = read_rapid(image)
    width, height = found.size
    places = [
        _as_it_lay(page, spot.text, (x0 / width, y0 / height, x1 / width, y1 / height), found.turn)
        for spot in found.spots
        for x0, y0, x1, y1 in [spot.box]
    ]
    return Reading(tuple(items_of(found, _POINTS / dpi)), found.confidence, tuple(places), "rapidocr")


def _by_tesseract(image: Any, languages: str, dpi: float, ends: float, page: int) -> Reading:
    found = read_tesseract(image, languages, dpi, ends)
    width, height = found.size
    places = [
        _as_it_lay(
            page,
            line.text,
            (line.x0 / width, 1 - line.y1 / height, line.x1 / width, 1 - line.y0 / height),
            found.turn,
        )
        for line in found.lines
    ]
    return Reading(found.lines, found.confidence, tuple(places), "tesseract")


def _as_it_lay(page: int, text: str, box: tuple[float, float, float, float], turn: int) -> PlacedText:
    """A box of the upright picture as shares of the picture before it was turned clockwise by `turn`."""
    x0, y0, x1, y1 = box
    match turn:
        case 90:
            x0, y0, x1, y1 = y0, 1 - x1, y1, 1 - x0
        case 180:
            x0, y0, x1, y1 = 1 - x1, 1 - y1, 1 - x0, 1 - y0
        case 270:
            x0, y0, x1, y1 = 1 - y1, x0, 1 - y0, x1
        case _:
            pass
    return PlacedText(page, text, round(x0, 5), round(y0, 5), round(x1, 5), round(y1, 5))


def _dpi(image: Any) -> float:
    """Resolution that the picture claims, where the claim makes sense."""
    claimed = image.info.get("dpi") or (0, 0)
    try:
        dpi = float(claimed[0])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return 200.0
    return dpi if 70 <= dpi <= 1200 else 200.0
