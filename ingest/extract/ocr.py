"""Text from images and scanned pages, by Tesseract through pytesseract (extra `ocr`), Japanese and English.

Without the binding or the program nothing is guessed: a page is reported as not read.
"""

from __future__ import annotations

import functools
import io
import shutil
from typing import Any

from core.errors import ExtractionFailed
from core.types import BlockKind, ExtractedDocument
from ingest.extract.builder import TextBuilder

_MAX_PIXELS = 100_000_000
_WANTED = ("jpn", "eng")
_PAGE_TIMEOUT_S = 60


@functools.cache
def ocr_languages() -> str | None:
    """Tesseract's name of the languages that are installed (`jpn+eng`), or None without an engine."""
    if shutil.which("tesseract") is None:
        return None
    try:
        import pytesseract
    except ImportError:
        return None
    present = set(pytesseract.get_languages())
    return "+".join(name for name in _WANTED if name in present) or None


def read_image(image: Any) -> str:
    """Text of one picture.

    Raises:
        ExtractionFailed: `ocr_unavailable` (retryable).
    """
    languages = ocr_languages()
    if languages is None:
        raise ExtractionFailed(
            "this service has no OCR engine; install Tesseract and the extra `ocr`, and retry",
            code="ocr_unavailable",
            retryable=True,
        )
    import pytesseract

    try:
        return str(pytesseract.image_to_string(image, lang=languages, timeout=_PAGE_TIMEOUT_S))
    except RuntimeError as error:
        raise ExtractionFailed(f"OCR gave up: {error}", code="extraction_timeout") from error


def extract_image(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a picture, or every page of a TIFF.

    Raises:
        ExtractionFailed: `ocr_unavailable`, `broken_document`, `too_many_pixels`, `text_too_long`.
    """
    from PIL import Image, ImageSequence, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = _MAX_PIXELS
    builder = TextBuilder(max_chars=max_chars)
    page = 0
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ExtractionFailed(f"the image has more than {_MAX_PIXELS} pixels", code="too_many_pixels")
            media_type = Image.MIME.get(image.format or "", "application/octet-stream")
            for page, frame in enumerate(ImageSequence.Iterator(image), start=1):
                for paragraph in read_image(frame.convert("RGB")).split("\n\n"):
                    builder.add(BlockKind.PARAGRAPH, paragraph, page=page)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ExtractionFailed(f"the image cannot be read: {error}", code="broken_document") from error
    return builder.build(media_type, page_count=page, quality={"engine": "tesseract", "pages_by_ocr": page})
