"""The evidence stage: from passages to the lines that answer a question, best first, with how sure the best one is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.language import language_of, passage_language
from core.types import Passage
from generation.evidence.candidates import Candidate, shown
from generation.evidence.parameters import CONFIDENCE_FEATURES, EvidenceParameters
from generation.evidence.ranking import FEATURES, Pool, pool_of, scores

EVIDENCE_PASSAGES = 24
"""Passages read for units: search has them at hand, and a right line often stands in a passage below the fifth."""
SHOWN_LINES = 5
_ALTERNATIVES = 3
_ALTERNATIVE_SHARE = 0.2
"""An alternative has at least this share of the best line's probability."""


@dataclass(frozen=True, slots=True)
class Line:
    """A unit that may answer. `answer`: its words as an answer. `passage`: the unit as a passage, offsets exact."""

    answer: str
    passage: Passage
    kind: str
    probability: float
    """Share of the ranker's belief among all candidates."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Lines best first, one a unit. confidence: probability that the first is a right answer, the model not heard."""

    lines: tuple[Line, ...]
    alternatives: tuple[Line, ...]
    confidence: float
    signals: Mapping[str, float]
    """What the confidence was told by, by name (CONFIDENCE_FEATURES)."""


def gather(question: str, passages: Sequence[Passage], parameters: EvidenceParameters) -> Evidence:
    """Rank what the passages say about a question. No passages, no lines, confidence 0."""
    pool = pool_of(question, passages)
    if not pool.candidates:
        return Evidence((), (), 0.0, {})
    table = pool.features()
    belief = scores(table, parameters.ranking)
    order = [int(at) for at in np.argsort(-belief, kind="stable")]
    probability = np.exp(belief - belief.max())
    probability /= probability.sum()
    lines: list[Line] = []
    seen: set[tuple[int, int, int]] = set()
    for at in order:
        candidate = pool.candidates[at]
        unit = candidate.unit
        place = (unit.passage, unit.start, unit.end)
        if place in seen:
            continue
        seen.add(place)
        lines.append(_line(pool, candidate, float(probability[at])))
        if len(lines) == SHOWN_LINES + _ALTERNATIVES:
            break
    signals = _signals(pool, table, belief, probability, order)
    return Evidence(
        lines=tuple(lines[:SHOWN_LINES]),
        alternatives=tuple(
            line for line in lines[1 : 1 + _ALTERNATIVES] if line.probability >= _ALTERNATIVE_SHARE * lines[0].probability
        ),
        confidence=parameters.confidence_of(signals),
        signals=signals,
    )


def _line(pool: Pool, candidate: Candidate, probability: float) -> Line:
    unit = candidate.unit
    passage = pool.passages[unit.passage]
    return Line(
        answer=shown(candidate),
        passage=replace(
            passage,
            text=unit.text,
            start=unit.start,
            end=unit.end,
            page=passage.page_at(unit.start),
            hit_start=passage.start if passage.hit_start is None else passage.hit_start,
            hit_end=passage.end if passage.hit_end is None else passage.hit_end,
        ),
        kind=unit.kind.value,
        probability=round(probability, 6),
    )


def _signals(
    pool: Pool, table: np.ndarray, belief: np.ndarray, probability: np.ndarray, order: Sequence[int]
) -> dict[str, float]:
    best = pool.candidates[order[0]]
    passage = pool.passages[best.unit.passage]
    second = next((at for at in order if pool.candidates[at].unit is not best.unit), order[0])
    own = [at for at in order if pool.candidates[at].unit is best.unit]
    values = dict(zip(FEATURES, map(float, table[order[0]]), strict=True))
    values |= {
        "top": float(belief[order[0]]),
        "margin": float(belief[order[0]] - belief[second]),
        "prob": float(sum(probability[at] for at in own)),
        "relevance": passage.relevance,
        "cross": float(pool.question.language is not passage_language(passage.text)),
        "nid": float(bool(pool.question.identifiers)),
    }
    return {name: values[name] for name in CONFIDENCE_FEATURES}


def logistic(value: float) -> float:
    """1 / (1 + e^-x), for any x."""
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, value))))


__all__ = ["EVIDENCE_PASSAGES", "SHOWN_LINES", "Evidence", "Line", "gather", "language_of", "logistic"]
