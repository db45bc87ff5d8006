"""What points are made of, the same in every index: names of their vectors and the payload that filters need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from core.measures import FOREIGN_POINTS
from core.types import IndexedPoint, IndexPoint, ScoredPoint, SparseVector, StoredVectors

DENSE = "dense"
LEXICAL = "lexical"
BRIDGE = "bridge"
"""Vector of the encoder that compares languages."""
SENTENCES = "sentences"
"""A vector per sentence of a passage, compared by the best of them. It scores candidates and is never searched."""


def payload_of(point: IndexPoint) -> dict[str, Any]:
    """Payload of a point; the passage's text is never in it."""
    return {
        "tenant_id": point.tenant_id,
        "document_id": point.document_id,
        "generation": point.generation,
        "ordinal": point.ordinal,
        **access_payload(point.collection_id, point.groups),
    }


def access_payload(collection_id: str, groups: Sequence[str]) -> dict[str, Any]:
    """The part of it that changes without a new reading of the document."""
    return {"collection_id": collection_id, "groups": list(groups)}


def stored_vectors(point_id: str, vector: Any) -> StoredVectors:
    """Vectors of a record as either engine hands them out: by name, absent ones left out."""
    named: dict[str, Any] = vector if isinstance(vector, dict) else {}
    dense, sparse = named.get(DENSE), named.get(LEXICAL)
    return StoredVectors(
        point_id,
        None if dense is None else tuple(map(float, dense)),
        SparseVector((), ())
        if sparse is None
        else SparseVector(tuple(sparse.indices), tuple(map(float, sparse.values))),
        tuple(tuple(map(float, sentence)) for sentence in named.get(SENTENCES) or ()),
        None if named.get(BRIDGE) is None else tuple(map(float, named[BRIDGE])),
    )


def scored_points(hits: Iterable[Any]) -> list[ScoredPoint]:
    """Hits as search takes them. A point without our payload (clusters leave such) is skipped and counted."""
    found = []
    for hit in hits:
        said = hit.payload or {}
        document_id, generation = said.get("document_id"), said.get("generation")
        if isinstance(document_id, str) and isinstance(generation, int):
            found.append(ScoredPoint(str(hit.id), document_id, generation, float(hit.score)))
        else:
            FOREIGN_POINTS.inc()
    return found


def scores_of(hits: Iterable[Any]) -> dict[str, float]:
    """{id: score} of points that were named, and so need no payload to be told from foreign ones."""
    return {str(hit.id): float(hit.score) for hit in hits}


def indexed_point(key: object, payload: dict[str, Any] | None) -> IndexedPoint:
    """What a point says of itself; a foreign one has an empty document and generation -1."""
    said = payload or {}
    document_id, generation = said.get("document_id"), said.get("generation")
    if not isinstance(document_id, str) or not isinstance(generation, int):
        document_id, generation = "", -1
    groups = said.get("groups")
    return IndexedPoint(
        str(key),
        document_id,
        generation,
        str(said.get("tenant_id", "")),
        str(said.get("collection_id", "")),
        frozenset(map(str, groups)) if isinstance(groups, list) else frozenset(),
    )
