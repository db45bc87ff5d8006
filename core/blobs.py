"""Blob store in a folder, keyed by SHA-256. A file appears under its name only when it is whole and synced.

Storing bytes that are there already reads them back: a file that the disk has damaged is replaced, not believed.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from core.errors import NotFound, Unavailable
from core.ports import BlobStore
from core.settings import Settings

COPY_BYTES = 1 << 20
_UNFINISHED = ".new-"


class Reader(Protocol):
    """What bytes are read from, a part at a time."""

    def read(self, amount: int, /) -> bytes:
        """Up to `amount` bytes; empty at the end."""
        ...


class FolderBlobStore:
    """Blobs as files `ab/cdef...` below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def path_of(self, digest: str) -> Path:
        """Where a blob is, or would be."""
        if not is_digest(digest):
            raise NotFound(f"no blob {digest!r}")
        return self._root / digest[:2] / digest[2:]

    def put(self, data: bytes) -> str:
        """Store bytes; returns their hex SHA-256."""
        return self._store(io.BytesIO(data), hashlib.sha256(data).hexdigest(), len(data))

    def put_file(self, path: Path) -> str:
        """Store a file's bytes; returns their hex SHA-256."""
        with path.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
            size = source.tell()
            source.seek(0)
            return self._store(source, digest, size)

    def _store(self, source: BinaryIO, digest: str, size: int) -> str:
        path = self.path_of(digest)
        if _holds(path, digest, size):
            return digest
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
        try:
            with os.fdopen(handle, "wb") as file:
                shutil.copyfileobj(source, file, COPY_BYTES)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return digest

    def drop_unfinished(self) -> int:
        """Remove what a killed process was writing; only while no other process writes here. Returns how many files."""
        unfinished = list(self._root.glob(f"??/{_UNFINISHED}*"))
        for path in unfinished:
            path.unlink(missing_ok=True)
        return len(unfinished)

    def get(self, digest: str) -> bytes:
        """Read a blob.

        Raises:
            NotFound: it is not there.
        """
        try:
            return self.path_of(digest).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"no blob {digest}") from error

    def copy_to(self, digest: str, path: Path) -> int:
        """Write a blob into a file; returns its size in bytes.

        Raises:
            NotFound: it is not there.
            Unavailable: `blob_damaged`: its bytes are not what its name says.
        """
        try:
            with self.path_of(digest).open("rb") as source:
                return copy_checked(source, digest, path)
        except FileNotFoundError as error:
            raise NotFound(f"no blob {digest}") from error

    def list(self) -> Iterator[tuple[str, int]]:
        """Every blob with its size in bytes; other files of the folder are passed over."""
        for path in sorted(self._root.glob("??/*")):
            digest = path.parent.name + path.name
            if is_digest(digest) and path.is_file():
                yield digest, path.stat().st_size

    def exists(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self.path_of(digest).is_file()

    def delete(self, digest: str) -> None:
        """Drop a blob; an unknown one is ignored."""
        self.path_of(digest).unlink(missing_ok=True)


def is_digest(name: str) -> bool:
    """Whether a name is a hex SHA-256 as blobs are called."""
    return len(name) == 64 and all(char in "0123456789abcdef" for char in name)


def copy_checked(source: Reader, digest: str, path: Path) -> int:
    """Copy a stream into a file, counting its SHA-256; the file is removed where it is another than `digest`.

    Raises:
        Unavailable: `blob_damaged`.
    """
    seen, size = hashlib.sha256(), 0
    with path.open("wb") as target:
        while piece := source.read(COPY_BYTES):
            seen.update(piece)
            size += target.write(piece)
    if seen.hexdigest() != digest:
        path.unlink()
        raise Unavailable(f"blob {digest[:12]} is not what it was stored as", code="blob_damaged")
    return size


def _holds(path: Path, digest: str, size: int) -> bool:
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size == size and hashlib.file_digest(file, "sha256").hexdigest() == digest
    except FileNotFoundError:
        return False


def open_blobs(settings: Settings) -> BlobStore:
    """The store that the settings name.

    Raises:
        Unavailable: `blob_store_misconfigured`.
    """
    if settings.blobs.store == "s3":
        from core.blobs_s3 import S3BlobStore

        return S3BlobStore(settings.blobs)
    return FolderBlobStore(settings.blobs_dir)
