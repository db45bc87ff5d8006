"""Bytes that came in, in memory while they are few, else in a file of their own that is read a block at a time."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from core.blobs import COPY_BYTES, Reader
from core.settings import Settings

IN_MEMORY_BYTES = 2**20
"""What is larger waits on disk: a thousand requests at once hold no more than this each."""
HEAD_BYTES = 2**16
"""What formats are told from."""


@dataclass(frozen=True, slots=True)
class FileOnDisk:
    """A file of the request that it came with, gone when that ends."""

    path: Path
    size: int
    sha256: str


Content = bytes | FileOnDisk


def size_of(content: Content) -> int:
    """Number of bytes."""
    return len(content) if isinstance(content, bytes) else content.size


def sha256_of(content: Content) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else content.sha256


def opened(content: Content) -> IO[bytes]:
    """A file to read them from, at its beginning."""
    return io.BytesIO(content) if isinstance(content, bytes) else content.path.open("rb")


def head_of(content: Content) -> bytes:
    """The first HEAD_BYTES."""
    with opened(content) as file:
        return file.read(HEAD_BYTES)


def holds(content: Content, needle: bytes) -> bool:
    """Whether some bytes stand in them, a block in memory at a time."""
    with opened(content) as file:
        kept = b""
        while piece := file.read(COPY_BYTES):
            if needle in kept + piece:
                return True
            kept = piece[-len(needle) :]
    return False


def on_disk(path: Path) -> FileOnDisk:
    """A file that is there already.

    Raises:
        ValueError: it is a link, a pipe or a device: whatever wrote it is not to be believed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path.name} is no file")
        return FileOnDisk(path, found.st_size, hashlib.file_digest(file, "sha256").hexdigest())


def keep(source: Reader, path: Path) -> FileOnDisk:
    """Write what a reader has to give into a new file."""
    seen, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        while piece := source.read(COPY_BYTES):
            seen.update(piece)
            size += file.write(piece)
    return FileOnDisk(path, size, seen.hexdigest())


@contextmanager
def work_folder(settings: Settings) -> Iterator[Path]:
    """A folder for the length of the block; what a killed process left of its own goes with the first one after it."""
    parent = settings.data_dir / "tmp" / "uploads"
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_stale(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(parent: Path) -> None:
    """Remove folders named PID-... whose process is gone; in a container its successor often has the same number."""
    began = psutil.Process().create_time()
    for folder in parent.iterdir():
        owner = folder.name.partition("-")[0]
        if not owner.isdigit():
            continue
        try:
            ours = int(owner) == os.getpid()
            stale = folder.stat().st_mtime < began - 1 if ours else not psutil.pid_exists(int(owner))
        except FileNotFoundError:  # its own process was quicker
            continue
        if stale:
            shutil.rmtree(folder, ignore_errors=True)
