"""Passages in another language than the question's: found by a multilingual encoder, put beside what terms found.

Terms and the embedder rank passages in the question's own language far better than the bridge does, and say nothing of
others. So scores of the two kinds are not compared. How likely it is that the answer stands in the other language is
read from how much of the question its own language covers, and from how near each language comes; that likelihood says
how the two rankings are shuffled together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from core.ports import Bridge
from core.types import Language

DEPTH = 60
"""Candidates taken from the bridge."""
_BIAS, _COVERED, _NEARER = 4.4, -9.3, -16.5
"""Log-odds that the answer is in the other language: share of the question's terms that the best three passages of its
own cover, and how much nearer than the other language's its own comes. Fitted on 490 questions over 77 office files;
weights of either half of them order the other half alike (docs/adr/0020)."""
_FEWEST, _MOST = 0.05, 0.8
"""Share of the places that passages in the other language get: of the first five at least one is of either language
unless the odds are clear, and the first of its own is always among three."""
_TERMS = 0.5
"""Weight of shared terms (numbers, names, identifiers, months) beside the similarity."""
_RELEVANCE = (-6.9, 19.3)
"""Of a passage in the other language, by its similarity. Chosen to pass the refusal threshold at 0.205: nine in ten of
the nearest passages to off-topic questions stay below, four in five of the right ones lie above."""

Hits = dict[str, tuple[float, float | None]]
"""{id: (fused score, cosine)}, best first."""


def bridge_vectors(bridge: Bridge | None, texts: Sequence[str]) -> list[tuple[float, ...] | None]:
    """What points of these texts carry for questions in other languages, in their order."""
    if bridge is None or not texts:
        return [None] * len(texts)
    return [tuple(vector) for vector in bridge.encode_passages(texts).tolist()]


def bridgeable(question: Language, passages: Collection[Language], *, bridge: bool) -> bool:
    """Whether a question in one language can be answered from passages in others at all.

    bridge: the index has a multilingual arm, or its embedder covers both languages. Without one, only passages in the
    question's own language (or in none, as numbers are) can be told from others.
    """
    own = {question, Language.OTHER}
    return bridge or question is Language.OTHER or not passages or any(language in own for language in passages)


def shuffle(
    hits: Hits,
    similar: Mapping[str, float],
    shared: Mapping[str, float],
    languages: Mapping[str, Language],
    question: Language,
    covered: float,
) -> Hits:
    """One ranking of both languages; those of the question's own keep their scores, others take that before them.

    similar: of the bridge's candidates. shared: BM25 as a share of a full match. languages: of every candidate.
    covered: best share of the question's terms among the first passages in its own language.
    """
    foreign = {key for key in (*similar, *hits) if languages[key] not in (question, Language.OTHER)}
    if not foreign:
        return hits
    own = {key: hit for key, hit in hits.items() if key not in foreign}
    floor = min(similar.values(), default=0.0)
    here = max((score for key, score in similar.items() if key not in foreign), default=floor)
    there = max((score for key, score in similar.items() if key in foreign), default=floor)
    odds = math.exp(_BIAS + _COVERED * covered + _NEARER * (here - there))
    share = min(max(odds / (1 + odds), _FEWEST), _MOST)
    points = {key: max(similar.get(key, 0.0), 0.0) + _TERMS * shared.get(key, 0.0) for key in foreign}
    places = {key: (rank + 0.5) / (1 - share) for rank, key in enumerate(own)}
    ordered = sorted(foreign, key=lambda key: (-points[key], key))
    places |= {key: (rank + 0.5) / share for rank, key in enumerate(ordered)}
    merged: Hits = {}
    score = max((score for score, _ in own.values()), default=1.0)
    for key in sorted(places, key=lambda key: (places[key], key)):
        merged[key] = own.get(key, (score, None))
        score = merged[key][0]
    return merged


def bridged_relevance(similarity: float) -> float:
    """Relevance of a passage in another language that is so near to the question, on the scale of the threshold."""
    bias, weight = _RELEVANCE
    return 1.0 / (1.0 + math.exp(-(bias + weight * similarity)))
