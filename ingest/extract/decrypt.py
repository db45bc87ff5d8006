"""Files without their passwords, where the password came with the upload: PDF, Office of both kinds, ZIP.

Runs in the extraction child. Which bytes come out depends on the input alone, so the same upload again is found to be
the same.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from typing import Any

from core.archives import ZIP_ERRORS, bomb, has_short_directory, member_name
from core.contents import Content, head_of, holds
from core.errors import ExtractionFailed
from ingest.extract.archive import MAX_ARCHIVE_BYTES, MAX_ARCHIVE_MEMBERS

ZIP_MAGIC = b"PK\x03\x04"
OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_REMOVE_SECURITY = 3
_PDF_ID = re.compile(rb"(/ID\s{0,4}\[\s{0,4}<)([0-9A-Fa-f]{32})(>\s{0,4}<)[0-9A-Fa-f]{32}>")
_TAIL = 4096


def may_be_locked(content: Content) -> bool:
    """Whether it is worth a child process to look: cheap, and true for every file that has a password."""
    head = head_of(content)
    return head.startswith((ZIP_MAGIC, OLE_MAGIC)) or (b"%PDF-" in head[:1024] and holds(content, b"/Encrypt"))


def unlock(data: bytes, password: str, *, encoding: str | None = None) -> bytes | None:
    """The same file without a password; None when it has none. encoding: of the names in a ZIP, where it is known.

    Raises:
        ExtractionFailed: `wrong_password`, `unlock_failed`, `broken_archive`, `zip_bomb`.
    """
    if b"%PDF-" in data[:1024]:
        return _pdf(data, password)
    if data.startswith(OLE_MAGIC):
        return _office(data, password)
    return _zip(data, password, encoding) if data.startswith(ZIP_MAGIC) else None


def _wrong(what: str) -> ExtractionFailed:
    return ExtractionFailed(f"the password does not open the {what}", code="wrong_password")


def _pdf(data: bytes, password: str) -> bytes | None:
    import pypdfium2

    try:
        pypdfium2.PdfDocument(data).close()
    except pypdfium2.PdfiumError as error:
        if "password" not in str(error).lower():
            return None  # broken: its extractor says how
    else:
        return None
    try:
        document = pypdfium2.PdfDocument(data, password=password)
    except pypdfium2.PdfiumError as error:
        raise _wrong("PDF") from error
    target = io.BytesIO()
    document.save(target, flags=_REMOVE_SECURITY)
    document.close()
    saved = target.getvalue()
    # PDFium draws the second half of the file's id anew each time.
    return saved[:-_TAIL] + _PDF_ID.sub(rb"\g<1>\g<2>\g<3>\g<2>>", saved[-_TAIL:])


def _office(data: bytes, password: str) -> bytes | None:
    import msoffcrypto
    from msoffcrypto.exceptions import DecryptionError, FileFormatError, InvalidKeyError, ParseError

    try:
        file: Any = msoffcrypto.OfficeFile(io.BytesIO(data))
        if not file.is_encrypted():
            return None
    except (FileFormatError, ParseError, OSError, ValueError, KeyError, IndexError, AttributeError):
        return None  # a mail, an installer, or broken: its extractor says so
    target = io.BytesIO()
    try:
        file.load_key(password=password, verify_password=True)
        file.decrypt(target)
    except InvalidKeyError as error:
        raise _wrong("Office file") from error
    except DecryptionError as error:
        if "password" in str(error).lower() or "verif" in str(error).lower():
            raise _wrong("Office file") from error
        raise ExtractionFailed(
            f"the Office file is encrypted in a way that is not read: {error}", code="unlock_failed"
        ) from error
    except (NotImplementedError, ParseError, ValueError, KeyError) as error:
        raise ExtractionFailed(
            f"the Office file is encrypted in a way that is not read: {error}", code="unlock_failed"
        ) from error
    return target.getvalue()


def _zip(data: bytes, password: str, encoding: str | None) -> bytes | None:
    """The archive anew, its members unlocked, in their order and with their times."""
    import pyzipper

    left = MAX_ARCHIVE_BYTES
    target = io.BytesIO()
    try:
        if not has_short_directory(io.BytesIO(data)):
            return None  # a bomb: its extractor says so
        with (
            pyzipper.AESZipFile(io.BytesIO(data)) as archive,
            zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as plain,
        ):
            entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
            if not any(entry.flag_bits & 1 for entry in entries):
                return None
            if len(entries) > MAX_ARCHIVE_MEMBERS or sum(entry.file_size for entry in entries) > left:
                raise bomb("it holds more than is taken")
            for entry in entries:
                content = _member(archive, entry, password, left)
                left -= len(content)
                if left < 0:
                    raise bomb(f"it unpacks to more than {MAX_ARCHIVE_BYTES} bytes")
                name = member_name(entry.filename, entry.flag_bits, encoding)
                copy = zipfile.ZipInfo(name, entry.date_time)
                copy.external_attr = entry.external_attr  # a link stays one, and is refused as one
                copy.compress_type = zipfile.ZIP_DEFLATED
                plain.writestr(copy, content)
    except ZIP_ERRORS as error:
        raise ExtractionFailed(f"the archive cannot be read: {error}", code="broken_archive") from error
    return target.getvalue()


def _member(archive: Any, entry: Any, password: str, most: int) -> bytes:
    """One member. ZIP says nothing of a password's encoding: Windows writes it as CP932, others as UTF-8."""
    locked = entry.flag_bits & 1
    tries = dict.fromkeys((password.encode(), password.encode("cp932", errors="replace"))) if locked else {None: None}
    for secret in tries:
        try:
            with archive.open(entry, pwd=secret) as part:
                content: bytes = part.read(most + 1)
                return content
        except (RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            if not locked or isinstance(error, (NotImplementedError, RecursionError)):
                raise  # one byte of 256 lets a wrong password through, and the checksum then tells
    raise _wrong("archive")
