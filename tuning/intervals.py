"""Bounds for paired comparisons, and what a comparison of a given size can see. Numpy only; nothing is drawn.

A pair of binary figures is better, worse or equal; only the first two tell systems apart. Bounds are one-sided: with
`alpha` 0.05 the truth lies below a lower bound in at most about one of twenty evaluations. For binary pairs they come
from Tango's score statistic (Tango 1998), which stays honest where a Wald interval or a bootstrap shrinks to nothing:
16 pairs that all agree show a difference above -0.15, not of 0. A share alone has the exact bound of Clopper and
Pearson; means of real figures have Student's.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

_NORMAL = NormalDist()
_STEPS = 60
"""Halvings of an interval of length two: far beyond what is shown."""
PLANNED_DISCORDANT = 0.15
"""Share of pairs that differ between two versions of one style, for planning: between 0.02 and 0.15 were seen."""
PLANNED_POWER = 0.95


def normal_quantile(alpha: float) -> float:
    """Z with `alpha` above it."""
    return _NORMAL.inv_cdf(1 - alpha)


def score_statistic(better: Floats | int, worse: Floats | int, count: int, difference: float) -> Floats:
    """Tango's statistic of paired binary figures against a true difference in (-1, 1); high speaks for more than it.

    better, worse: pairs that only the candidate, or only the reference, has right; both broadcast. count: all pairs.
    """
    b, c = np.asarray(better, dtype=np.float64), np.asarray(worse, dtype=np.float64)
    first = -b - c + (2 * count - b + c) * difference
    root = np.sqrt(np.maximum(first**2 + 8 * count * c * difference * (1 - difference), 0))
    only_reference = (root - first) / (4 * count)
    variance = np.maximum(count * (2 * only_reference + difference * (1 - difference)), 1e-12)
    statistic: Floats = (b - c - count * difference) / np.sqrt(variance)
    return statistic


def score_bounds(better: int, worse: int, count: int, alpha: float) -> tuple[float, float]:
    """One-sided lower and upper score bound of the difference of two paired shares, candidate less reference."""
    if count < 1:
        raise ValueError("no pairs, no bound")
    return _lower(better, worse, count, alpha), -_lower(worse, better, count, alpha)


def _lower(better: int, worse: int, count: int, alpha: float) -> float:
    wanted = normal_quantile(alpha)
    low, high = -1.0, (better - worse) / count
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle > -1 and float(score_statistic(better, worse, count, middle)) < wanted:
            high = middle
        else:
            low = middle
    return low


def share_bounds(hits: int, count: int, alpha: float) -> tuple[float, float]:
    """One-sided exact bounds (Clopper and Pearson) of a share."""
    if count < 1:
        raise ValueError("nothing counted, no bound")
    return 1 - _upper_share(count - hits, count, alpha), _upper_share(hits, count, alpha)


def _upper_share(hits: int, count: int, alpha: float) -> float:
    if hits >= count:
        return 1.0
    low, high = hits / count, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if float(_binomial(count, middle)[: hits + 1].sum()) > alpha:
            low = middle
        else:
            high = middle
    return high


def mean_bounds(differences: Floats, alpha: float) -> tuple[float, float] | None:
    """One-sided Student bounds of a mean; None where nothing varies, for then nothing says how sure the mean is."""
    count = len(differences)
    if count < 2:
        return None
    spread = float(differences.std(ddof=1))
    if not spread > 1e-9:
        return None
    reach = student_quantile(alpha, count - 1) * spread / math.sqrt(count)
    mean = float(differences.mean())
    return mean - reach, mean + reach


def student_quantile(alpha: float, freedom: int) -> float:
    """Student's t with `alpha` above it, by the Cornish-Fisher expansion: within 0.002 from seven degrees on."""
    z = normal_quantile(alpha)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    return float(sum(term / freedom**power for power, term in enumerate(terms)))


def fewest_pairs(margin: float, alpha: float) -> int:
    """Pairs under which a margin cannot be shown even if every pair agrees."""
    return math.ceil(normal_quantile(alpha) ** 2 * (1 - margin) / margin)


@lru_cache(maxsize=4096)
def chance_to_pass(count: int, discordant: float, difference: float, margin: float, alpha: float) -> float:
    """Probability that `count` pairs show a version to be worse by less than `margin`; exact, over all outcomes.

    discordant: true share of pairs that differ; difference: true difference of shares, within -discordant..discordant.
    """
    if count < fewest_pairs(margin, alpha):
        return 0.0
    better = min(max((discordant + difference) / 2, 0.0), 1.0)
    worse = min(max((discordant - difference) / 2, 0.0), 1.0)
    # All outcomes (pairs that only one side has right) that are not too rare to matter, at once.
    b, c = np.meshgrid(_likely(count, better), _likely(count, worse), indexing="ij")
    passes = (b + c <= count) & (score_statistic(b, c, count, -margin) >= normal_quantile(alpha))
    b, c = b[passes], c[passes]
    logs = _log_factorials(count)
    rest = count - b - c
    ways = logs[count] - logs[b.astype(int)] - logs[c.astype(int)] - logs[rest.astype(int)]
    chances = np.exp(ways + _times_log(b, better) + _times_log(c, worse) + _times_log(rest, 1 - better - worse))
    return min(float(chances.sum()), 1.0)


def _likely(count: int, share: float) -> Floats:
    """Numbers of hits within nine standard deviations."""
    reach = 9 * math.sqrt(count * share * (1 - share)) + 9 if share > 0 else 0
    low, high = max(0, math.floor(count * share - reach)), min(count, math.ceil(count * share + reach))
    return np.arange(low, high + 1, dtype=np.float64)


@lru_cache(maxsize=64)
def _log_factorials(count: int) -> Floats:
    return np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, count + 1)))))


def _times_log(times: Floats, share: float) -> Floats:
    """Times * log(share), where nothing happens no times with a share of nothing."""
    return times * math.log(share) if share > 1e-12 else np.where(times > 0, -np.inf, 0.0)


@lru_cache(maxsize=256)
def pairs_needed(
    margin: float, alpha: float, discordant: float = PLANNED_DISCORDANT, power: float = PLANNED_POWER
) -> int:
    """Pairs from which an equal version passes a margin with probability `power`."""
    low = high = fewest_pairs(margin, alpha)
    while chance_to_pass(high, discordant, 0.0, margin, alpha) < power and high < 1 << 16:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        if chance_to_pass(middle, discordant, 0.0, margin, alpha) >= power:
            high = middle
        else:
            low = middle + 1
    return high


def gain_power(count: int, spread: float, truth: float, gain: float, alpha: float) -> float:
    """Probability that a true gain is shown: observed at least as `gain`, with a lower bound above 0.

    spread: standard deviation of the differences of single items.
    """
    if count < 2 or spread <= 0:
        return 0.0
    error = spread / math.sqrt(count)
    return _NORMAL.cdf((truth - max(gain, student_quantile(alpha, count - 1) * error)) / error)


def gain_needed(spread: float, truth: float, gain: float, alpha: float, power: float = PLANNED_POWER) -> int | None:
    """Items from which a true gain is shown with probability `power`; None where no number is enough."""
    if truth <= gain:
        return None
    count = 2
    while gain_power(count, spread, truth, gain, alpha) < power and count < 1 << 20:
        count += max(1, count // 50)
    return count


def mean_power(count: int, spread: float, margin: float, max_drop: float, alpha: float) -> tuple[float, float]:
    """Probabilities that a true drop of `max_drop` fails, and that an equal version passes, where a mean may have
    dropped by `max_drop` as observed and by `margin` as bound.
    """
    if count < 2 or spread <= 0:
        return 1.0, 0.0
    error = spread / math.sqrt(count)
    least = max(-max_drop, student_quantile(alpha, count - 1) * error - margin)
    return _NORMAL.cdf((least + max_drop) / error), _NORMAL.cdf(-least / error)


def mean_needed(
    spread: float, margin: float, max_drop: float, alpha: float, power: float = PLANNED_POWER
) -> int | None:
    """Items from which an equal version passes with probability `power`."""
    count = 2
    while mean_power(count, spread, margin, max_drop, alpha)[1] < power:
        count += max(1, count // 50)
        if count > 1 << 20:
            return None
    return count


def _binomial(count: int, share: float) -> Floats:
    """Probabilities of 0..count."""
    numbers = np.arange(count + 1, dtype=np.float64)
    if share <= 0 or share >= 1:
        return np.where(numbers == (0 if share <= 0 else count), 1.0, 0.0)
    logs = np.concatenate(([0.0], np.cumsum(np.log((count - numbers[:-1]) / (numbers[:-1] + 1)))))
    chances: Floats = np.exp(logs + numbers * math.log(share) + (count - numbers) * math.log1p(-share))
    return chances
