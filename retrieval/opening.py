"""Opens the index of a version: a shard in a folder of this process, or a collection on a Qdrant server."""

from __future__ import annotations

from collections.abc import Callable, Collection

from core.ports import VectorIndex
from core.settings import Settings
from core.settings_qdrant import QdrantSettings


def open_index(
    settings: Settings,
    version: str,
    dim: int,
    idf: bool,
    sentences: bool,
    bridge: int = 0,
    on_new: Callable[[], None] | None = None,
    own_shards: Callable[[], Collection[str]] = tuple,
) -> VectorIndex:
    """Open or create the shard or the collection of an index version. sentences: it holds vectors of sentences.

    bridge: dimensions of the vectors that compare languages, 0 for none.
    on_new: called before one is created, also later where the index of a server was lost.
    own_shards: tenants that get a shard of their own in a new collection, where it is made for that.

    Raises:
        DataDirBusy: another process owns the shard.
        Unavailable: shard or server cannot be used; `storage_full`, for a new shard.
    """
    if settings.retrieval.index == "qdrant":
        from retrieval.index.connection import connect
        from retrieval.index.server import ServerIndex

        name = collection_of(settings.qdrant, version)
        return ServerIndex(
            connect(settings.qdrant),
            name,
            dim=dim,
            idf=idf,
            sentences=sentences,
            bridge=bridge,
            settings=settings.qdrant,
            on_new=on_new,
            tenant_shards=settings.retrieval.tenant_shards,
            own_shards=own_shards,
        )
    from retrieval.index.edge import EdgeIndex  # a process that asks a server need not have the engine installed
    from retrieval.index.edge_rewrite import settle

    folder = settings.index_dir / version
    settle(folder)
    if on_new is not None and not (folder / "edge_config.json").exists():
        on_new()
    reserve = settings.storage.reserve_bytes
    return EdgeIndex(folder, dim=dim, idf=idf, sentences=sentences, bridge=bridge, reserve_bytes=reserve)


def collection_of(settings: QdrantSettings, version: str) -> str:
    """Name of the collection of an index version."""
    return f"{settings.collection}-{version}"
