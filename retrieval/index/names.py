"""What points are made of, the same in every index: names of their vectors and the payload that filters need."""

from __future__ import annotations

from typing import Any

from core.types import IndexPoint

DENSE = "dense"
LEXICAL = "lexical"
SENTENCES = "sentences"
"""A vector per sentence of a passage, compared by the best of them. It scores candidates and is never searched."""


def payload_of(point: IndexPoint) -> dict[str, Any]:
    """Payload of a point; the passage's text is never in it."""
    return {
        "tenant_id": point.tenant_id,
        "collection_id": point.collection_id,
        "document_id": point.document_id,
        "generation": point.generation,
        "ordinal": point.ordinal,
        "groups": list(point.groups),
    }
