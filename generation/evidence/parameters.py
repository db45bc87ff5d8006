"""Weights of the evidence stage as data: the shipped ones, or those that a calibration put in their place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

SHIPPED = "parameters.json"
CONFIDENCE_FEATURES = (
    "top", "margin", "prob", "all_cover", "beside_cover", "near_cover", "unit_cover", "identifiers_missing", "numbers_missing", "wanted_missing",
    "other_document", "rare_missing", "score", "relevance", "cross", "cell", "is_heading", "row_range_missing", "passage_cover", "length", "nid",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EvidenceParameters:
    """ranking, confidence: weight by feature. Below `refuse` a question is refused, below `verify` nothing is verified."""

    ranking: Mapping[str, float]
    confidence: Mapping[str, float]
    heard_weights: Mapping[str, float]
    """What the model's answer adds to the log-odds: `agreed`, `supported`, `refused`."""
    hopeless: float
    """Below this the model is not even asked."""
    refuse: float
    verify: float

    def confidence_of(self, signals: Mapping[str, float]) -> float:
        """Probability that the best line is a right answer."""
        total = self.confidence.get("bias", 0.0)
        total += sum(self.confidence.get(name, 0.0) * value for name, value in signals.items())
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, total))))

    def heard(self, confidence: float, *, agreed: bool, supported: bool, refused: bool) -> float:
        """The confidence once the model has been heard."""
        odds = math.log(max(confidence, 1e-9) / max(1 - confidence, 1e-9))
        weights = self.heard_weights
        odds += weights.get("bias", 0.0)
        odds += weights.get("agreed", 0.0) * agreed + weights.get("supported", 0.0) * supported
        odds += weights.get("refused", 0.0) * refused
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, odds))))


def parse_parameters(stored: Mapping[str, Any]) -> EvidenceParameters:
    """From the stored form: {"ranking": {...}, "confidence": {"bias", ...}, "refuse", "verify"}."""
    return EvidenceParameters(
        ranking={str(name): float(weight) for name, weight in stored["ranking"].items()},
        confidence={str(name): float(weight) for name, weight in stored["confidence"].items()},
        heard_weights={str(name): float(weight) for name, weight in stored["heard"].items()},
        hopeless=float(stored["hopeless"]),
        refuse=float(stored["refuse"]),
        verify=float(stored["verify"]),
    )


@lru_cache(maxsize=1)
def shipped_parameters() -> EvidenceParameters:
    """The weights that come with the product."""
    text = resources.files("generation.evidence").joinpath(SHIPPED).read_text(encoding="utf-8")
    return parse_parameters(json.loads(text))
