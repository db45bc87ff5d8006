"""Room on the disks that this installation writes to, held against a reserve.

A disk filled to its last byte takes more than uploads with it: SQLite can no longer delete, and a page of the mapped
index that finds no room ends the process with SIGBUS. So what can wait stops early, and what makes room goes on.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from core.errors import Unavailable
from core.settings import Settings

FOR_UPLOADS: Final = 1.0
"""Share of the reserve that must stay free for new bytes from outside, and for a training's checkpoints."""
FOR_INDEXING: Final = 0.5
"""The same for points of documents that were accepted: less, so that the queue still empties."""
FOR_REMOVAL: Final = 0.125
"""The same for what takes points away, and itself needs some pages to do so."""


def require_room(settings: Settings, size_bytes: int = 0, *, share: float = FOR_UPLOADS) -> None:
    """Refuse to write so many bytes where that would take the reserve.

    Raises:
        Unavailable: `storage_full`.
    """
    for folder in folders_of(settings):
        require_room_in(folder, size_bytes, reserve_bytes=round(settings.storage.reserve_bytes * share))


def room_for(settings: Settings, size_bytes: int) -> int:
    """How many of so many bytes may be written without taking the reserve.

    Raises:
        Unavailable: `storage_full`: none.
    """
    require_room(settings)
    spare = min(free_bytes(folder) for folder in folders_of(settings)) - settings.storage.reserve_bytes
    return min(size_bytes, max(0, spare))


def require_room_in(folder: Path, size_bytes: int, *, reserve_bytes: int) -> None:
    """The same for one folder.

    Raises:
        Unavailable: `storage_full`.
    """
    free = free_bytes(folder)
    if free - size_bytes < reserve_bytes:
        wanted = f"for {size_bytes} more bytes" if size_bytes else "for more"
        raise Unavailable(
            f"the disk has no room {wanted}: {free} bytes are free, of which {reserve_bytes} are kept back",
            code="storage_full",
            extra={"free_bytes": free, "reserve_bytes": reserve_bytes},
        )


def free_bytes(folder: Path) -> int:
    """What is free, for this user, on the file system that holds a folder or will hold it."""
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def folders_of(settings: Settings) -> tuple[Path, ...]:
    """Folders with state; each may be a mount of its own."""
    return settings.data_dir, settings.blobs_dir, settings.index_dir
