"""ZIP archives as batches: each member becomes a document of its own when the archive is uploaded.

Members are named, never written: a path in an archive is a label here, whatever it says. Archives inside archives are
not opened; they become documents that fail with `nested_archive`, so that a quine unpacks once and no further.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from typing import NoReturn

from core.errors import ExtractionFailed

MAX_ARCHIVE_MEMBERS = 2_000
MAX_ARCHIVE_BYTES = 512 * 2**20
MAX_MEMBER_RATIO = 200
_RATIO_FREE_BYTES = 2**20
_JUNK = ("__MACOSX/", "__MACOSX\\")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive. `path` is a label: relative, without dots, slashes forward."""

    path: str
    data: bytes


def read_archive(data: bytes) -> list[Member]:
    """Unpack an archive in memory.

    Raises:
        ExtractionFailed: `broken_archive`, `encrypted_archive`, `zip_bomb`, `empty_archive`.
    """
    members: list[Member] = []
    left = MAX_ARCHIVE_BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > MAX_ARCHIVE_MEMBERS:
                raise _bomb(f"it holds {len(entries)} files; {MAX_ARCHIVE_MEMBERS} are taken")
            if sum(entry.file_size for entry in entries) > MAX_ARCHIVE_BYTES:
                raise _bomb(f"it unpacks to more than {MAX_ARCHIVE_BYTES} bytes")
            for entry in entries:
                name = _name(entry)
                if name.startswith(_JUNK) or name.rpartition("/")[2].startswith("."):
                    continue
                if entry.flag_bits & 0x1:
                    raise ExtractionFailed("the archive has a password", code="encrypted_archive")
                if entry.file_size > max(_RATIO_FREE_BYTES, MAX_MEMBER_RATIO * entry.compress_size):
                    raise _bomb(f"'{name}' unpacks more than {MAX_MEMBER_RATIO} to 1")
                with archive.open(entry) as part:
                    content = part.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise _bomb(f"it unpacks to more than {MAX_ARCHIVE_BYTES} bytes")
                members.append(Member(_label(name, len(members)), content))
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        zlib.error,
        NotImplementedError,
        EOFError,
        OSError,
        ValueError,
        RuntimeError,
    ) as error:
        raise ExtractionFailed(f"the archive cannot be read: {error}", code="broken_archive") from error
    if not any(member.data for member in members):
        raise ExtractionFailed("there is no file with content in the archive", code="empty_archive")
    return members


def refuse_archive(data: bytes) -> NoReturn:
    """Say why an archive that came as one document was not taken apart.

    Raises:
        ExtractionFailed: as `read_archive`, else `nested_archive`.
    """
    read_archive(data)
    raise ExtractionFailed(
        "an archive inside an archive or a mail is not opened; upload it alone", code="nested_archive"
    )


def _name(entry: zipfile.ZipInfo) -> str:
    """Names without the UTF-8 flag are CP932 on Japanese machines; zipfile has read them as CP437."""
    if entry.flag_bits & 0x800:
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        pass
    try:
        return entry.filename.encode("cp437").decode("cp932")
    except UnicodeError:
        return entry.filename


def _label(name: str, index: int) -> str:
    parts = [part for part in name.replace("\\", "/").split("/") if part.strip() not in {"", ".", ".."}]
    return "/".join(parts) or f"member-{index + 1}"


def _bomb(detail: str) -> ExtractionFailed:
    return ExtractionFailed(f"the archive is not taken: {detail}", code="zip_bomb")
