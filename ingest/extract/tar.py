"""Members of a TAR, plain or gzipped, read as a stream: what is not a file is refused, and what unpacks is counted.

The gzip is counted as it is unpacked, headers and skipped parts too, because a bomb need not sit in a member. Other
compressions are not taken: their decoders may need as much memory as a header asks for.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from core.archives import GuardedHeader
from core.errors import ExtractionFailed

TAR_ERRORS = (tarfile.TarError, gzip.BadGzipFile)
_GZIP = b"\x1f\x8b\x08"
_MAGIC = slice(257, 262)
_MAX_RATIO = 200
_RATIO_FREE_BYTES = 16 * 2**20


def is_tar(data: bytes) -> bool:
    """Whether the bytes are a TAR of the POSIX or the GNU kind, or a gzip of one."""
    if data.startswith(_GZIP):
        try:
            data = zlib.decompressobj(wbits=31).decompress(data[:65_536], 512)
        except zlib.error:
            return False
    return data[_MAGIC] == b"ustar"


def tar_members(file: IO[bytes], size: int, max_bytes: int) -> Iterator[tuple[str, int, IO[bytes]]]:
    """(name, size, content) of each file; the content is read, or left, before the next is asked for.

    size: of the archive itself.

    Raises:
        ExtractionFailed: `zip_bomb`, `unsafe_archive`.
        OSError, ValueError, zlib.error, one of TAR_ERRORS: it is damaged.
    """
    stream: Any = file
    limit = size
    packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    if packed:
        stream = gzip.GzipFile(fileobj=file)
        limit = min(2 * max_bytes, max(_RATIO_FREE_BYTES, _MAX_RATIO * size))
    counted: Any = _Counted(stream, limit)
    with tarfile.open(fileobj=counted, mode="r|", tarinfo=GuardedHeader, encoding="utf-8") as archive:
        for entry in archive:
            if entry.isdir():
                continue
            name = _name(entry.name)
            if not entry.isreg():
                raise unsafe(name)
            if entry.size > max_bytes:
                raise bomb(f"'{name}' has more than {max_bytes} bytes")
            part = archive.extractfile(entry)
            assert part is not None  # it is a file
            yield name, entry.size, part


def bomb(detail: str) -> ExtractionFailed:
    """What is raised for an archive that unpacks to too much."""
    return ExtractionFailed(f"the archive is not taken: {detail}", code="zip_bomb")


def unsafe(name: str) -> ExtractionFailed:
    """What is raised for an archive with a member that is no file."""
    return ExtractionFailed(
        f"the archive is not taken: '{name}' is a link or a device; pack the files themselves", code="unsafe_archive"
    )


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


def _name(name: str) -> str:
    """A name that is no UTF-8 is CP932, as on Japanese machines."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("cp932", "replace")
    return name
