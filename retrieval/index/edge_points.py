"""What goes to Qdrant Edge and what comes back, in its own types."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from qdrant_edge import (
    Distance,
    EdgeConfig,
    EdgeSparseVectorParams,
    EdgeVectorParams,
    FieldCondition,
    Filter,
    HasIdCondition,
    HnswIndexConfig,
    IntegerIndexParams,
    KeywordIndexParams,
    MatchAny,
    MatchValue,
    Memory,
    Modifier,
    MultiVectorComparator,
    MultiVectorConfig,
    Point,
    Query,
    QueryRequest,
    Sample,
    UpdateOperation,
    VectorStorageDatatype,
)
from qdrant_edge import SparseVector as EdgeSparseVector

from core.types import AccessFilter, IndexPoint, SparseVector
from retrieval.index.names import BRIDGE, DENSE, LEXICAL, SENTENCES, payload_of

_KEYWORDS = ("collection_id", "document_id", "groups")
_NO_GRAPH = ("document_id", "generation")
"""Payload indexes for which the engine links the points of each value: most of a build, for nothing."""
SCAN_UP_TO = 20_000
"""Points without a graph of their own within a segment: all of them are compared faster than a graph answers."""


def access_condition(access: AccessFilter, ids: Sequence[str] | None = None) -> Any:
    """Index side of the access filter: tenant AND any of the groups AND collection, of some points or of all."""
    must: list[Any] = [equals("tenant_id", access.tenant_id)]
    if access.collection_id is not None:
        must.append(equals("collection_id", access.collection_id))
    if access.groups is not None:
        must.append(FieldCondition("groups", match=MatchAny(sorted(access.groups))))
    if access.document_ids is not None:
        must.append(FieldCondition("document_id", match=MatchAny(sorted(access.document_ids))))
    if ids is not None:
        must.append(HasIdCondition(set(ids)))
    return Filter(must=must)


def dense_query(vector: Sequence[float]) -> Any:
    """Nearest to a dense vector."""
    return Query.Nearest([float(x) for x in vector], using=DENSE)


def sparse_query(vector: SparseVector) -> Any:
    """Best by a sparse vector."""
    return Query.Nearest(EdgeSparseVector(list(vector.indices), list(vector.values)), using=LEXICAL)


def bridge_query(vector: Sequence[float]) -> Any:
    """Nearest to a vector of the bridge."""
    return Query.Nearest([float(x) for x in vector], using=BRIDGE)


def shard_config(dim: int, idf: bool, sentences: bool, bridge: int = 0) -> Any:
    """What a new shard is made of. bridge: dimensions of the bridge's vectors, 0 for none."""
    graph = HnswIndexConfig(m=16, ef_construct=128, full_scan_threshold=SCAN_UP_TO * dim * 4 // 1024)  # in KB
    vectors = {DENSE: EdgeVectorParams(size=dim, distance=Distance.Cosine, hnsw_config=graph)}
    if sentences:
        vectors[SENTENCES] = EdgeVectorParams(
            size=dim,
            distance=Distance.Cosine,
            multivector_config=MultiVectorConfig(MultiVectorComparator.MaxSim),
            datatype=VectorStorageDatatype.Float16,
            memory=Memory.Cold,
            hnsw_config=HnswIndexConfig(m=0, ef_construct=8, full_scan_threshold=10),  # no graph: it is not searched
        )
    if bridge:
        vectors[BRIDGE] = EdgeVectorParams(
            size=bridge,
            distance=Distance.Cosine,
            datatype=VectorStorageDatatype.Float16,
            hnsw_config=HnswIndexConfig(m=0, ef_construct=8, full_scan_threshold=10),  # compared one by one
        )
    return EdgeConfig(
        vectors=vectors,
        sparse_vectors={LEXICAL: EdgeSparseVectorParams(modifier=Modifier.Idf if idf else None)},
    )


def equals(key: str, value: str | int) -> Any:
    """Condition on one value."""
    return FieldCondition(key, match=MatchValue(value))


def to_point(point: IndexPoint) -> Any:
    """A point as the engine takes it."""
    vectors: dict[str, Any] = {LEXICAL: EdgeSparseVector(list(point.sparse.indices), list(point.sparse.values))}
    if point.dense is not None:
        vectors[DENSE] = list(point.dense)
    if point.sentences:
        vectors[SENTENCES] = [list(sentence) for sentence in point.sentences]
    if point.bridge is not None:
        vectors[BRIDGE] = list(point.bridge)
    return Point(point.id, vectors, payload_of(point))


def sampled(shard: Any, count: int) -> list[tuple[list[float], str]]:
    """Vectors near points that are spread over the shard, as far from them as queries are, with their tenants."""
    chance = Random(0)
    request = QueryRequest(limit=count, query=Sample.Random, with_payload=["tenant_id"], with_vector=[DENSE])
    found: list[tuple[list[float], str]] = []
    for record in shard.query(request):
        vector = (record.vector or {}).get(DENSE)
        if vector is not None:
            spread = 0.7 / len(vector) ** 0.5
            moved = [float(value) + chance.gauss(0.0, spread) for value in vector]
            found.append((moved, str((record.payload or {}).get("tenant_id"))))
    return found


def ensure_payload_indexes(shard: Any) -> None:
    """Make the indexes that filters need, those that are not there."""
    present = set(shard.info().payload_schema)
    if "tenant_id" not in present:
        shard.update(UpdateOperation.create_field_index("tenant_id", KeywordIndexParams(is_tenant=True)))
    for name in _KEYWORDS:
        if name not in present:
            keyword = KeywordIndexParams(enable_hnsw=name not in _NO_GRAPH)
            shard.update(UpdateOperation.create_field_index(name, keyword))
    if "generation" not in present:
        integer = IntegerIndexParams(lookup=True, range=False, enable_hnsw=False)
        shard.update(UpdateOperation.create_field_index("generation", integer))
