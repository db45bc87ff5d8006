"""How much worse a canary may be, beyond what was observed: what a promotion by rule rests on."""

from __future__ import annotations

import math
from statistics import NormalDist

PROMOTION_ALPHA = 0.05
"""Chance, for each figure, to promote a canary worse by the margin: the bound is read once, at the full sample."""
_Z = NormalDist().inv_cdf(1 - PROMOTION_ALPHA)


def wilson(events: int, count: int) -> tuple[float, float]:
    """One-sided Wilson score bounds of a share."""
    share, square = events / count, _Z * _Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    reach = _Z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def worse_by_at_most(canary_events: int, canary: int, champion_events: int, champion: int) -> float | None:
    """Upper bound of the difference of two shares, canary less champion (Newcombe 1998, method 10)."""
    if not canary or not champion:
        return None
    ours, theirs = canary_events / canary, champion_events / champion
    reach = math.hypot(wilson(canary_events, canary)[1] - ours, theirs - wilson(champion_events, champion)[0])
    return ours - theirs + reach


def fewest_conversations(margin: float) -> int | None:
    """Conversations of a canary under which even one without any event is not shown to be within a margin."""
    return math.ceil(_Z * _Z * (1 - margin) / margin) if margin > 0 else None
