"""A really small file system for a test, where this machine lets us mount one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """As `mounted`; skips the test where that is not allowed."""
    try:
        with mounted(folder, size_bytes) as disk:
            yield disk
    except NotAllowed as error:
        pytest.skip(str(error))


class NotAllowed(Exception):
    """No file system can be made or mounted here."""


@contextmanager
def mounted(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount an ext4 in a file for the length of the block.

    Not a tmpfs: there even reading a hole of a mapped file takes room, as on no disk.

    Raises:
        NotAllowed: this machine does not let us.
    """
    image = folder.with_name(f"{folder.name}.img")
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image))
    _run("mount", "-o", "loop", str(image), str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        image.unlink()


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NotAllowed(f"no `{command[0]}` here") from None
    if done.returncode != 0:
        raise NotAllowed(f"no file system can be mounted here: {done.stderr.strip()}")


def fill(path: Path, *, but_bytes: int = 0) -> None:
    """Write a file until only so many bytes are left on its disk."""
    with path.open("ab", buffering=0) as file:
        while (left := shutil.disk_usage(path.parent).free - but_bytes) > 0:
            try:
                file.write(b"\0" * min(left, 2**20))
            except OSError:
                return
