"""Text from pictures by Tesseract through pytesseract: horizontal, turned, and vertical Japanese.

Tesseract says how sure it is, and right readings (82 and more of 100 on real pages) lie far from those of a page that
stands on its head or is set in vertical lines (62 and less). So a poor reading is tried again the other ways.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from core.errors import ExtractionFailed
from ingest.extract.ocr_layout import beside
from ingest.extract.pdf_lines import Line

_WANTED = ("jpn", "eng")
_VERTICAL = "jpn_vert"
_PASS_TIMEOUT_S = 30.0
_POINTS = 72
_SURE = 0.75
"""A reading at least so sure is not tried again."""
_SAME_SIZE = 0.25
"""Heights of lines that differ less from the page's median are one size: a line without tall letters is no footnote."""


@dataclass(frozen=True, slots=True)
class TesseractReading:
    """Lines in points, y upwards, of the picture turned clockwise by `turn` degrees; confidence 0 to 1."""

    lines: tuple[Line, ...] = ()
    confidence: float = 0.0
    turn: int = 0
    size: tuple[float, float] = (0.0, 0.0)


def tesseract_languages() -> str | None:
    """Tesseract's name of the languages that are installed (`jpn+eng`), or None without it."""
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


def read_tesseract(image: Any, languages: str, dpi: float, ends: float) -> TesseractReading:
    """The surest reading of a picture. ends: when to give up, by the monotonic clock.

    Raises:
        ExtractionFailed: `extraction_timeout`.
    """
    return max(_readings(image, languages, dpi, ends), key=lambda reading: reading.confidence)


def _readings(image: Any, languages: str, dpi: float, ends: float) -> Iterator[TesseractReading]:
    """Readings of a picture, the likeliest way first, until one is sure or the time is up."""
    first = _read(image, languages, 3, dpi, ends)
    yield first
    if first.confidence >= _SURE or time.monotonic() > ends:
        return
    turned = _upright(image, ends) if "osd" in installed_languages() else None
    upright, turn = turned or (image, 0)
    if turned is not None:
        second = _read(upright, languages, 3, dpi, ends, turn)
        yield second
        if second.confidence >= _SURE:
            return
    if _VERTICAL in installed_languages() and time.monotonic() < ends:
        yield _read(upright, _VERTICAL, 5, dpi, ends, turn)


def _upright(image: Any, ends: float) -> tuple[Any, int] | None:
    """The picture turned so that its letters stand, and by how many degrees clockwise; None where nobody can tell."""
    import pytesseract

    with _file_of(image) as path:
        try:
            found = pytesseract.image_to_osd(path, output_type=pytesseract.Output.DICT, timeout=_left(ends))
        except RuntimeError:  # too few characters to tell
            return None
    angle = int(found.get("rotate", 0)) % 360
    return (image.rotate(-angle, expand=True, fillcolor=255), angle) if angle else None


def _left(ends: float) -> float:
    return max(1.0, min(_PASS_TIMEOUT_S, ends - time.monotonic()))


def _read(image: Any, languages: str, layout: int, dpi: float, ends: float, turn: int = 0) -> TesseractReading:
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
            return TesseractReading()  # a picture of no size, say: nothing can be read in it
        except RuntimeError as error:
            raise ExtractionFailed(f"OCR gave up: {error}", code="extraction_timeout") from error
    words = [index for index, text in enumerate(table["text"]) if str(text).strip()]
    weight = sum(len(str(table["text"][index]).strip()) for index in words)
    sure = sum(len(str(table["text"][index]).strip()) * max(0.0, float(table["conf"][index])) for index in words)
    lines = tuple(_lines(table, words, image.height, _POINTS / dpi, vertical=layout == 5))
    size = (image.width * _POINTS / dpi, image.height * _POINTS / dpi)
    return TesseractReading(lines, sure / weight / 100 if weight else 0.0, turn, size)


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
            text = beside(text, str(table["text"][index]).strip())
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
