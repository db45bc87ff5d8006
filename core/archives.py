"""Archives from outside: the one reader of ZIP, TAR and TAR.GZ, which trusts nothing that they say.

`zipfile` makes an object of every entry and `tarfile` reads a long name whole, whatever a header says its size is: a
list of 600,000 empty files holds a process for a minute, a name of 400 MB its memory. So directories and headers are
bounded before they are read, members are counted before they are, and what a gzip unpacks to is counted as it comes.
Services let a child process with limits run this (`ingest.sandbox`); nothing in an archive decides where bytes go.
"""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from core.contents import Content, head_of, opened, size_of
from core.errors import ExtractionFailed

MAX_DIRECTORY_BYTES = 4 * 2**20
"""Of a ZIP: some 40,000 entries with names of usual length."""
MAX_HEADER_BYTES = 64 * 2**10
"""Of a name, a link or the extended attributes of a member of a TAR."""
MAX_TAR_ENTRIES = 20_000
"""With folders and what is left out."""
ZIP_ERRORS: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    OverflowError,
    RuntimeError,
)
"""What `zipfile` raises on damaged bytes; IndexError, for one, where a member has an empty name."""
_ERRORS: tuple[type[Exception], ...] = (*ZIP_ERRORS, tarfile.TarError, gzip.BadGzipFile)
_RATIO_FREE_BYTES = 2**20
_RATIO_FREE_TOTAL = 64 * 2**20
_RATIO_FREE_GZIP = 16 * 2**20
_GZIP = b"\x1f\x8b\x08"
_TAR_MAGIC = slice(257, 262)
_JUNK = ("__MACOSX/", "__MACOSX\\")
_COPY_BYTES = 2**20


class ArchiveTooLarge(zipfile.BadZipFile):
    """What an archive announces is beyond what is read."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is taken out of an archive, and how much at most."""

    max_bytes: int
    """Of all members together; one that announces more is a bomb."""
    max_members: int
    left_bytes: int
    """What the request may still unpack; an archive that is good in itself and passes it is over the budget."""
    left_members: int
    max_ratio: int | None = None
    """Bytes out to bytes in; None where what is packed may well be zeros."""
    only: tuple[str, ...] | None = None
    """Base names; others are told of, not unpacked. None takes all but what archivers and editors hide."""
    encoding: str | None = None
    """Of the names in a ZIP that do not say so themselves."""
    batch: str | None = None
    """Its file name, where only a batch of files is taken apart and no document in a container."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive. `name` is a label, whatever it says."""

    name: str
    size: int
    path: Path | None
    """Where its bytes are; None where they were not wanted."""


Unpack = Callable[[Content, Path, Wanted], list[Member]]
"""`unpack` of this module, or the same in a child process with limits."""


def unpack(archive: Content, folder: Path, wanted: Wanted) -> list[Member]:
    """Write the wanted members into new files of a folder; which of them is where, in the order of the archive.

    Raises:
        ExtractionFailed: `broken_archive`, `encrypted_archive`, `unsafe_archive` (a link, a device), `zip_bomb`,
            `over_budget`.
    """
    found: list[Member] = []
    with _told():
        for name, size, part in _members(archive, wanted):
            path = None
            if wanted.only is None or name.replace("\\", "/").rpartition("/")[2] in wanted.only:
                path = folder / str(len(found))
                with path.open("xb") as target:
                    _copy(name, part, size, target.write)
            found.append(Member(name, size, path))
    return found


def check(archive: Content, wanted: Wanted) -> int:
    """Read all members and keep none; how many bytes they hold. Raises as `unpack` does."""
    with _told():
        return sum(_copy(name, part, size, len) for name, size, part in _members(archive, wanted))


@contextmanager
def _told() -> Iterator[None]:
    """What libraries raise on damaged bytes, as what is wrong with the archive."""
    try:
        yield
    except ArchiveTooLarge as error:
        raise bomb(str(error)) from error
    except _ERRORS as error:
        raise ExtractionFailed(f"the archive cannot be read: {error}", code="broken_archive") from error


def _members(archive: Content, wanted: Wanted) -> Iterator[tuple[str, int, IO[bytes]]]:
    """(name, size, content) of each file; the content is read, or left, before the next is asked for."""
    count = total = 0
    with opened(archive) as file:
        tar = is_tar(head_of(archive)) or not zipfile.is_zipfile(file)
        file.seek(0)
        for name, size, part in (_tar_members if tar else _zip_members)(file, size_of(archive), wanted):
            if wanted.only is None and _is_hidden(name):
                continue
            count, total = count + 1, total + size
            if count > wanted.max_members:
                raise bomb(f"it holds more than {wanted.max_members} files")
            if total > wanted.max_bytes:
                raise bomb(f"it unpacks to more than {wanted.max_bytes} bytes")
            if total > wanted.left_bytes or count > wanted.left_members:
                raise ExtractionFailed("it passes what a request may unpack", code="over_budget")
            yield name, size, part


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """Open a ZIP for reading.

    Raises:
        ArchiveTooLarge: its directory is longer than MAX_DIRECTORY_BYTES.
        zipfile.BadZipFile: it is damaged.
    """
    if not has_short_directory(file):
        raise ArchiveTooLarge(f"the directory of the ZIP has over {MAX_DIRECTORY_BYTES} bytes")
    return zipfile.ZipFile(file)


def has_short_directory(file: IO[bytes]) -> bool:
    """Whether a ZIP may be opened: a directory that is longer than MAX_DIRECTORY_BYTES is not read."""
    record = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    file.seek(0)
    return not record or record[5] <= MAX_DIRECTORY_BYTES


def is_tar(data: bytes) -> bool:
    """Whether the bytes are a TAR of the POSIX or the GNU kind, or a gzip of one."""
    if data.startswith(_GZIP):
        try:
            data = zlib.decompressobj(wbits=31).decompress(data[:65_536], 512)
        except zlib.error:
            return False
    return data[_TAR_MAGIC] == b"ustar"


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


def bomb(detail: str) -> ExtractionFailed:
    """What is raised for an archive that unpacks to too much."""
    return ExtractionFailed(f"the archive is not taken: {detail}", code="zip_bomb")


def _unsafe(name: str) -> ExtractionFailed:
    return ExtractionFailed(
        f"the archive is not taken: '{name}' is a link or a device; pack the files themselves", code="unsafe_archive"
    )


def _is_hidden(name: str) -> bool:
    return name.startswith(_JUNK) or name.rpartition("/")[2].startswith(".")


def _copy(name: str, part: IO[bytes], size: int, take: Callable[[bytes], int]) -> int:
    """Hand on what a member holds, which is as long as the archive says. Returns the length."""
    left = size
    while left > 0 and (piece := part.read(min(left, _COPY_BYTES))):
        take(piece)
        left -= len(piece)
    if left or part.read(1):
        raise ValueError(f"'{name}' is not as long as the archive says")
    return size


def _zip_members(file: IO[bytes], size: int, wanted: Wanted) -> Iterator[tuple[str, int, IO[bytes]]]:
    with open_zip(file) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        total = sum(entry.file_size for entry in entries)
        if total > wanted.max_bytes:
            raise bomb(f"it unpacks to more than {wanted.max_bytes} bytes")
        if wanted.max_ratio is not None and total > max(_RATIO_FREE_TOTAL, wanted.max_ratio * size):
            raise bomb(f"it unpacks more than {wanted.max_ratio} to 1")
        for entry in entries:
            name = member_name(entry.filename, entry.flag_bits, wanted.encoding)
            if entry.flag_bits & 0x1:
                raise ExtractionFailed("the archive has a password", code="encrypted_archive")
            if stat.S_IFMT(entry.external_attr >> 16) not in {0, stat.S_IFREG}:
                raise _unsafe(name)
            if wanted.max_ratio is not None and entry.file_size > max(
                _RATIO_FREE_BYTES, wanted.max_ratio * entry.compress_size
            ):
                raise bomb(f"'{name}' unpacks more than {wanted.max_ratio} to 1")
            with archive.open(entry) as part:
                yield name, entry.file_size, part


def _tar_members(file: IO[bytes], size: int, wanted: Wanted) -> Iterator[tuple[str, int, IO[bytes]]]:
    """The gzip is counted as it is unpacked, headers and skipped parts too, because a bomb need not sit in a member.

    Other compressions are not taken: their decoders may need as much memory as a header asks for.
    """
    stream: Any = file
    limit = size
    packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    if packed:
        stream = gzip.GzipFile(fileobj=file)
        limit = 2 * wanted.max_bytes
        if wanted.max_ratio is not None:
            limit = min(limit, max(_RATIO_FREE_GZIP, wanted.max_ratio * size))
    counted: Any = _Counted(stream, limit)
    with tarfile.open(fileobj=counted, mode="r|", tarinfo=_GuardedHeader, encoding="utf-8") as archive:
        for index, entry in enumerate(archive):
            if index == MAX_TAR_ENTRIES:
                raise bomb(f"it holds more than {MAX_TAR_ENTRIES} entries")
            if entry.isdir():
                continue
            name = _tar_name(entry.name)
            if not entry.isreg():
                raise _unsafe(name)
            part = archive.extractfile(entry)
            assert part is not None  # it is a file
            yield name, entry.size, part


class _GuardedHeader(tarfile.TarInfo):
    """A header of a TAR whose sizes go forward only, and whose names and attributes are not longer than names are.

    With a negative size Python before 3.11.14 reads in a circle for ever.
    """

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.HeaderError("negative size")
        return int(super()._block(count))  # type: ignore[misc]

    def _proc_gnulong(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        self._check_header()
        return super()._proc_gnulong(archive)  # type: ignore[misc,no-any-return]

    def _proc_pax(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        self._check_header()
        return super()._proc_pax(archive)  # type: ignore[misc,no-any-return]

    def _check_header(self) -> None:
        if not 0 <= self.size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size} bytes")


class _Counted(io.RawIOBase):
    """A stream that ends in an error when more is read than allowed."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream = stream
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        if size < 0:
            size = self._left + 1
        data: bytes = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise bomb("it unpacks to far more than its size")
        return data


def _tar_name(name: str) -> str:
    """A name that is no UTF-8 is CP932, as on Japanese machines."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("cp932", "replace")
    return name
