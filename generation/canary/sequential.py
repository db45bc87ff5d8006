"""The test behind an automatic rollback: may be looked at after every conversation, and still errs as promised.

Which arm a conversation falls in is drawn by hash with a known share, whatever happens in it. So if the canary behaves
like the champion, the arm tells nothing about the outcome: P(canary | event) is the share. Against that stands a
mixture over what a worse canary would do: by Bayes, with event rates q0 of the champion and q1 > q0 of the canary,

    P(canary | event) = s q1 / (s q1 + (1 - s) q0),    P(canary | calm) = s (1 - q1) / (s (1 - q1) + (1 - s) (1 - q0))

The product of the ratios over conversations is a martingale where the rates are equal and falls where the canary is
better, and so is its average over pairs (q0, q1) fixed beforehand. By Ville's inequality the chance that it *ever*
reaches 1 / alpha is at most alpha: no look is one too many (mixture SPRT; Robbins 1970, Johari et al. 2022). Rates may
drift over the day: both arms drift with them. Several figures are averaged with weights, which keeps the guarantee
whatever the figures have to do with each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHAMPION_RATES = np.array([0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.8])
_ODDS_RATIOS = np.array([1.5, 2.0, 3.0, 5.0, 10.0, 40.0])
"""How much worse a worse canary may be. Little ones need many conversations, large ones are seen in a few."""

LARGEST = 700.0
"""Log evidence is cut here: e^700 is near the largest float, and far beyond any decision."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Conversations by arm, and those of them with the event. `events <= conversations` in both."""

    canary: int
    champion: int
    canary_events: int
    champion_events: int


def log_evidence(counts: Counts, share: float) -> float:
    """Natural log of the evidence that the canary has the event more often; 0 where nothing was seen.

    share: chance of a conversation to fall to the canary, in (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError("a canary's share lies between 0 and 1")
    q0 = _CHAMPION_RATES[:, None]
    odds = q0 / (1 - q0) * _ODDS_RATIOS[None, :]
    q1 = odds / (1 + odds)
    event = share * q1 / (share * q1 + (1 - share) * q0)
    calm = share * (1 - q1) / (share * (1 - q1) + (1 - share) * (1 - q0))
    logs = (
        counts.canary_events * np.log(event / share)
        + counts.champion_events * np.log((1 - event) / (1 - share))
        + (counts.canary - counts.canary_events) * np.log(calm / share)
        + (counts.champion - counts.champion_events) * np.log((1 - calm) / (1 - share))
    )
    return _log_mean(logs.ravel(), np.full(logs.size, 1 / logs.size))


def combined(evidence: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Log of the weighted mean of several evidences; weights are brought to a sum of 1."""
    names = [name for name in evidence if weights.get(name, 0) > 0]
    if not names:
        return 0.0
    shares = np.array([weights[name] for name in names], dtype=np.float64)
    return _log_mean(np.array([evidence[name] for name in names]), shares / shares.sum())


def _log_mean(logs: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    top = float(logs.max())
    return float(np.clip(top + np.log(np.sum(weights * np.exp(logs - top))), -LARGEST, LARGEST))
