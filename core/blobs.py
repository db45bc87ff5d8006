"""Blob store in a folder, keyed by SHA-256. A file appears under its name only when it is whole and synced.

Storing bytes that are there already reads them back: a file that the disk has damaged is replaced, not believed.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from core.errors import NotFound
from core.ports import BlobStore
from core.settings import Settings


class FolderBlobStore:
    """Blobs as files `ab/cdef...` below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def path_of(self, digest: str) -> Path:
        """Where a blob is, or would be."""
        if len(digest) != 64 or any(c not in "0123456789abcdef" for c in digest):
            raise NotFound(f"no blob {digest!r}")
        return self._root / digest[:2] / digest[2:]

    def put(self, data: bytes) -> str:
        """Store bytes; returns their hex SHA-256."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.path_of(digest)
        if _holds(path, digest, len(data)):
            return digest
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return digest

    def get(self, digest: str) -> bytes:
        """Read a blob.

        Raises:
            NotFound: it is not there.
        """
        try:
            return self.path_of(digest).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"no blob {digest}") from error

    def exists(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self.path_of(digest).is_file()

    def delete(self, digest: str) -> None:
        """Drop a blob; an unknown one is ignored."""
        self.path_of(digest).unlink(missing_ok=True)


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
