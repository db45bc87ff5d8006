"""Extractors, run in a limited child process. `extract_document` chooses one by content.

Each extractor imports its library inside its function: a process pays only for the formats that it meets.
"""

from __future__ import annotations

from core.errors import InvalidInput
from core.types import ExtractedDocument
from ingest.extract.detect import FileFormat, detect_format


def extract_document(data: bytes, filename: str, *, max_chars: int) -> ExtractedDocument:
    """Read a file of any supported format.

    Raises:
        ExtractionFailed: the file is of a known format but cannot be read; `code` says why.
        UnsupportedFormat: there is no extractor for it.
    """
    from ingest.extract.docx import extract_docx
    from ingest.extract.html import extract_html
    from ingest.extract.markdown import extract_markdown
    from ingest.extract.pdf import extract_pdf
    from ingest.extract.text import extract_text
    from ingest.quality import with_quality

    if not data:
        raise InvalidInput(f"'{filename}' is empty", code="empty_file")
    extractors = {
        FileFormat.TEXT: extract_text,
        FileFormat.MARKDOWN: extract_markdown,
        FileFormat.HTML: extract_html,
        FileFormat.PDF: extract_pdf,
        FileFormat.DOCX: extract_docx,
    }
    return with_quality(extractors[detect_format(data, filename)](data, max_chars=max_chars))
