"""Rows between parsing and the database: in a file of their own, because a set may be larger than memory is patient."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

from core.contents import IN_MEMORY_BYTES


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """A valid row; `line` is where it starts in the file, from 1."""

    line: int
    content: dict[str, Any]
    digest: str


class RowFile:
    """Valid rows in file order, written once and read as often as wanted; one reader at a time."""

    def __init__(self, folder: Path | None = None) -> None:
        """folder: where they wait once they are many; None: where temporary files of this machine go."""
        self._file = SpooledTemporaryFile(IN_MEMORY_BYTES, dir=None if folder is None else str(folder))  # noqa: SIM115 - closed by `close`
        self._count = 0

    def append(self, row: ParsedRow) -> None:
        """Add a row behind the others."""
        self._file.write(json.dumps([row.line, row.digest, row.content]).encode() + b"\n")
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ParsedRow]:
        self._file.seek(0)
        for written in self._file:
            line, digest, content = json.loads(written)
            yield ParsedRow(line, content, digest)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()
