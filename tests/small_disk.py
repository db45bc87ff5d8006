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
    """Mount an ext4 in a file for the length of the block; skips the test where that is not allowed.

    Not a tmpfs: there even reading a hole of a mapped file takes room, as on no disk.
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
        pytest.skip(f"no `{command[0]}` here")
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


def fill(path: Path, *, but_bytes: int = 0) -> None:
    """Write a file until only so many bytes are left on its disk."""
    with path.open("ab", buffering=0) as file:
        while (left := shutil.disk_usage(path.parent).free - but_bytes) > 0:
            try:
                file.write(b"\0" * min(left, 2**20))
            except OSError:
                return
