"""Whether a reward model may steer a training: it must tell held-out pairs apart better than a coin, with a bound.

A model that scores at random, or the wrong way round, teaches GRPO whatever it happens to like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

CONFIDENCE = 0.95
CHANCE = 0.5
LEAST_ACCURACY = 0.6
"""Of what is certainly above chance: large sets make certain what is hardly better than a coin."""


def lower_bound(right: int, of: int, confidence: float = CONFIDENCE) -> float:
    """The share that `right` of `of` leaves no less than, one-sided and exact (Clopper and Pearson 1934).

    Found by bisection, to 1e-9; 0 where nothing was right.
    """
    if not 0 <= right <= of:
        raise ValueError(f"{right} of {of}")
    if right == 0:
        return 0.0
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        # chance of at least as many right, where each is right with the chance `middle`
        tail = sum(comb(of, k) * middle**k * (1 - middle) ** (of - k) for k in range(right, of + 1))
        low, high = (middle, high) if tail < 1 - confidence else (low, middle)
    return low


def accuracy_of(curve: Sequence[Mapping[str, Any]], pairs: int) -> dict[str, Any]:
    """`{pairs, accuracy, accuracy_at_least}` of a finished training, from the evaluation at its end."""
    measured = [point["eval_preference_accuracy"] for point in curve if "eval_preference_accuracy" in point]
    if not measured or pairs == 0:
        return {"pairs": 0, "accuracy": None, "accuracy_at_least": 0.0}
    right = round(measured[-1] * pairs)
    return {"pairs": pairs, "accuracy": right / pairs, "accuracy_at_least": round(lower_bound(right, pairs), 4)}


def why_unproven(artefact: Mapping[str, Any]) -> str | None:
    """Why the reward model of an artefact may not be used; None where it may."""
    accuracy, bound = artefact.get("accuracy"), artefact.get("accuracy_at_least", 0.0)
    if accuracy is None:
        return "it was measured on no held-out pair"
    told = (
        f"it tells {accuracy:.0%} of {artefact['pairs']} held-out pairs apart, and at least {bound:.0%} with certainty"
    )
    if bound <= CHANCE:
        return f"{told}: no better than chance"
    return f"{told}: {LEAST_ACCURACY:.0%} are asked" if accuracy < LEAST_ACCURACY else None
