"""Which fusion ranks best on questions whose document is known. Arms are searched once; every fusion is tried on them.

The single arms are among what is tried, so the choice is never worse on its questions than the better arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retrieval.fusion import Fusion, FusionMethod, fuse
from retrieval.search import Candidates

CUTOFF = 5
MIN_QUESTIONS = 20
"""Below it one question is more than 0.05 of Recall@5, and choosing would be guessing."""
TRIED = (
    *(Fusion(FusionMethod.SUM, weight) for weight in (0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)),
    *(Fusion(FusionMethod.RANKS, weight) for weight in (0.5, 1.0, 2.0)),
    Fusion(FusionMethod.SPARSE),
    Fusion(FusionMethod.DENSE),
)
_WORTH_MOVING = 0.005
"""Gain in Recall@5 for which the default is left: less is noise on any question set that somebody writes."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A question's candidates and the documents that answer it, by id or file name."""

    candidates: Candidates
    documents: frozenset[str]

    def rank(self, fusion: Fusion) -> int | None:
        """Rank from 1 of the best right document, passages of one document counting once; None when absent."""
        arms = self.candidates.arms
        fused = fuse(arms.similar, arms.bm25, arms.mass, fusion)
        seen: set[str] = set()
        for key in sorted(fused, key=lambda key: (-fused[key], key)):
            if key not in self.candidates.documents:
                continue  # pruned: the caller may not see it, or it is gone
            document, filename = self.candidates.documents[key]
            seen.add(document)
            if document in self.documents or filename in self.documents:
                return len(seen)
        return None


@dataclass(frozen=True, slots=True)
class FusionScore:
    """Recall@5 and mean reciprocal rank."""

    recall: float
    mrr: float


def score_fusion(judged: Sequence[Judged], fusion: Fusion) -> FusionScore:
    """Score of one fusion over questions."""
    ranks = [item.rank(fusion) for item in judged]
    found = [rank for rank in ranks if rank is not None]
    return FusionScore(sum(rank <= CUTOFF for rank in found) / len(ranks), sum(1 / rank for rank in found) / len(ranks))


def choose_fusion(judged: Sequence[Judged]) -> tuple[Fusion | None, dict[str, Any]]:
    """The fusion to put in force, None to keep the default, and the figures that say why."""
    figures: dict[str, Any] = {"n_documents_known": len(judged), "fusion_chosen": False}
    if len(judged) < MIN_QUESTIONS:
        return None, figures
    default = judged[0].candidates.arms.default
    scores = {fusion: score_fusion(judged, fusion) for fusion in (default, *TRIED)}
    best = max(scores, key=lambda fusion: (scores[fusion].recall, scores[fusion].mrr))
    chosen = best if scores[best].recall - scores[default].recall > _WORTH_MOVING else default
    figures |= {
        "fusion_chosen": True,
        "fusion": chosen.method.value,
        "dense_weight": chosen.dense_weight,
        "recall_at_5": round(scores[chosen].recall, 4),
        "recall_at_5_default": round(scores[default].recall, 4),
        "recall_at_5_dense": round(scores[Fusion(FusionMethod.DENSE)].recall, 4),
        "recall_at_5_sparse": round(scores[Fusion(FusionMethod.SPARSE)].recall, 4),
    }
    return chosen, figures
