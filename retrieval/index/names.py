"""What points are made of, the same in every index: names of their vectors and the payload that filters need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.types import IndexPoint, SparseVector, StoredVectors

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
