"""Weights of the evidence stage as data: the shipped ones, or others in the same form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

SHIPPED = "parameters.json"
CONFIDENCE_FEATURES = (
    "top", "margin", "prob", "all_cover", "beside_cover", "near_cover", "text_cover", "identifiers_missing",
    "numbers_missing", "wanted_missing", "other_document", "rare_missing", "score", "relevance", "foreign",
    "similar", "cell", "cell_named", "cell_header", "range_missed", "passage_cover", "length", "asks_identifier",
    "edition_differs", "edition_older", "heading_cover", "many_values",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Weights:
    """Of candidates in the question's own language, or of those in others: weight by feature."""

    ranking: Mapping[str, float]
    confidence: Mapping[str, float]

    def confidence_of(self, signals: Mapping[str, float]) -> float:
        """Probability that the best line is a right answer."""
        return _logistic(_weighed(self.confidence, signals))


@dataclass(frozen=True, slots=True)
class EvidenceParameters:
    """own, foreign, uncompared: see `Weights`; the last where nothing compares meanings.

    read: over running text, how sure the model is, from the log-odds of the line and whether it bears the words out.
    Below `refuse` a question is refused, below `verify` nothing is verified.
    """

    own: Weights
    foreign: Weights
    uncompared: Weights
    read: Mapping[str, float]
    refuse: float
    verify: float

    def to_json(self) -> dict[str, Any]:
        """The stored form, as `parse_parameters` reads it."""
        return asdict(self)

    def after_reading(self, confidence: float, *, agreed: bool, near: bool, refused: bool) -> float:
        """Probability that what is said over running text is right: the model's words, their quotes found there.

        agreed: they stand in the best line. near: in one of the best few. refused: the model found nothing, so that the
        line would be given.
        """
        odds = math.log(max(confidence, 1e-4) / max(1 - confidence, 1e-4))
        return _logistic(_weighed(self.read, {"odds": odds, "agreed": agreed, "near": near, "refused": refused}))


def parse_parameters(stored: Mapping[str, Any]) -> EvidenceParameters:
    """From the stored form: the members of `EvidenceParameters`, each side as {"ranking", "confidence"}."""
    own, foreign, uncompared = (
        Weights(_floats(stored[side]["ranking"]), _floats(stored[side]["confidence"]))
        for side in ("own", "foreign", "uncompared")
    )
    return EvidenceParameters(
        own=own,
        foreign=foreign,
        uncompared=uncompared,
        read=_floats(stored["read"]) if "read" in stored else shipped_parameters().read,
        refuse=float(stored["refuse"]),
        verify=float(stored["verify"]),
    )


@lru_cache(maxsize=1)
def shipped_parameters() -> EvidenceParameters:
    """The weights that come with the product."""
    text = resources.files("generation.evidence").joinpath(SHIPPED).read_text(encoding="utf-8")
    return parse_parameters(json.loads(text))


def _floats(weights: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(weight) for name, weight in weights.items()}


def _weighed(weights: Mapping[str, float], values: Mapping[str, float]) -> float:
    return weights.get("bias", 0.0) + sum(weights.get(name, 0.0) * value for name, value in values.items())


def _logistic(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, value))))
