"""PDF to text."""

from __future__ import annotations

from core.errors import ExtractionFailed
from core.types import BlockKind, ExtractedDocument
from ingest.extract.builder import TextBuilder


def extract_pdf(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a PDF."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        code = "encrypted_pdf" if "password" in str(error).lower() else "broken_pdf"
        raise ExtractionFailed(f"the PDF cannot be opened: {error}", code=code) from error
    builder = TextBuilder(max_chars=max_chars)
    empty: list[int] = []
    for number in range(len(document)):
        text = document[number].get_textpage().get_text_range()
        if not text.strip():
            empty.append(number + 1)
        builder.add(BlockKind.PARAGRAPH, text, page=number + 1)
    return builder.build(
        "application/pdf", page_count=len(document), quality={"engine": "pypdfium2", "pages_without_text": empty}
    )
