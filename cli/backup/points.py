"""Files of an index's vectors, a line a point.

Only vectors travel. The payload by which a search is filtered comes from the restored rows, so a backup that somebody
has changed cannot widen who may read a passage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from cli.backup.rows import in_batches
from core.database import Database
from core.types import StoredVectors
from retrieval.live import OpenVersion
from retrieval.reconcile import put_vectors
from retrieval.vector_lines import decode_line, encode_line

log = structlog.stdlib.get_logger(__name__)

BATCH = 256


def dump_vectors(vectors: Iterable[StoredVectors], path: Path) -> int:
    """Write one line a point; returns how many."""
    count = 0
    with path.open("wb") as file:
        for one in vectors:
            file.write(encode_line(one))
            count += 1
    return count


def load_vectors(db: Database, version: OpenVersion, path: Path) -> int:
    """Write the points of a version whose chunks serve; returns how many. Lines that are none are passed over."""
    written = 0
    for found in in_batches(_read(path), BATCH):
        written += put_vectors(db, version, found)
    return written


def _read(path: Path) -> Iterator[StoredVectors]:
    bad = 0
    with path.open("rb") as file:
        for line in file:
            try:
                yield decode_line(line)
            except ValueError:
                bad += 1
    if bad:
        log.warning("restore.vectors_unreadable", file=path.name, lines=bad)
