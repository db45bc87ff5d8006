"""Extractors, run in a limited child process. `extract_document` chooses one by content.

Each extractor imports its library inside its function: a process pays only for the formats that it meets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from core.errors import ExtractionFailed, InvalidInput
from core.types import ExtractedDocument
from ingest.extract.detect import FileFormat, detect_format

MAX_NESTING = 3
"""Mails in mails, files attached to them: how deep they are read."""


_TEXT_FORMATS = frozenset({FileFormat.TEXT, FileFormat.MARKDOWN, FileFormat.HTML, FileFormat.CSV})


def extract_document(
    data: bytes, filename: str, *, max_chars: int, depth: int = 0, encoding: str | None = None
) -> ExtractedDocument:
    """Read a file of any supported format. `encoding` is that of text, Markdown, HTML and CSV, where it is known.

    Raises:
        ExtractionFailed: the file is of a known format but cannot be read; `code` says why.
        UnsupportedFormat: there is no extractor for it.
    """
    from ingest.encoding import decoding
    from ingest.extract.structure import with_structure
    from ingest.quality import with_quality

    if not data:
        raise InvalidInput(f"'{filename}' is empty", code="empty_file")
    if depth > MAX_NESTING:
        raise ExtractionFailed(f"'{filename}' is nested more than {MAX_NESTING} deep", code="too_deeply_nested")
    kind = detect_format(data, filename)
    with decoding(encoding if kind in _TEXT_FORMATS else None) as decodings:
        document = with_structure(_extract(kind, data, max_chars, depth))
    document = replace(document, quality={**document.quality, **decodings.facts()})
    return with_quality(document)


def _extract(kind: FileFormat, data: bytes, max_chars: int, depth: int) -> ExtractedDocument:
    from ingest.extract.archive import refuse_archive
    from ingest.extract.csv_table import extract_csv
    from ingest.extract.docx import extract_docx
    from ingest.extract.epub import extract_epub
    from ingest.extract.html import extract_html
    from ingest.extract.legacy import convert
    from ingest.extract.mail import extract_eml, extract_msg
    from ingest.extract.markdown import extract_markdown
    from ingest.extract.ocr import extract_image
    from ingest.extract.opendocument import extract_opendocument
    from ingest.extract.pdf import extract_pdf
    from ingest.extract.rtf import extract_rtf
    from ingest.extract.slides import extract_slides
    from ingest.extract.text import extract_text
    from ingest.extract.workbook import extract_workbook

    def read_inside(inner: bytes, name: str) -> ExtractedDocument:
        return extract_document(inner, name, max_chars=max_chars, depth=depth + 1)

    match kind:
        case FileFormat.EML:
            return extract_eml(data, read_inside, max_chars=max_chars)
        case FileFormat.MSG:
            return extract_msg(data, read_inside, max_chars=max_chars)
        case FileFormat.DOC:
            return extract_docx(convert(data, ".doc", "docx"), max_chars=max_chars)
        case FileFormat.PPT:
            return extract_slides(convert(data, ".ppt", "pptx"), max_chars=max_chars)
        case FileFormat.ARCHIVE:
            refuse_archive(data)
    extractors: dict[FileFormat, Callable[..., ExtractedDocument]] = {
        FileFormat.TEXT: extract_text,
        FileFormat.MARKDOWN: extract_markdown,
        FileFormat.HTML: extract_html,
        FileFormat.CSV: extract_csv,
        FileFormat.PDF: extract_pdf,
        FileFormat.DOCX: extract_docx,
        FileFormat.SLIDES: extract_slides,
        FileFormat.WORKBOOK: extract_workbook,
        FileFormat.OPENDOCUMENT: extract_opendocument,
        FileFormat.EPUB: extract_epub,
        FileFormat.RTF: extract_rtf,
        FileFormat.IMAGE: extract_image,
    }
    return extractors[kind](data, max_chars=max_chars)
