"""A shard written anew from its points. Deleting marks points; their bytes stay in segments and log until then.

`optimize` of the engine (0.9) leaves segments alone that are mostly alive, and the log keeps what was written to it
until it is full, so a new shard beside the old one is what gets rid of them.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qdrant_edge import Point, ScrollRequest, UpdateOperation

_PAGE = 256
CONFIG_FILE = "edge_config.json"


class Gate:
    """Many may read at once; who goes alone waits for them, and they for him."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Beside others."""
        with self._changed:
            while self._alone:
                self._changed.wait()
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Beside nobody."""
        with self._changed:
            while self._alone:
                self._changed.wait()
            self._alone = True
            while self._readers:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


def copy_points(source: Any, target: Any, step: Callable[[], None]) -> None:
    """All points of a shard into another one. step: called between pages."""
    offset = None
    while True:
        step()
        request = ScrollRequest(offset=offset, limit=_PAGE, with_payload=True, with_vector=True)
        records, offset = source.scroll(request)
        if records:
            points = [Point(record.id, record.vector or {}, record.payload) for record in records]
            target.update(UpdateOperation.upsert_points(points))
        if offset is None:
            return


def place_of_new(folder: Path) -> Path:
    """Where the new shard is written."""
    return folder.with_name(f"{folder.name}.new")


def settle(folder: Path) -> None:
    """Finish or take back an exchange that was cut short: one whole shard in its place, nothing beside it."""
    old = _place_of_old(folder)
    if old.is_dir() and not (folder / CONFIG_FILE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        old.rename(folder)
    for left in (old, place_of_new(folder)):
        shutil.rmtree(left, ignore_errors=True)


def exchange(folder: Path) -> None:
    """Put the new shard in the place of the old one; both are closed."""
    folder.rename(_place_of_old(folder))
    place_of_new(folder).rename(folder)


def _place_of_old(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")
