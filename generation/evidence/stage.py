"""The evidence stage: from passages to the lines that answer a question, best first, with how sure the best one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from core.ports import Bridge
from core.types import Passage
from generation.evidence.candidates import Candidate, Form, shown
from generation.evidence.parameters import CONFIDENCE_FEATURES, EvidenceParameters, Weights
from generation.evidence.pool import Pool, Siblings, pool_of
from generation.evidence.question import Wanted
from generation.evidence.ranking import FEATURES, features, scores
from generation.evidence.units import UnitKind, is_stamped
from generation.evidence.western import with_western_years
from retrieval.lexical import tokenize

EVIDENCE_PASSAGES = 24
"""Passages read for units: search has them at hand, and a right line often stands in a passage below the fifth."""
SHOWN_LINES = 5
_ALTERNATIVES = 3
_COMPARED = 200
"""Candidates among which a later edition of the best one is looked for."""
_SAME_SHARE = 0.8
"""Two lines say the same of different values where they share so many of their terms."""
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
    prose: bool
    """A sentence of running text, under no heading and in no log: what a small model reads well."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Lines best first, one a unit. confidence: probability that the first is a right answer."""

    lines: tuple[Line, ...]
    alternatives: tuple[Line, ...]
    confidence: float
    signals: Mapping[str, float]
    """What the confidence was told by, by name (CONFIDENCE_FEATURES)."""


NO_EVIDENCE = Evidence((), (), 0.0, {})


def gather(
    question: str,
    passages: Sequence[Passage],
    parameters: EvidenceParameters,
    *,
    today: date,
    siblings: Siblings | None = None,
    bridge: Bridge | None = None,
) -> Evidence:
    """Rank what the passages say about a question. No passages, no lines, confidence 0.

    siblings: other editions of the passages' documents. bridge: compares meanings, also across languages.
    """
    pool = pool_of(question, passages, today, siblings, bridge)
    if not pool.candidates:
        return NO_EVIDENCE
    table = features(pool)
    foreign = table[:, FEATURES.index("foreign")] > 0
    if bridge is None:
        return _ranked(pool, table, np.arange(len(table)), parameters.uncompared)
    sides = [
        _ranked(pool, table, np.flatnonzero(side), weights)
        for side, weights in ((~foreign, parameters.own), (foreign, parameters.foreign))
        if side.any()
    ]
    # Scores of the two languages are not of one scale; how sure each is of its best line is.
    return max(sides, key=lambda evidence: evidence.confidence)


def _ranked(pool: Pool, table: NDArray[np.float64], among: NDArray[np.intp], weights: Weights) -> Evidence:
    """Evidence among some of the candidates."""
    belief = scores(table[among], weights.ranking)
    order = [int(at) for at in np.argsort(-belief, kind="stable")]
    probability = np.exp(belief - belief.max())
    probability /= probability.sum()
    candidates = [pool.candidates[at] for at in among]
    signals = signals_of(pool, candidates, table[among], belief, probability, order)
    latest = _latest(pool, candidates, order)
    chosen: list[int] = []
    for at in dict.fromkeys([latest, *order]):
        candidate = candidates[at]
        others = (candidates[other] for other in chosen)
        if not any(candidate.first <= other.last and other.first <= candidate.last for other in others):
            chosen.append(at)
        if len(chosen) == SHOWN_LINES + _ALTERNATIVES:
            break
    lines = [_line(pool, pool.candidates[pool.narrow(int(among[at]))], float(probability[at])) for at in chosen]
    least = _ALTERNATIVE_SHARE * lines[0].probability
    return Evidence(
        lines=tuple(lines[:SHOWN_LINES]),
        alternatives=tuple(line for line in lines[1 : 1 + _ALTERNATIVES] if line.probability >= least),
        confidence=weights.confidence_of(signals),
        signals=signals,
    )


def _latest(pool: Pool, candidates: Sequence[Candidate], order: Sequence[int]) -> int:
    """The best candidate, or what its document says of the same under its latest date or version.

    Sections of release notes and minutes tell one thing with a value each. Who names no version and no date asks for
    what holds; the terms of the question cannot tell them apart.
    """
    best = candidates[order[0]]
    own, terms = pool.dated[best.first], _said(best)
    if not own:
        return order[0]
    document, asked = pool.passages[pool.unit_of(best).passage].document_id, pool.share(pool.read(best.text).terms)
    named = pool.question.numbers | pool.question.identifiers
    same = [order[0]]
    for at in order[:_COMPARED]:
        other, said = candidates[at], _said(candidates[at])
        heading = pool.headings[other.first]
        if pool.dated[other.first] and named & (heading.numbers | heading.identifiers):
            return order[0]
        if len(pool.dated[other.first]) != len(own):
            continue
        if pool.passages[pool.unit_of(other).passage].document_id != document:
            continue
        if other.form is not best.form and (
            other.form is not Form.UNIT or pool.share(pool.read(other.text).terms) < asked
        ):
            continue
        whole = terms | said if other.form is best.form else said
        if len(terms & said) >= _SAME_SHARE * len(whole):
            same.append(at)
    return max(same, key=lambda at: pool.dated[candidates[at].first])


def _said(candidate: Candidate) -> frozenset[str]:
    """Terms without the values."""
    return frozenset(term for term in tokenize(candidate.text) if not any(map(str.isdecimal, term)))


def answer_of(pool: Pool, candidate: Candidate) -> str:
    """A candidate as an answer."""
    answer = shown(candidate, pool.unit_of(candidate))
    if pool.question.wanted & {Wanted.DATE, Wanted.DURATION} or not pool.question.wanted:
        return with_western_years(answer)
    return answer


def _line(pool: Pool, candidate: Candidate, probability: float) -> Line:
    unit, last = pool.unit_of(candidate), pool.units[candidate.last]
    passage = pool.passages[unit.passage]
    return Line(
        answer=answer_of(pool, candidate),
        passage=replace(
            passage,
            text=passage.text[unit.start - passage.start : last.end - passage.start],
            start=unit.start,
            end=last.end,
            page=passage.page_at(unit.start),
            hit_start=passage.start if passage.hit_start is None else passage.hit_start,
            hit_end=passage.end if passage.hit_end is None else passage.hit_end,
        ),
        kind="cell" if candidate.form is Form.CELL else unit.kind.value,
        probability=round(probability, 6),
        prose=unit.kind is UnitKind.SENTENCE and not unit.heading and not is_stamped(unit.text),
    )


def signals_of(
    pool: Pool,
    candidates: Sequence[Candidate],
    table: NDArray[np.float64],
    belief: NDArray[np.float64],
    probability: NDArray[np.float64],
    order: Sequence[int],
) -> dict[str, float]:
    """What the confidence in the first of `order` is told by."""
    best = candidates[order[0]]
    own = [at for at, candidate in enumerate(candidates) if candidate.first == best.first]
    second = next((at for at in order if candidates[at].first != best.first), order[0])
    values = dict(zip(FEATURES, map(float, table[order[0]]), strict=True))
    values |= {
        "top": float(belief[order[0]]),
        "margin": float(belief[order[0]] - belief[second]),
        "prob": float(probability[own].sum()),
        "relevance": pool.passages[pool.unit_of(best).passage].relevance,
        "asks_identifier": float(bool(pool.question.identifiers)),
    }
    return {name: values[name] for name in CONFIDENCE_FEATURES}
