"""ZIP containers of documents (DOCX, PPTX, XLSX, ODF, EPUB), checked before anything in them is unpacked.

Members, total size and ratio are bounded, and what is unpacked is counted: the sizes in a directory may be lies. XML
with a DOCTYPE is refused, so that entities have nowhere to be declared.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core.archives import ZIP_ERRORS, ArchiveTooLarge, open_zip
from core.errors import ExtractionFailed

MAX_MEMBERS = 20_000
MAX_PART_BYTES = 256 * 2**20
MAX_TOTAL_BYTES = 2 * 2**30
MAX_RATIO = 400
RATIO_FREE_BYTES = 16 * 2**20
"""Small parts may be of any ratio: empty tables compress 1000 to 1, and are harmless at that size."""


@contextmanager
def open_container(
    data: bytes, what: str, *, broken: str = "broken_document", encrypted: str = "encrypted_document"
) -> Iterator[zipfile.ZipFile]:
    """Open and check a container; `what` names the format in errors, `broken` and `encrypted` are their codes.

    Raises:
        ExtractionFailed: `broken`, `encrypted` or `zip_bomb`.
    """
    try:
        with open_zip(io.BytesIO(data)) as archive:
            _check(archive, what, encrypted)
            yield archive
    except RecursionError:
        raise  # a RuntimeError too, with a code of its own
    except ArchiveTooLarge as error:
        raise ExtractionFailed(f"the {what} unpacks to more than this service takes", code="zip_bomb") from error
    except ZIP_ERRORS as error:
        raise ExtractionFailed(f"the {what} container cannot be read: {error}", code=broken) from error


def read_part(archive: zipfile.ZipFile, name: str) -> bytes:
    """Unpack one part, counting."""
    with archive.open(name) as part:
        data = part.read(MAX_PART_BYTES + 1)
    if len(data) > MAX_PART_BYTES:
        raise ExtractionFailed(f"'{name}' unpacks to more than {MAX_PART_BYTES} bytes", code="zip_bomb")
    return data


def read_xml(archive: zipfile.ZipFile, name: str, *, broken: str = "broken_document") -> Any:
    """Parse one part without entities, DTD or network.

    Raises:
        ExtractionFailed: `unsafe_xml`, `zip_bomb` or `broken`.
    """
    from lxml import etree

    data = read_part(archive, name)
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        unsafe = b"<!DOCTYPE" in data[:4096].upper() or b"<!ENTITY" in data[:65536].upper()
        code = "unsafe_xml" if unsafe else broken
        raise ExtractionFailed(f"'{name}' cannot be parsed: {error}", code=code) from error
    if root.getroottree().docinfo.doctype:
        raise ExtractionFailed(f"'{name}' declares a DOCTYPE; no office program writes one", code="unsafe_xml")
    return root


def refuse_doctypes(archive: zipfile.ZipFile) -> None:
    """For libraries that parse the parts themselves: no XML part may declare anything.

    Raises:
        ExtractionFailed: `unsafe_xml`.
    """
    for member in archive.infolist():
        if not member.filename.endswith((".xml", ".rels", ".vml")):
            continue
        with archive.open(member) as part:
            head = part.read(65536)
        wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = (head.decode("utf-16", errors="ignore").encode("utf-8", errors="ignore") if wide else head).upper()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise ExtractionFailed(
                f"'{member.filename}' declares a DOCTYPE; no office program writes one", code="unsafe_xml"
            )


def _check(archive: zipfile.ZipFile, what: str, encrypted: str) -> None:
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or total > MAX_TOTAL_BYTES:
        raise ExtractionFailed(f"the {what} unpacks to more than this service takes", code="zip_bomb")
    for member in members:
        if member.flag_bits & 0x1:
            raise ExtractionFailed(f"the {what} is encrypted; save it without a password", code=encrypted)
        ratio = member.file_size / max(1, member.compress_size)
        if member.file_size > RATIO_FREE_BYTES and ratio > MAX_RATIO:
            raise ExtractionFailed(f"'{member.filename}' unpacks {ratio:.0f} to 1", code="zip_bomb")
