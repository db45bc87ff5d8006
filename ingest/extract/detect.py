"""What a file is: by its content first; the extension only chooses among the text formats, which share their bytes."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import PurePosixPath

from core.archives import ZIP_ERRORS, is_tar, open_zip
from core.contents import Content, head_of, opened
from core.errors import ExtractionFailed, UnsupportedFormat
from ingest.encoding import wide_encoding

_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_OOXML = "EncryptedPackage".encode("utf-16-le")
_OLE_STREAMS = (
    ("__substg1.0_", "msg"),
    ("WordDocument", "doc"),
    ("PowerPoint Document", "ppt"),
    ("Workbook", "workbook"),
    ("Book\0", "workbook"),
)
_HTML_START = re.compile(rb"<(?:!doctype\s{1,99}html|html)\b", re.I)
_MAIL_START = re.compile(rb"\A(?:Return-Path|Received|Message-ID|Delivered-To|MIME-Version):\s", re.I)
_MARKDOWN = frozenset({".md", ".markdown", ".mdown", ".mkd"})
_HTML = frozenset({".html", ".htm", ".xhtml"})
_CSV = frozenset({".csv", ".tsv", ".tab"})
_MAIL = frozenset({".eml", ".mht", ".mhtml"})
_IMAGES = frozenset({"image/png", "image/jpeg", "image/tiff", "image/gif", "image/bmp", "image/webp"})
_TAR = (".tar", ".tar.gz", ".tgz")
_BATCH_ZIPS = frozenset({"", ".zip"})
_NAMED = {
    ".docx": "a DOCX",
    ".pptx": "a presentation",
    ".xlsx": "a workbook",
    ".odt": "an ODT",
    ".epub": "an EPUB",
    ".msg": "a MSG",
}
_MAX_CONTROL_SHARE = 0.05
_TAKEN = "PDF, Office, OpenDocument, EPUB, RTF, mail, HTML, Markdown, CSV, text, images, ZIP, TAR and TAR.GZ are taken"


class FileFormat(StrEnum):
    """Formats with an extractor."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    CSV = "csv"
    PDF = "pdf"
    DOCX = "docx"
    SLIDES = "slides"
    WORKBOOK = "workbook"
    OPENDOCUMENT = "opendocument"
    EPUB = "epub"
    RTF = "rtf"
    EML = "eml"
    MSG = "msg"
    DOC = "doc"
    PPT = "ppt"
    IMAGE = "image"
    ARCHIVE = "archive"


_CONTAINERS = {
    ".docx": FileFormat.DOCX,
    ".pptx": FileFormat.SLIDES,
    ".xlsx": FileFormat.WORKBOOK,
    ".ods": FileFormat.WORKBOOK,
    ".odt": FileFormat.OPENDOCUMENT,
    ".odp": FileFormat.OPENDOCUMENT,
    ".epub": FileFormat.EPUB,
}


def detect_format(data: bytes, filename: str) -> FileFormat:
    """Name the format of a file.

    Raises:
        ExtractionFailed: `not_a_pdf`, `not_a_docx`, `broken_document`, `encrypted_docx`: the name promises what the
            bytes are not.
        UnsupportedFormat: bytes of a format without an extractor.
    """
    suffix = PurePosixPath(filename.lower()).suffix
    if b"%PDF-" in data[:1024]:
        return FileFormat.PDF
    if data.startswith(_ZIP):
        return _zip_format(data, filename, suffix)
    if data.startswith(_OLE):
        return _ole_format(data, filename)
    if data.startswith(b"{\\rtf"):
        return FileFormat.RTF
    if suffix == ".pdf":
        raise ExtractionFailed(f"'{filename}' does not hold a PDF", code="not_a_pdf")
    if suffix in _NAMED:
        code = "not_a_docx" if suffix == ".docx" else "broken_document"
        raise ExtractionFailed(f"'{filename}' does not hold {_NAMED[suffix]}", code=code)
    if is_tar(data) or filename.lower().endswith(_TAR):
        return FileFormat.ARCHIVE
    if suffix in _MAIL or _MAIL_START.match(data):
        return FileFormat.EML
    if _refuse_binary(data, filename):
        return FileFormat.IMAGE
    if suffix in _HTML or _begins_as_html(data[:4096]):
        return FileFormat.HTML
    if suffix in _CSV:
        return FileFormat.CSV
    return FileFormat.MARKDOWN if suffix in _MARKDOWN else FileFormat.TEXT


def may_be_batch(content: Content, filename: str) -> bool:
    """Whether `is_batch_archive` has to look: by the first bytes and the name, nothing else is read."""
    head = head_of(content)
    if head.startswith(_ZIP):
        return PurePosixPath(filename.lower()).suffix in _BATCH_ZIPS
    return is_tar(head)


def is_batch_archive(content: Content, filename: str) -> bool:
    """Whether the bytes are a ZIP or TAR of files, not a document in a ZIP container, and named as nothing else.

    Raises:
        ExtractionFailed: the name promises what the bytes are not.
    """
    head = head_of(content)
    if head.startswith(_ZIP):
        return _zip_format(content, filename, PurePosixPath(filename.lower()).suffix) is FileFormat.ARCHIVE
    return is_tar(head) and detect_format(head, filename) is FileFormat.ARCHIVE


def _zip_format(content: Content, filename: str, suffix: str) -> FileFormat:
    kind = _zip_kind(content, suffix)
    if kind is not FileFormat.ARCHIVE or suffix in _BATCH_ZIPS:
        return kind
    if suffix == ".pdf":
        raise ExtractionFailed(f"'{filename}' is a ZIP container, not a PDF", code="not_a_pdf")
    if suffix in _CONTAINERS:
        return _CONTAINERS[suffix]  # damaged so that it no longer says what it is; its reader says what is broken
    raise UnsupportedFormat(f"'{filename}' is a ZIP container of a kind that is not taken; {_TAKEN}")


def _zip_kind(content: Content, suffix: str) -> FileFormat:
    """The format by the members; with a broken directory by the name, whose extractor says what is broken."""
    try:
        with opened(content) as file, open_zip(file) as archive:
            names = archive.namelist()
            declared = ""
            if "mimetype" in names and archive.getinfo("mimetype").file_size < 200:
                declared = archive.read("mimetype").decode("ascii", errors="replace").strip()
    except ZIP_ERRORS:
        return _CONTAINERS.get(suffix, FileFormat.ARCHIVE)
    if declared == "application/epub+zip" or "META-INF/container.xml" in names:
        return FileFormat.EPUB
    if declared.startswith("application/vnd.oasis.opendocument"):
        return FileFormat.WORKBOOK if "spreadsheet" in declared else FileFormat.OPENDOCUMENT
    if "[Content_Types].xml" in names or suffix in {".docx", ".xlsx", ".pptx"}:
        folders = {name.partition("/")[0] for name in names if name.endswith((".xml", ".bin"))}
        for folder, kind in (
            ("word", FileFormat.DOCX),
            ("xl", FileFormat.WORKBOOK),
            ("ppt", FileFormat.SLIDES),
        ):
            if folder in folders:
                return kind
        return {".xlsx": FileFormat.WORKBOOK, ".pptx": FileFormat.SLIDES}.get(suffix, FileFormat.DOCX)
    folders = {name.partition("/")[0] for name in names if name.endswith(".xml")}
    return FileFormat.DOCX if "word" in folders else FileFormat.ARCHIVE


def _ole_format(data: bytes, filename: str) -> FileFormat:
    if _ENCRYPTED_OOXML in data:
        raise ExtractionFailed(f"'{filename}' has a password; save it without one", code="encrypted_docx")
    for name, kind in _OLE_STREAMS:
        if name.encode("utf-16-le") in data:
            return FileFormat(kind)
    raise UnsupportedFormat(f"'{filename}' is an old Office file of a kind that is not taken; {_TAKEN}")


def _begins_as_html(start: bytes) -> bool:
    """Whether what stands first, behind an XML declaration and comments, opens a page."""
    rest = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if rest[:5].lower() == b"<?xml":
        rest = rest.partition(b">")[2].lstrip()
    while rest.startswith(b"<!--"):
        rest = rest[4:].partition(b"-->")[2].lstrip()
    return _HTML_START.match(rest) is not None


def _refuse_binary(data: bytes, filename: str) -> bool:
    """True for an image, False for text; raises for all else."""
    import filetype

    kind = filetype.guess(data[:8192])
    if kind is not None and kind.mime in _IMAGES:
        return True
    if kind is not None and not kind.mime.startswith("text/"):
        raise UnsupportedFormat(f"'{filename}' is {kind.mime}; {_TAKEN}")
    sample = data[:65536]
    if sample.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        return False
    if 0 in sample:
        if wide_encoding(data) is None:
            raise UnsupportedFormat(f"'{filename}' is binary data; {_TAKEN}")
        return False
    controls = sum(sample.count(code) for code in (*range(1, 9), *range(14, 27), *range(28, 32)))
    if controls > _MAX_CONTROL_SHARE * len(sample):
        raise UnsupportedFormat(f"'{filename}' is binary data; {_TAKEN}")
    return False
