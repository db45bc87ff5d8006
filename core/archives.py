"""Archives from outside, opened with a guard: their directories and headers are bounded before they are read.

`zipfile` makes an object of every entry and `tarfile` reads a long name whole, whatever a header says its size is: a
list of 600,000 empty files holds a process for a minute, a name of 400 MB its memory.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

MAX_DIRECTORY_BYTES = 4 * 2**20
"""Of a ZIP: some 40,000 entries with names of usual length."""
MAX_HEADER_BYTES = 64 * 2**10
"""Of a name, a link or the extended attributes of a member of a TAR."""


class ArchiveTooLarge(zipfile.BadZipFile):
    """What an archive announces is beyond what is read."""


@dataclass(slots=True)
class Budget:
    """What all archives of one request together may unpack to."""

    bytes: int
    members: int
    room_for: Callable[[int], object] = lambda _size: None
    """Raises where there is no room on the disk for so many bytes more."""

    @property
    def spent(self) -> bool:
        """Whether more was asked for than there is."""
        return self.bytes < 0 or self.members < 0

    def take(self, size: int) -> None:
        """Count a member.

        Raises:
            ArchiveTooLarge: it is the one too many.
        """
        self.bytes -= size
        self.members -= 1
        if self.spent:
            raise ArchiveTooLarge("the archives of one request unpack to more than is taken")
        self.room_for(size)


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """Open a ZIP for reading.

    Raises:
        ArchiveTooLarge: its directory is longer than MAX_DIRECTORY_BYTES.
        zipfile.BadZipFile: it is damaged.
    """
    record = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if record and record[5] > MAX_DIRECTORY_BYTES:
        raise ArchiveTooLarge(f"the directory of the ZIP has {record[5]} bytes")
    file.seek(0)
    return zipfile.ZipFile(file)


class GuardedHeader(tarfile.TarInfo):
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
