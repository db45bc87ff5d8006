"""Vectors of points as JSON lines: float32 in base64, a third of what digits take. Standard library only.

The running service writes them for a backup, and a restore reads them as it reads anything from outside.
"""

from __future__ import annotations

import json
import struct
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

from core.types import SparseVector, StoredVectors


def encode_line(one: StoredVectors) -> bytes:
    """One line, with its end."""
    line = {
        "id": one.id,
        "dense": None if one.dense is None else _encode(one.dense, "f"),
        "indices": _encode(one.sparse.indices, "I"),
        "values": _encode(one.sparse.values, "f"),
        "sentences": [_encode(sentence, "f") for sentence in one.sentences],
        "bridge": None if one.bridge is None else _encode(one.bridge, "f"),
    }
    return json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"


def decode_line(text: bytes) -> StoredVectors:
    """The vectors of a line.

    Raises:
        ValueError: it is none.
    """
    try:
        line: dict[str, Any] = json.loads(text)
        indices, values = _decode(line["indices"], "I"), _decode(line["values"], "f")
        dense = None if line["dense"] is None else _decode(line["dense"], "f")
        sentences = tuple(_decode(sentence, "f") for sentence in line["sentences"])
        bridge = None if line.get("bridge") is None else _decode(line["bridge"], "f")
    except (TypeError, KeyError, struct.error) as error:
        raise ValueError(f"no line of vectors: {error}") from error
    if len(indices) != len(values) or len(set(indices)) != len(indices):
        raise ValueError("indices and values do not belong together")
    return StoredVectors(str(line["id"]), dense, SparseVector(indices, values), sentences, bridge)


def _encode(values: Sequence[float], kind: str) -> str:
    return b64encode(struct.pack(f"<{len(values)}{kind}", *values)).decode("ascii")


def _decode(data: str, kind: str) -> tuple[Any, ...]:
    packed = b64decode(data, validate=True)
    return struct.unpack(f"<{len(packed) // 4}{kind}", packed)
