"""Text from images and scanned pages, by Tesseract through pytesseract (extra `ocr`), Japanese and English.

Without the binding or the program nothing is guessed: a page is reported as not read. Nor is noise taken for text:
Tesseract says how sure it is, and right readings (82 and more of 100 on real pages) lie far from those of a page that
stands on its head or is set in vertical lines (62 and less). So a poor reading is tried again the other ways, and a
page that stays poor counts as not read.
"""

from __future__ import annotations

import functools
import io
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from statistics import median
from typing import Any

from core.errors import ExtractionFailed
from core.types import ExtractedDocument
from ingest.extract.builder import TextBuilder
from ingest.extract.pdf_lines import WIDE, Line, heading_sizes, kind_of, paragraphs_of

_MAX_PIXELS = 100_000_000
_WANTED = ("jpn", "eng")
_VERTICAL = "jpn_vert"
_PASS_TIMEOUT_S = 30.0
_OVERRUN_S = 10.0
"""How far the last page of a document may go beyond its time."""
_POINTS = 72
_SURE = 0.75
"""A reading at least so sure is not tried again."""
_POOR = 0.55
"""A reading less sure than this is noise: the page counts as not read."""
_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, struct.error, AssertionError)
"""What Pillow raises on damaged bytes; TypeError, for one, where a TIFF has no size."""
_SAME_SIZE = 0.25
"""Heights of lines that differ less from the page's median are one size: a line without tall letters is no footnote."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Lines of one picture in reading order, in points; confidence 0 to 1, by characters."""

    lines: tuple[Line, ...] = ()
    confidence: float = 0.0


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


_seconds = 60.0


def allow_seconds(seconds: float) -> None:
    """Set what `new_budget` gives in this process: each document has a process of its own."""
    global _seconds  # noqa: PLW0603
    _seconds = seconds


def new_budget() -> Budget:
    """The budget of one document."""
    return Budget(_seconds)


def ocr_languages() -> str | None:
    """Tesseract's name of the languages that are installed (`jpn+eng`), or None without an engine."""
    return "+".join(name for name in _WANTED if name in installed_languages()) or None


@functools.cache
def installed_languages() -> frozenset[str]:
    """What Tesseract can read here; empty without it or its binding."""
    if shutil.which("tesseract") is None:
        return frozenset()
    try:
        import pytesseract
    except ImportError:
        return frozenset()
    return frozenset(pytesseract.get_languages())


def read_picture(image: Any, *, dpi: float, budget: Budget) -> Reading:
    """Read one grey picture; an empty reading when what comes out is noise, or nothing.

    Raises:
        ExtractionFailed: `ocr_unavailable` (retryable), `extraction_timeout`.
    """
    languages = ocr_languages()
    if languages is None:
        raise ExtractionFailed(
            "this service has no OCR engine; install Tesseract and the extra `ocr`, and retry",
            code="ocr_unavailable",
            retryable=True,
        )
    started = time.monotonic()
    try:
        ends = started + max(0.0, budget.seconds - budget.spent_s) + _OVERRUN_S
        best = max(_readings(image, languages, dpi, ends), key=lambda reading: reading.confidence)
    finally:
        budget.spent_s += time.monotonic() - started
    if best.confidence < _POOR or not best.lines:
        return Reading()
    budget.confidences.append(best.confidence)
    return best


def extract_image(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a picture, or every page of a TIFF.

    Raises:
        ExtractionFailed: `ocr_unavailable`, `broken_document`, `too_many_pixels`, `text_too_long`.
    """
    builder = TextBuilder(max_chars=max_chars)
    budget = new_budget()
    pages = 0
    media_type = ""
    without_text: list[int] = []
    out_of_time: list[int] = []
    for pages, (frame, kind_of_file) in enumerate(_frames(data), start=1):
        media_type = kind_of_file
        if not budget.left:
            out_of_time.append(pages)
            continue
        paragraphs = paragraphs_of(read_picture(frame, dpi=_dpi(frame), budget=budget).lines)
        if not paragraphs:
            without_text.append(pages)
        body, larger, body_is_bold = heading_sizes(paragraphs)
        for paragraph in paragraphs:
            kind, level = kind_of(paragraph, body, larger, body_is_bold)
            builder.add(kind, paragraph.text, page=pages, level=level or None)
    not_read = sorted([*without_text, *out_of_time])
    return builder.build(
        media_type,
        page_count=pages,
        quality={
            "engine": "tesseract",
            "pages_by_ocr": [page for page in range(1, pages + 1) if page not in not_read],
            "pages_without_text": not_read,
            "pages_not_read": out_of_time,
            "ocr_confidence": budget.confidence,
        },
    )


def _frames(data: bytes) -> Iterator[tuple[Any, str]]:
    """(picture the right way up, media type) of every page of a file."""
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


def _dpi(image: Any) -> float:
    """Resolution that the picture claims, where the claim makes sense."""
    claimed = image.info.get("dpi") or (0, 0)
    try:
        dpi = float(claimed[0])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return 200.0
    return dpi if 70 <= dpi <= 1200 else 200.0


def _readings(image: Any, languages: str, dpi: float, ends: float) -> Iterator[Reading]:
    """Readings of a picture, the likeliest way first, until one is sure or the time is up."""
    first = _read(image, languages, 3, dpi, ends)
    yield first
    if first.confidence >= _SURE or time.monotonic() > ends:
        return
    turned = _upright(image, ends) if "osd" in installed_languages() else None
    if turned is not None:
        second = _read(turned, languages, 3, dpi, ends)
        yield second
        if second.confidence >= _SURE:
            return
    if _VERTICAL in installed_languages() and time.monotonic() < ends:
        yield _read(image if turned is None else turned, _VERTICAL, 5, dpi, ends)


def _upright(image: Any, ends: float) -> Any | None:
    """The picture turned so that its letters stand, None where they do or nobody can tell."""
    import pytesseract

    with _file_of(image) as path:
        try:
            found = pytesseract.image_to_osd(path, output_type=pytesseract.Output.DICT, timeout=_left(ends))
        except RuntimeError:  # too few characters to tell
            return None
    angle = int(found.get("rotate", 0)) % 360
    return image.rotate(-angle, expand=True, fillcolor=255) if angle else None


def _left(ends: float) -> float:
    return max(1.0, min(_PASS_TIMEOUT_S, ends - time.monotonic()))


def _read(image: Any, languages: str, layout: int, dpi: float, ends: float) -> Reading:
    """One pass. layout: Tesseract's page segmentation mode, 3 finds out, 5 is vertical lines."""
    import pytesseract

    with _file_of(image) as path:
        try:
            table = pytesseract.image_to_data(
                path,
                lang=languages,
                config=f"--psm {layout} --dpi {round(dpi)}",
                output_type=pytesseract.Output.DICT,
                timeout=_left(ends),
            )
        except pytesseract.TesseractError:
            return Reading()  # a picture of no size, say: nothing can be read in it
        except RuntimeError as error:
            raise ExtractionFailed(f"OCR gave up: {error}", code="extraction_timeout") from error
    words = [index for index, text in enumerate(table["text"]) if str(text).strip()]
    weight = sum(len(str(table["text"][index]).strip()) for index in words)
    sure = sum(len(str(table["text"][index]).strip()) * max(0.0, float(table["conf"][index])) for index in words)
    lines = tuple(_lines(table, words, image.height, _POINTS / dpi, vertical=layout == 5))
    return Reading(lines, sure / weight / 100 if weight else 0.0)


def _lines(table: dict[str, list[Any]], words: list[int], height: int, scale: float, *, vertical: bool) -> list[Line]:
    """Words as lines with boxes in points, y upwards."""

    def place(index: int) -> tuple[int, int, int]:
        return table["block_num"][index], table["par_num"][index], table["line_num"][index]

    found: list[tuple[str, float, float, float, float]] = []
    for _, members in groupby(words, key=place):
        text = ""
        x0 = y0 = float("inf")
        x1 = y1 = float("-inf")
        for index in members:
            text = _beside(text, str(table["text"][index]).strip())
            left, top = table["left"][index], table["top"][index]
            x0, x1 = min(x0, left), max(x1, left + table["width"][index])
            y0, y1 = min(y0, height - top - table["height"][index]), max(y1, height - top)
        found.append((text, x0 * scale, y0 * scale, x1 * scale, y1 * scale))
    sizes = [(x1 - x0) if vertical else (y1 - y0) for _, x0, y0, x1, y1 in found]
    usual = median(sizes) if sizes else 0.0
    return [
        Line(*box, size=usual if abs(size - usual) <= _SAME_SIZE * usual else size, vertical=vertical)
        for box, size in zip(found, sizes, strict=True)
    ]


@contextmanager
def _file_of(image: Any) -> Iterator[str]:
    """The picture as an uncompressed file: the PNG that pytesseract would write takes longer than some pages."""
    handle, name = tempfile.mkstemp(suffix=".pgm")
    os.close(handle)
    path = Path(name)
    try:
        image.save(path, "PPM")
        yield str(path)
    finally:
        path.unlink(missing_ok=True)


def _beside(text: str, word: str) -> str:
    """A line and its next word. Tesseract parts Japanese words and even letters, which are written together."""
    if not text or WIDE.match(text[-1]) or WIDE.match(word[0]):
        return text + word
    return f"{text} {word}"
