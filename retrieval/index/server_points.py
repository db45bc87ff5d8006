"""What goes to a Qdrant server: points, cut into writes it takes, and conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from qdrant_client import models

from core.types import AccessFilter, IndexPoint, SparseVector
from retrieval.index.names import BRIDGE, DENSE, LEXICAL, SENTENCES, payload_of

WRITE_BYTES = 8 * 2**20
"""Most bytes of one write, as estimated: a quarter of what a server takes by default (`max_request_size_mb: 32`)."""
_NUMBER_BYTES = 12
"""A number as JSON, with the digits that single precision has."""
_POINT_BYTES = 600


def access_condition(access: AccessFilter, ids: Sequence[str] | None = None) -> models.Filter:
    """Index side of the access filter: tenant AND any of the groups AND collection, of some points or of all."""
    must: list[models.Condition] = [equals("tenant_id", access.tenant_id)]
    if access.collection_id is not None:
        must.append(equals("collection_id", access.collection_id))
    if access.groups is not None:
        must.append(models.FieldCondition(key="groups", match=models.MatchAny(any=sorted(access.groups))))
    if access.document_ids is not None:
        must.append(models.FieldCondition(key="document_id", match=models.MatchAny(any=sorted(access.document_ids))))
    if ids is not None:
        must.append(models.HasIdCondition(has_id=list(ids)))
    return models.Filter(must=must)


def equals(key: str, value: str | int) -> models.FieldCondition:
    """Condition on one value."""
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def sparse_vector(vector: SparseVector) -> models.SparseVector:
    """A sparse vector as the client takes it."""
    return models.SparseVector(indices=list(vector.indices), values=list(vector.values))


def to_point(point: IndexPoint) -> models.PointStruct:
    """A point as the client takes it. Numbers have the digits that are kept: half the bytes of a write."""
    vectors: dict[str, Any] = {LEXICAL: sparse_vector(point.sparse)}
    if point.dense is not None:
        vectors[DENSE] = np.asarray(point.dense, dtype=np.float64).round(9).tolist()
    if point.sentences:
        vectors[SENTENCES] = np.asarray(point.sentences, dtype=np.float64).round(5).tolist()
    if point.bridge is not None:
        vectors[BRIDGE] = np.asarray(point.bridge, dtype=np.float64).round(5).tolist()
    return models.PointStruct(id=point.id, vector=vectors, payload=payload_of(point))


def batches(points: Sequence[models.PointStruct], most: int) -> Iterator[list[models.PointStruct]]:
    """Writes of `most` points and about `WRITE_BYTES` at best, in order; a point alone may be larger."""
    batch: list[models.PointStruct] = []
    held = 0
    for point in points:
        size = _bytes_of(point)
        if batch and (len(batch) == most or held + size > WRITE_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(point)
        held += size
    if batch:
        yield batch


def _bytes_of(point: models.PointStruct) -> int:
    numbers = 0
    for vector in point.vector.values() if isinstance(point.vector, dict) else ():
        if isinstance(vector, models.SparseVector):
            numbers += 2 * len(vector.indices)
        elif vector and isinstance(vector[0], list):  # type: ignore[index]
            numbers += sum(map(len, vector))  # type: ignore[arg-type]
        else:
            numbers += len(vector)  # type: ignore[arg-type]
    return _POINT_BYTES + _NUMBER_BYTES * numbers
