"""What indexes hold, read without the models that made it. Nothing is created by looking.

A version's own row says how its index was made, so the vectors of every version can be kept, also of one whose model
this process could not load.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from core.settings import Settings
from core.tables.operations import IndexVersion
from core.types import StoredVectors
from retrieval.build import settings_of
from retrieval.opening import collection_of, open_index


def read_vectors(settings: Settings, row: IndexVersion) -> Iterator[StoredVectors]:
    """Vectors of all points of an index version, ordered by id; none where its index does not exist.

    Raises:
        DataDirBusy: another process owns the shard.
        Unavailable: shard or server cannot be read.
    """
    if settings.retrieval.index == "qdrant":
        if collection_of(settings.qdrant, row.id) not in _collections(settings):
            return
    elif not (settings.index_dir / row.id / "edge_config.json").is_file():
        return
    embedder: dict[str, Any] = row.spec["embedder"]
    idf = settings_of(settings, row.config).retrieval.lexical != "bge-m3"  # learnt weights carry theirs already
    bridge = int((row.spec.get("bridge") or {}).get("dim", 0))
    with ExitStack() as stack:
        index = open_index(settings, row.id, int(embedder["dim"]), idf, bool(embedder.get("sentences")), bridge)
        stack.callback(index.close)
        yield from index.vectors()


def filled_indexes(settings: Settings) -> list[str]:
    """Names of shards or collections of this system that hold something.

    Raises:
        Unavailable: the server does not answer.
    """
    if settings.retrieval.index == "qdrant":
        return [name for name, points in _collections(settings).items() if points]
    return sorted(path.name for path in settings.index_dir.glob("*/edge_config.json"))


def _collections(settings: Settings) -> dict[str, int]:
    from retrieval.index.collections import collections

    return collections(settings.qdrant)
