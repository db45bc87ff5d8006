"""One ranking out of two arms. The dense arm is heard only in languages its embedder covers.

Scores are summed, not ranks. Mean of four sets of about 430 English passages (8,000 questions), Recall@1 / @5: dense
alone 0.655 / 0.888, BM25 alone 0.816 / 0.950, the sum below 0.846 / 0.971; reciprocal rank fusion gains less than half
of that at five and loses at one. With word pairs and sentence vectors the sum gains another 0.02 at one and 0.005 at
five (twelve sets). The sum needs both scores of every candidate, so what one arm did not return is scored
afterwards instead of being taken for the worst.
"""

from __future__ import annotations

from collections.abc import Mapping

DENSE_WEIGHT = 2.5
"""Weight of the similarity beside BM25 as a share of the query's best BM25; flat from 1.5 to 3.0."""
SENTENCE_SHARE = 0.8
"""What the nearest sentence counts in the similarity of a passage; the rest is the passage's own vector."""


def similarities(cosines: Mapping[str, float], sentences: Mapping[str, float]) -> dict[str, float]:
    """Similarity of each passage: its cosine, and that of its nearest sentence where sentences have vectors."""
    return {
        key: cosine + SENTENCE_SHARE * (sentences[key] - cosine) if key in sentences else cosine
        for key, cosine in cosines.items()
    }


def fuse(dense: Mapping[str, float] | None, sparse: Mapping[str, float], query_mass: float) -> dict[str, float]:
    """Fused score of each candidate id.

    dense: similarities, or None when the embedder does not cover the query's language: BM25 alone ranks then.
    sparse: BM25 scores; absent means no shared term. query_mass: sum of the query's term weights. A best BM25 below it
    comes from grammar alone ("get", "much"), as happens among ten documents, and is not taken for a full match.
    """
    scale = max(query_mass, *sparse.values(), 1e-9)
    lexical = {key: score / scale for key, score in sparse.items()}
    if dense is None:
        return lexical
    keys = set(lexical) | set(dense)
    return {key: lexical.get(key, 0.0) + DENSE_WEIGHT * max(dense.get(key, 0.0), 0.0) for key in keys}
