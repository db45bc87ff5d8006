"""qdrant-client's pure-Python mode behind the index protocol: for tests and for the benchmark beside Edge, no more.

It scores in Python: a hybrid query over 20,000 points takes about half a second, against 2 ms of Edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import RLock
from typing import Any

from qdrant_client import QdrantClient, models

from core.types import AccessFilter, IndexPoint, ScoredPoint, SparseVector
from retrieval.index.edge import DENSE, LEXICAL

_COLLECTION = "chunks"
_SCAN_PAGE = 1000


class LocalIndex:
    """`VectorIndex` in memory. Its IDF is over all points, so it holds one tenant at a time for equal scores."""

    def __init__(self, *, dim: int) -> None:
        self._lock = RLock()  # the local mode is not thread-safe
        self._client = QdrantClient(":memory:")
        self._client.create_collection(
            _COLLECTION,
            vectors_config={DENSE: models.VectorParams(size=dim, distance=models.Distance.COSINE)},
            sparse_vectors_config={LEXICAL: models.SparseVectorParams(modifier=models.Modifier.IDF)},
        )

    def upsert(self, points: Sequence[IndexPoint]) -> None:
        """Write points; the same id overwrites."""
        if points:
            with self._lock:
                self._client.upsert(_COLLECTION, [_to_point(point) for point in points])

    def delete_document(self, document_id: str, *, keep_generation: int | None = None) -> None:
        """Drop all points of a document, or all but those of one generation."""
        kept: list[models.Condition] = [] if keep_generation is None else [_equals("generation", keep_generation)]
        condition = models.Filter(must=[_equals("document_id", document_id)], must_not=kept)
        with self._lock:
            self._client.delete(_COLLECTION, models.FilterSelector(filter=condition))

    def delete_points(self, ids: Sequence[str]) -> None:
        """Drop points by id; unknown ids are ignored."""
        if ids:
            with self._lock:
                self._client.delete(_COLLECTION, models.PointIdsList(points=list(ids)))

    def search_dense(self, vector: Sequence[float], access: AccessFilter, limit: int) -> list[ScoredPoint]:
        """Nearest by cosine, best first."""
        return self._query(list(vector), DENSE, _condition(access), limit)

    def search_sparse(self, vector: SparseVector, access: AccessFilter, limit: int) -> list[ScoredPoint]:
        """Best by BM25, best first; points sharing no term are absent."""
        if not vector.indices:
            return []
        return self._query(_sparse(vector), LEXICAL, _condition(access), limit)

    def score_dense(self, vector: Sequence[float], ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """Cosine of the given points; those that the filter hides are absent."""
        if not ids:
            return {}
        return {p.id: p.score for p in self._query(list(vector), DENSE, _condition(access, ids), len(ids))}

    def score_sparse(self, vector: SparseVector, ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """BM25 of the given points, on the scale of `search_sparse`; those sharing no term are absent."""
        if not ids or not vector.indices:
            return {}
        return {p.id: p.score for p in self._query(_sparse(vector), LEXICAL, _condition(access, ids), len(ids))}

    def count(self, *, document_id: str | None = None, generation: int | None = None) -> int:
        """Exact number of points."""
        must: list[models.Condition] = []
        if document_id is not None:
            must.append(_equals("document_id", document_id))
        if generation is not None:
            must.append(_equals("generation", generation))
        with self._lock:
            return self._client.count(_COLLECTION, models.Filter(must=must) if must else None, exact=True).count

    def scan(self) -> Iterator[ScoredPoint]:
        """Every point, score 0."""
        offset: Any = None
        while True:
            with self._lock:
                records, offset = self._client.scroll(_COLLECTION, limit=_SCAN_PAGE, offset=offset)
            for record in records:
                yield _to_scored(record.id, record.payload or {}, 0.0)
            if offset is None:
                return

    def flush(self) -> None:
        """Nothing is on disk."""

    def close(self) -> None:
        """Free the memory."""
        self._client.close()

    def _query(self, query: Any, using: str, condition: models.Filter, limit: int) -> list[ScoredPoint]:
        with self._lock:
            response = self._client.query_points(_COLLECTION, query, using=using, query_filter=condition, limit=limit)
        return [_to_scored(point.id, point.payload or {}, point.score) for point in response.points]


def _condition(access: AccessFilter, ids: Sequence[str] | None = None) -> models.Filter:
    must: list[models.Condition] = [_equals("tenant_id", access.tenant_id)]
    if access.collection_id is not None:
        must.append(_equals("collection_id", access.collection_id))
    if access.groups is not None:
        must.append(models.FieldCondition(key="groups", match=models.MatchAny(any=sorted(access.groups))))
    if ids is not None:
        must.append(models.HasIdCondition(has_id=list(ids)))
    return models.Filter(must=must)


def _equals(key: str, value: str | int) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _sparse(vector: SparseVector) -> models.SparseVector:
    return models.SparseVector(indices=list(vector.indices), values=list(vector.values))


def _to_point(point: IndexPoint) -> models.PointStruct:
    vectors: dict[str, Any] = {LEXICAL: _sparse(point.sparse)}
    if point.dense is not None:
        vectors[DENSE] = list(point.dense)
    payload = {
        "tenant_id": point.tenant_id,
        "collection_id": point.collection_id,
        "document_id": point.document_id,
        "generation": point.generation,
        "ordinal": point.ordinal,
        "groups": list(point.groups),
    }
    return models.PointStruct(id=point.id, vector=vectors, payload=payload)


def _to_scored(key: object, payload: dict[str, Any], score: float) -> ScoredPoint:
    return ScoredPoint(str(key), payload["document_id"], int(payload["generation"]), float(score))
