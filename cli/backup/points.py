"""Vectors of an index as JSON lines: float32 in base64, so that a restore need not embed every chunk again.

Only vectors travel. The payload by which a search is filtered comes from the restored rows, so a backup that somebody
has changed cannot widen who may read a passage.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from cli.backup.rows import in_batches
from core.database import Database
from core.types import SparseVector, StoredVectors
from retrieval.live import OpenVersion
from retrieval.reconcile import put_vectors

log = structlog.stdlib.get_logger(__name__)

BATCH = 256


def dump_vectors(vectors: Iterable[StoredVectors], path: Path) -> int:
    """Write one line a point; returns how many."""
    count = 0
    with path.open("w", encoding="ascii") as file:
        for one in vectors:
            line = {
                "id": one.id,
                "dense": None if one.dense is None else _encode(one.dense, "<f4"),
                "indices": _encode(one.sparse.indices, "<u4"),
                "values": _encode(one.sparse.values, "<f4"),
                "sentences": [_encode(sentence, "<f4") for sentence in one.sentences],
            }
            file.write(json.dumps(line) + "\n")
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
                yield _decoded(json.loads(line))
            except (ValueError, TypeError, KeyError):
                bad += 1
    if bad:
        log.warning("restore.vectors_unreadable", file=path.name, lines=bad)


def _decoded(line: dict[str, Any]) -> StoredVectors:
    indices, values = _decode(line["indices"], "<u4"), _decode(line["values"], "<f4")
    if len(indices) != len(values) or len(set(indices)) != len(indices):
        raise ValueError("indices and values do not belong together")
    return StoredVectors(
        str(line["id"]),
        None if line["dense"] is None else _decode(line["dense"], "<f4"),
        SparseVector(indices, values),
        tuple(_decode(sentence, "<f4") for sentence in line["sentences"]),
    )


def _encode(values: Iterable[float], kind: str) -> str:
    return b64encode(np.asarray(tuple(values), dtype=kind).tobytes()).decode("ascii")


def _decode(data: str, kind: str) -> tuple[Any, ...]:
    return tuple(np.frombuffer(b64decode(data, validate=True), dtype=kind).tolist())
