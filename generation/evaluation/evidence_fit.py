"""The two fits of `benchmarks.evidence`: a ranking by its right candidates, a probability by logistic regression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_RIDGE = 0.05
_STEPS = 300
_RATE = 0.05
_HARD = 120
"""Wrong candidates of a question that are learnt from: the likeliest by what of the question they cover, and others."""

Array = NDArray[np.float64]


def fit_ranking(rows: Sequence[tuple[Array, Array]], signs: Array, *, seed: int = 0) -> Array:
    """Weights (features,) under which the right candidates of each question carry the most of its softmax.

    rows: (features (candidates, features), right (candidates,)) of each question, at least one right. signs: 1 where a
    weight may not be negative, -1 where it may not be positive, else 0.
    """
    random = np.random.RandomState(seed)
    kept = [_thinned(table, right, random) for table, right in rows]
    everything = np.concatenate([table for table, _ in kept])
    spread = everything.std(0)
    scaled = [((table - everything.mean(0)) / (spread + 1e-6), right) for table, right in kept]
    weights = np.zeros(everything.shape[1])
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, _STEPS + 1):
        slope = 2 * _RIDGE * weights
        for table, right in scaled:
            belief = table @ weights
            share = np.exp(belief - belief.max())
            share /= share.sum()
            hit = share * right
            slope += table.T @ (share - hit / max(hit.sum(), 1e-12)) / len(scaled)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope * slope
        weights -= _RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        weights[weights * signs < 0] = 0.0
    return np.where(spread < 1e-9, 0.0, weights / (spread + 1e-6))


def _thinned(table: Array, right: Array, random: np.random.RandomState) -> tuple[Array, Array]:
    wrong = np.flatnonzero(right == 0)
    if len(wrong) > _HARD:
        wrong = random.choice(wrong, _HARD, replace=False)
    places = np.concatenate([np.flatnonzero(right > 0)[:10], wrong])
    return table[places], right[places]


def fit_logistic(signals: Array, truth: Array, *, ridge: float = 15.0, rounds: int = 60) -> Array:
    """(1 + signals,) bias and weights, by Newton's method with a ridge on standardised signals."""
    middle, spread = signals.mean(0), signals.std(0)
    used = spread > 1e-9
    rows = np.c_[np.ones(len(signals)), (signals[:, used] - middle[used]) / spread[used]]
    penalty = np.eye(rows.shape[1]) * ridge
    penalty[0, 0] = 0.0
    weights = np.zeros(rows.shape[1])
    for _ in range(rounds):
        told = 1 / (1 + np.exp(-np.clip(rows @ weights, -60, 60)))
        slope = rows.T @ (told - truth) + penalty @ weights
        curve = (rows * (told * (1 - told))[:, None]).T @ rows + penalty + 1e-9 * np.eye(rows.shape[1])
        weights -= np.linalg.solve(curve, slope)
    raw = np.zeros(signals.shape[1])
    raw[used] = weights[1:] / spread[used]
    return np.concatenate([[weights[0] - raw @ middle], raw])


def probabilities(signals: Array, weights: Array) -> Array:
    """What `fit_logistic` tells of some signals."""
    told: Array = 1 / (1 + np.exp(-np.clip(weights[0] + signals @ weights[1:], -60, 60)))
    return told


def calibration_error(told: Array, truth: Array, bins: int = 10) -> float:
    """Expected calibration error."""
    place = np.clip((told * bins).astype(int), 0, bins - 1)
    return float(
        sum(
            abs(told[place == at].mean() - truth[place == at].mean()) * (place == at).mean()
            for at in range(bins)
            if (place == at).any()
        )
    )
