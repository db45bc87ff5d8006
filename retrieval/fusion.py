"""One ranking out of two arms. The dense arm is heard only in languages its embedder covers.

Scores are summed, not ranks. Mean of four sets of about 430 English passages (8,000 questions), Recall@1 / @5: dense
alone 0.655 / 0.888, BM25 alone 0.816 / 0.950, the sum below 0.846 / 0.971; reciprocal rank fusion gains less than half
of that at five and loses at one. With word pairs and sentence vectors the sum gains another 0.02 at one and 0.005 at
five (twelve sets). The sum needs both scores of every candidate, so what one arm did not return is scored
afterwards instead of being taken for the worst.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

PASSAGE_WEIGHT = 2.0
"""Weight of the similarity beside BM25 as a share of the query's best BM25; flat from 1.0 to 2.5."""
SENTENCE_WEIGHT = 2.5
"""The same where sentences have vectors of their own; flat from 1.5 to 3.0."""
SENTENCE_SHARE = 0.8
"""What the nearest sentence counts in the similarity of a passage; the rest is the passage's own vector."""
_RANK_OFFSET = 60


class FusionMethod(StrEnum):
    """How two arms become one ranking."""

    SUM = "sum"
    """Similarity times a weight, plus BM25 as a share of a full match."""
    RANKS = "ranks"
    """Reciprocal rank fusion, the dense arm's share times the weight."""
    DENSE = "dense"
    SPARSE = "sparse"


@dataclass(frozen=True, slots=True)
class Fusion:
    """A method and the weight of the dense arm beside a lexical arm of 1."""

    method: FusionMethod = FusionMethod.SUM
    dense_weight: float = PASSAGE_WEIGHT


def default_fusion(sentences: Mapping[str, float]) -> Fusion:
    """What holds until `tsumugi calibrate` has chosen; sentences: the scores of an index that has them, else empty."""
    return Fusion(FusionMethod.SUM, SENTENCE_WEIGHT if sentences else PASSAGE_WEIGHT)


def similarities(cosines: Mapping[str, float], sentences: Mapping[str, float]) -> dict[str, float]:
    """Similarity of each passage: its cosine, and that of its nearest sentence where sentences have vectors."""
    return {
        key: cosine + SENTENCE_SHARE * (sentences[key] - cosine) if key in sentences else cosine
        for key, cosine in cosines.items()
    }


def fuse(
    dense: Mapping[str, float] | None, sparse: Mapping[str, float], query_mass: float, fusion: Fusion
) -> dict[str, float]:
    """Fused score of each candidate id.

    dense: similarities, or None when the embedder does not cover the query's language. sparse: BM25 scores; absent
    means no shared term. An arm that is dead for this query (None, or nothing found) leaves the ranking to the other,
    whatever the method. query_mass: sum of the query's term weights. A best BM25 below it comes from grammar alone
    ("get", "much"), as happens among ten documents, and is not taken for a full match.
    """
    scale = max(query_mass, *sparse.values(), 1e-9)
    lexical = {key: score / scale for key, score in sparse.items()}
    if not dense or fusion.method is FusionMethod.SPARSE:
        return lexical or {key: max(similarity, 0.0) for key, similarity in (dense or {}).items()}
    if not sparse or fusion.method is FusionMethod.DENSE:
        return {key: max(similarity, 0.0) for key, similarity in dense.items()}
    weight = fusion.dense_weight
    keys = set(lexical) | set(dense)
    if fusion.method is FusionMethod.RANKS:
        first, second = _reciprocal_ranks(dense), _reciprocal_ranks(sparse)
        return {key: second.get(key, 0.0) + weight * first.get(key, 0.0) for key in keys}
    return {key: lexical.get(key, 0.0) + weight * max(dense.get(key, 0.0), 0.0) for key in keys}


def _reciprocal_ranks(scores: Mapping[str, float]) -> dict[str, float]:
    order = sorted(scores, key=lambda key: (-scores[key], key))
    return {key: 1.0 / (_RANK_OFFSET + rank) for rank, key in enumerate(order, start=1)}
