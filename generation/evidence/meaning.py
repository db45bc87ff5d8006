"""How near candidates come to a question in meaning, in whichever language: by their texts and by their tokens.

Each token of the question is looked for among the tokens of a candidate (late interaction); tokens that few candidates
have weigh more. The other way about, a label whose tokens the question has is what is asked for, and a value whose
tokens it has says nothing new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.ports import Bridge
from retrieval.asking import without_asking

MEANING_FEATURES = (
    "similar", "similar_best", "soft_cover", "soft_beside", "soft_lead", "soft_beside_lead", "soft_best",
    "label_soft", "label_soft_best", "value_soft",
)  # fmt: skip
_HAS = 0.75
"""Cosine from which a candidate has a token."""
_MOST_CHARS = 600

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Said:
    """A candidate as it is compared: as an answer, its file's name, its label ('' for none) and what it says."""

    answer: str
    file: str
    label: str
    value: str
    """What stands behind the label; '' where there is none, and the answer says it all."""


def compare(question: str, said: Sequence[Said], bridge: Bridge) -> Floats:
    """(len(said), MEANING_FEATURES), the candidates being of one language; no candidates, no rows."""
    if not said:
        return np.zeros((0, len(MEANING_FEATURES)))
    asked = without_asking(question)
    texts = [text[:_MOST_CHARS] for one in said for text in (one.answer, one.file, one.label, one.value)]
    distinct = list(dict.fromkeys([question, asked, *texts]))
    vectors, tokens = bridge.encode_with_tokens(distinct)
    place = {text: at for at, text in enumerate(distinct)}
    own = tokens[place[asked]]
    nearest = {text: own @ tokens[place[text]].T for text in dict.fromkeys(texts) if text}
    has = np.array([_found(nearest.get(text), len(own)) for text in texts[::4]])
    beside = np.maximum(has, np.array([_found(nearest.get(text), len(own)) for text in texts[1::4]]))
    weights = np.maximum(np.log((len(said) + 1) / ((has > _HAS).sum(0) + 0.5)), 0.05)
    cosines = vectors[[place[text] for text in texts[::4]]] @ vectors[place[question]]
    covered, beside_covered = has @ weights / weights.sum(), beside @ weights / weights.sum()
    labels = np.array([_of_its_own(nearest.get(text)) for text in texts[2::4]])
    return np.column_stack(
        [
            cosines,
            _is_best(cosines),
            covered,
            beside_covered,
            _lead(has),
            _lead(beside),
            _is_best(beside_covered),
            labels,
            _is_best(labels),
            [_of_its_own(nearest.get(value or answer)) for answer, value in zip(texts[::4], texts[3::4], strict=True)],
        ]
    )


def _found(near: NDArray[np.float32] | None, size: int) -> Floats:
    """For each token of the question the cosine of the nearest token of a text."""
    return np.zeros(size) if near is None or not near.shape[1] else near.max(1).astype(float)


def _of_its_own(near: NDArray[np.float32] | None) -> float:
    """How far the question has the tokens of a text."""
    return 0.0 if near is None or not near.size else float(near.max(0).mean())


def _lead(has: Floats) -> Floats:
    """How far each is ahead of the others, in standard deviations a token, at most three of them."""
    lead: Floats = np.clip((has - has.mean(0)) / (has.std(0) + 0.05), -1, 3).mean(1)
    return lead


def _is_best(values: Floats) -> Floats:
    best: Floats = (values > 0) & (values >= values.max() - 1e-9)
    return best.astype(float)
