"""A search of all that is stored, to its last byte, for a text that should no longer be there."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Text, cast, select

from core.database import Database
from core.tables import Base


def encodings(marker: str) -> list[bytes]:
    """A text as bytes, in every form in which a store may hold it."""
    escaped = json.dumps(marker)[1:-1]
    forms = [marker.encode("utf-8"), marker.encode("utf-16-le"), marker.encode("utf-16-be"), escaped.encode()]
    return [*forms, json.dumps(escaped)[1:-1].encode()]


def holds(data: bytes, marker: str) -> bool:
    """Whether bytes hold a text, as they are or unpacked."""
    return any(form in plain for plain in (data, *_unpacked(data)) for form in encodings(marker))


def _unpacked(data: bytes) -> Iterator[bytes]:
    for head, unpack in ((b"\x1f\x8b", gzip.decompress), (b"\x78", zlib.decompress)):
        if data.startswith(head):
            try:
                yield unpack(data)
            except (OSError, EOFError, zlib.error):
                continue


def files_with(folder: Path, marker: str) -> list[str]:
    """Files below a folder whose bytes hold a text."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and holds(path.read_bytes(), marker)]
    return [path.relative_to(folder).as_posix() for path in found]


def columns_with(db: Database, marker: str) -> list[str]:
    """`table.column` of every value that holds a text."""
    found = []
    with db.read() as session:
        for table in Base.metadata.sorted_tables:
            for column in table.columns:
                for value in session.scalars(select(cast(column, Text)).where(column.is_not(None))):
                    if value is not None and holds(str(value).encode(), marker):
                        found.append(f"{table.name}.{column.name}")
                        break
    return found
