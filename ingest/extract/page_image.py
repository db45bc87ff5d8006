"""An image of one page with spans marked: of a PDF, or of a picture. Runs in the extractors' sandbox only."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Any

from core.errors import ExtractionFailed, NotFound
from core.types import PlacedText
from ingest.extract.ocr import image_frames
from ingest.extract.page_search import Letters, Mark, Range, find_mark
from ingest.extract.pdf import open_pdf
from ingest.extract.pdf_page import Box, PageText, text_page_of
from ingest.extract.repair import repair_text

_DPI = 144
_MAX_PIXELS = 6_000_000
_ON_EDGE = 0.05
_MARKER = (255, 226, 64)
"""Colour that the paper takes where a span is marked; letters stay dark."""


@dataclass(frozen=True, slots=True)
class PageImage:
    """PNG bytes, and the marked boxes in its pixels, y downwards."""

    png: bytes
    boxes: tuple[tuple[int, int, int, int], ...]


def draw_page(data: bytes, number: int, marks: Sequence[Mark], places: Sequence[PlacedText]) -> PageImage:
    """Draw page `number` (from 1) of a PDF or a picture. places: what OCR read on that page, if it did.

    Raises:
        NotFound: `no_such_page`.
        ExtractionFailed: the file cannot be opened (any more).
    """
    if data[:1024].find(b"%PDF-") >= 0:
        picture, boxes = _of_pdf(data, number, marks, places)
    else:
        frame = next(islice((frame for frame, _ in image_frames(data)), number - 1, None), None)
        if frame is None:
            raise _no_such_page(number)
        shrunk = min(1.0, (_MAX_PIXELS / max(1, frame.width * frame.height)) ** 0.5)
        picture = frame.resize((max(1, int(frame.width * shrunk)), max(1, int(frame.height * shrunk)))).convert("RGB")
        boxes = _of_places(places, marks)
    pixels = [_in_pixels(box, picture.size) for box in boxes]
    _mark(picture, pixels)
    target = io.BytesIO()
    picture.save(target, "PNG")
    return PageImage(target.getvalue(), tuple(pixels))


def _of_pdf(data: bytes, number: int, marks: Sequence[Mark], places: Sequence[PlacedText]) -> tuple[Any, list[Box]]:
    """The page, and boxes as shares of it, y downwards."""
    import pypdfium2

    document = open_pdf(data)
    try:
        if not 1 <= number <= len(document):
            raise _no_such_page(number)
        page = document[number - 1]
        width, height = page.get_size()
        scale = min(_DPI / 72, (_MAX_PIXELS / max(1.0, width * height)) ** 0.5)
        picture = page.render(scale=scale).to_pil().convert("RGB")
        boxes = _of_places(places, marks) if places else _of_text(page, marks)
    except pypdfium2.PdfiumError as error:
        raise ExtractionFailed(f"page {number} cannot be drawn: {error}", code="broken_pdf") from error
    finally:
        document.close()
    return picture, boxes


def _of_text(page: Any, marks: Sequence[Mark]) -> list[Box]:
    text = PageText(page, text_page_of(page))
    shown, _ = repair_text("\0".join(text.shown(at, at + 1) for at in range(len(text.chars))))
    at_letter = [(char, at) for at, char in enumerate(shown.split("\0")) if char.strip()]
    # one entry per code point: a ligature is one character of PDFium and several of the text
    expanded = [(letter, at) for char, at in at_letter for letter in char]
    _, height = text.frame.size

    def place(letter: int) -> tuple[float, float]:
        x0, y0, x1, y1 = text.box(expanded[letter][1])
        return (x0 + x1) / 2, height - (y0 + y1) / 2

    letters = Letters("".join(letter for letter, _ in expanded), place)
    width, height = text.frame.size
    boxes: list[Box] = []
    for start, end in (found for mark in marks for found in find_mark(letters, mark)):
        for first, last in _runs([at for _, at in expanded[start:end]], text.chars):
            for x0, y0, x1, y1 in text.pieces(first, last + 1):
                boxes.append((x0 / width, 1 - y1 / height, x1 / width, 1 - y0 / height))
    return boxes


def _runs(places: Sequence[int], chars: Sequence[str]) -> list[Range]:
    """Characters that only white space parts, as (first, last)."""
    runs: list[Range] = []
    for at in places:
        if runs and not any(char.strip() for char in chars[runs[-1][1] + 1 : at]):
            runs[-1] = (runs[-1][0], at)
        else:
            runs.append((at, at))
    return runs


def _of_places(places: Sequence[PlacedText], marks: Sequence[Mark]) -> list[Box]:
    owners = [at for at, spot in enumerate(places) for letter in spot.text if letter.strip()]
    first: dict[int, int] = {}
    for letter, owner in enumerate(owners):
        first.setdefault(owner, letter)

    def place(letter: int) -> tuple[float, float]:
        spot = places[owners[letter]]
        return 1000 * (spot.x0 + spot.x1) / 2, 1000 * (spot.y0 + spot.y1) / 2

    letters = Letters("".join("".join(spot.text.split()) for spot in places), place)
    boxes: list[Box] = []
    for start, end in (found for mark in marks for found in find_mark(letters, mark)):
        for owner in dict.fromkeys(owners[start:end]):
            inside = [letter - first[owner] for letter in range(start, end) if owners[letter] == owner]
            boxes.append(_part_of(places[owner], inside[0], inside[-1] + 1))
    return boxes


def _part_of(spot: PlacedText, start: int, end: int) -> Box:
    """The part of a line that some of its letters take; the whole of one that runs up or down."""
    text = "".join(spot.text.split())
    if spot.y1 - spot.y0 > spot.x1 - spot.x0:
        return spot.x0, spot.y0, spot.x1, spot.y1
    widths = [0.5 if letter.isascii() or "\uff61" <= letter <= "\uff9f" else 1.0 for letter in text]
    unit = (spot.x1 - spot.x0) / max(0.5, sum(widths))
    x0 = spot.x0 + unit * sum(widths[:start])
    return x0, spot.y0, x0 + unit * sum(widths[start:end]), spot.y1


def _in_pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    width, height = size
    # All of the ink, which is drawn over the edges of its pixels; an edge that lies on one is not moved by rounding.
    x0, y0 = max(0, int(box[0] * width + _ON_EDGE)), max(0, int(box[1] * height + _ON_EDGE))
    x1, y1 = ceil(box[2] * width - _ON_EDGE), ceil(box[3] * height - _ON_EDGE)
    return x0, y0, min(width, max(x0 + 1, x1)), min(height, max(y0 + 1, y1))


def _mark(picture: Any, boxes: Sequence[tuple[int, int, int, int]]) -> None:
    from PIL import Image, ImageChops

    for box in boxes:
        part = picture.crop(box)
        if part.width and part.height:
            picture.paste(ImageChops.multiply(part, Image.new("RGB", part.size, _MARKER)), box[:2])


def _no_such_page(number: int) -> NotFound:
    return NotFound(f"the document has no page {number}", code="no_such_page")
