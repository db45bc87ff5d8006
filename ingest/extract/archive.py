"""Archives as batches: each member of a ZIP, TAR or TAR.GZ becomes a document of its own when the archive is uploaded.

Members are named, never written: a path in an archive is a label here, whatever it says, and an archive with a link or
a device in it is refused. Archives inside archives are not opened; they become documents that fail with
`nested_archive`, so that a quine unpacks once and no further.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn
from uuid import uuid4

from core.archives import ArchiveTooLarge, Budget, open_zip
from core.contents import IN_MEMORY_BYTES, Content, head_of, keep, opened, size_of
from core.errors import ExtractionFailed, TooLarge
from ingest.extract.container import ZIP_ERRORS
from ingest.extract.tar import TAR_ERRORS, bomb, is_tar, tar_members, unsafe

MAX_ARCHIVE_MEMBERS = 2_000
MAX_ARCHIVE_BYTES = 512 * 2**20
MAX_MEMBER_RATIO = 200
_RATIO_FREE_BYTES = 2**20
_RATIO_FREE_TOTAL = 64 * 2**20
_ERRORS: tuple[type[Exception], ...] = (*ZIP_ERRORS, *TAR_ERRORS)
_JUNK = ("__MACOSX/", "__MACOSX\\")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive. `path` is a label: relative, without dots, slashes forward."""

    path: str
    data: Content


def request_budget(room_for: Callable[[int], object] = lambda _size: None) -> Budget:
    """What the archives of one request may unpack to together: as much as one alone, in twice as many files."""
    return Budget(MAX_ARCHIVE_BYTES, 2 * MAX_ARCHIVE_MEMBERS, room_for)


def unpack_archive(
    content: Content, folder: Path, encoding: str | None = None, budget: Budget | None = None
) -> list[Member]:
    """Unpack an archive; members over IN_MEMORY_BYTES go into files in `folder`.

    encoding: of the names in a ZIP that do not say so themselves, where it is known. budget: what is left of the
    request's; members are counted before they are read.

    Raises:
        TooLarge: `too_large`: it is good in itself, and passes the budget.
        ExtractionFailed: `broken_archive`, `encrypted_archive`, `unsafe_archive`, `zip_bomb`, `empty_archive`.
    """

    def take(part: IO[bytes], size: int) -> Content:
        return part.read() if size <= IN_MEMORY_BYTES else keep(part, folder / uuid4().hex)

    return _members(content, encoding, budget or request_budget(), take)


def read_archive(data: bytes) -> list[Member]:
    """Unpack an archive in memory; raises as `unpack_archive` does."""
    return _members(data, None, request_budget(), lambda part, _size: part.read())


def _members(
    archive: Content, encoding: str | None, budget: Budget, take: Callable[[IO[bytes], int], Content]
) -> list[Member]:
    members: list[Member] = []
    left = MAX_ARCHIVE_BYTES
    try:
        with opened(archive) as file:
            tar = is_tar(head_of(archive))
            size = size_of(archive)
            parts = tar_members(file, size, MAX_ARCHIVE_BYTES) if tar else _zip_members(file, size, encoding)
            for name, length, part in parts:
                left -= length
                if left < 0:
                    raise bomb(f"it unpacks to more than {MAX_ARCHIVE_BYTES} bytes")
                if name.startswith(_JUNK) or name.rpartition("/")[2].startswith("."):
                    continue
                if len(members) == MAX_ARCHIVE_MEMBERS:
                    raise bomb(f"it holds more than {MAX_ARCHIVE_MEMBERS} files")
                budget.take(length)
                content = take(part, length)
                if size_of(content) != length:
                    raise ValueError(f"'{name}' ends early")
                members.append(Member(_label(name, len(members)), content))
    except ArchiveTooLarge as error:
        if budget.spent:
            raise TooLarge(f"{error}; send them one by one", extra={"limit": MAX_ARCHIVE_BYTES}) from error
        raise bomb(str(error)) from error
    except _ERRORS as error:
        raise ExtractionFailed(f"the archive cannot be read: {error}", code="broken_archive") from error
    if not any(size_of(member.data) for member in members):
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


def _zip_members(file: IO[bytes], size: int, encoding: str | None) -> Iterator[tuple[str, int, IO[bytes]]]:
    with open_zip(file) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if len(entries) > MAX_ARCHIVE_MEMBERS:
            raise bomb(f"it holds {len(entries)} files; {MAX_ARCHIVE_MEMBERS} are taken")
        total = sum(entry.file_size for entry in entries)
        if total > MAX_ARCHIVE_BYTES:
            raise bomb(f"it unpacks to more than {MAX_ARCHIVE_BYTES} bytes")
        if total > max(_RATIO_FREE_TOTAL, MAX_MEMBER_RATIO * size):
            raise bomb(f"it unpacks more than {MAX_MEMBER_RATIO} to 1")
        for entry in entries:
            name = member_name(entry.filename, entry.flag_bits, encoding)
            if entry.flag_bits & 0x1:
                raise ExtractionFailed("the archive has a password", code="encrypted_archive")
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise unsafe(name)
            if entry.file_size > max(_RATIO_FREE_BYTES, MAX_MEMBER_RATIO * entry.compress_size):
                raise bomb(f"'{name}' unpacks more than {MAX_MEMBER_RATIO} to 1")
            with archive.open(entry) as part:
                yield name, entry.file_size, part


def member_name(name: str, flags: int, encoding: str | None = None) -> str:
    """A member's name as its writer saw it: without the UTF-8 flag `zipfile` has read it as CP437.

    CP932 on Japanese machines, UTF-8 on Macs, which flag nothing.
    """
    if flags & 0x800:
        return name
    for known in (*([encoding] if encoding else []), "utf-8", "cp932"):
        try:
            return name.encode("cp437").decode(known)
        except (UnicodeError, LookupError):
            continue
    return name


def _label(name: str, index: int) -> str:
    parts = [part for part in name.replace("\\", "/").split("/") if part.strip() not in {"", ".", ".."}]
    return "/".join(parts) or f"member-{index + 1}"
