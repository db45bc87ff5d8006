"""What a file is: by its content first; the extension only chooses among the text formats, which share their bytes."""

from __future__ import annotations

import io
import re
import zipfile
from enum import StrEnum
from pathlib import PurePosixPath

from core.errors import ExtractionFailed, UnsupportedFormat

_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_OOXML = "EncryptedPackage".encode("utf-16-le")
_HTML_START = re.compile(
    rb"\A(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", re.I | re.S
)
_MARKDOWN = frozenset({".md", ".markdown", ".mdown", ".mkd"})
_HTML = frozenset({".html", ".htm", ".xhtml"})
_MAX_CONTROL_SHARE = 0.05


class FileFormat(StrEnum):
    """Formats with an extractor."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    PDF = "pdf"
    DOCX = "docx"


def detect_format(data: bytes, filename: str) -> FileFormat:
    """Name the format of a file.

    Raises:
        ExtractionFailed: `not_a_pdf`, `not_a_docx`, `encrypted_docx`: the name promises what the bytes are not.
        UnsupportedFormat: bytes of a format without an extractor.
    """
    suffix = PurePosixPath(filename.lower()).suffix
    if b"%PDF-" in data[:1024]:
        return FileFormat.PDF
    if data.startswith(_ZIP):
        what = _zip_content(data, suffix)
        if what == "docx":
            return FileFormat.DOCX
        if suffix == ".pdf":
            raise ExtractionFailed(f"'{filename}' is {what}, not a PDF", code="not_a_pdf")
        raise UnsupportedFormat(f"'{filename}' is {what}; text, Markdown, HTML, PDF and DOCX are taken")
    if data.startswith(_OLE):
        if _ENCRYPTED_OOXML in data:
            raise ExtractionFailed(f"'{filename}' has a password; save it without one", code="encrypted_docx")
        raise UnsupportedFormat(f"'{filename}' is an old Office file; save it as DOCX or PDF")
    if suffix == ".pdf":
        raise ExtractionFailed(f"'{filename}' does not hold a PDF", code="not_a_pdf")
    if suffix == ".docx":
        raise ExtractionFailed(f"'{filename}' does not hold a DOCX", code="not_a_docx")
    _refuse_binary(data, filename)
    if suffix in _HTML or _HTML_START.match(data[:4096]):
        return FileFormat.HTML
    return FileFormat.MARKDOWN if suffix in _MARKDOWN else FileFormat.TEXT


def _zip_content(data: bytes, suffix: str) -> str:
    """`docx`, or what else the archive is, in words."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return "docx" if suffix == ".docx" else "a broken ZIP archive"  # the DOCX extractor says what is broken
    folders = {name.partition("/")[0] for name in names if name.endswith(".xml")}
    if "word" in folders:
        return "docx"
    if "xl" in folders:
        return "an Excel workbook"
    if "ppt" in folders:
        return "a PowerPoint presentation"
    return "an OpenDocument or EPUB file" if "mimetype" in names else "a ZIP archive"


def _refuse_binary(data: bytes, filename: str) -> None:
    import filetype

    kind = filetype.guess(data[:8192])
    if kind is not None and not kind.mime.startswith("text/"):
        raise UnsupportedFormat(f"'{filename}' is {kind.mime}; text, Markdown, HTML, PDF and DOCX are taken")
    sample = data[:65536]
    if sample.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        return
    nuls = sample.count(0)
    if nuls:
        even, odd = sample[::2].count(0), sample[1::2].count(0)
        if min(even, odd) > 0.2 * max(even, odd):
            raise UnsupportedFormat(f"'{filename}' is binary data; text, Markdown, HTML, PDF and DOCX are taken")
    controls = sum(sample.count(code) for code in (*range(1, 9), *range(14, 27), *range(28, 32)))
    if controls > _MAX_CONTROL_SHARE * len(sample):
        raise UnsupportedFormat(f"'{filename}' is binary data; text, Markdown, HTML, PDF and DOCX are taken")
