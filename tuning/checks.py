"""Single comparisons of the gate: pairs of figures, the bound of their difference, and what it could have seen.

Binary figures are bounded by Tango's score interval, real ones by Student's. An interval that is empty shows nothing
and passes no margin; so do fewer pairs than a margin needs even if all of them agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from tuning.intervals import (
    PLANNED_DISCORDANT,
    Floats,
    chance_to_pass,
    fewest_pairs,
    gain_needed,
    gain_power,
    mean_bounds,
    mean_needed,
    mean_power,
    pairs_needed,
    score_bounds,
    share_bounds,
)
from tuning.margins import Margins

_PLAN_WEIGHT = 20
"""Pairs that the planned share of differing pairs counts as, beside those seen."""

EMPTY_INTERVAL = "every pair differs by the same: the interval is empty and shows nothing"

Scores = Mapping[str, Mapping[str, float]]
"""{item id: {figure: value}}"""


class CheckKind(StrEnum):
    """What a check asks of the difference, candidate less reference."""

    SUPERIORITY = "superiority"
    NON_INFERIORITY = "non_inferiority"


@dataclass(frozen=True, slots=True)
class Power:
    """What a check of this size sees. All are probabilities but `change`, `needed` and `text`."""

    change: float
    """The drop, or the gain, that is asked about."""
    seen: float
    """That a true drop of it is seen, or a true gain of twice the asked one is accepted."""
    equal_passes: float | None
    """That a version which is no worse passes this check; None where a gain is asked."""
    needed: int | None
    """Pairs from which that is 0.95; None where no number is enough."""
    text: str

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison. Figures are None where they are undefined, and then the check has failed."""

    name: str
    kind: CheckKind
    against: str
    candidate: float | None
    reference: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    margin: float
    n: int
    skipped: int
    passed: bool
    reason: str | None
    advisory: bool = False
    """Shown, and not part of the verdict."""
    method: str = ""
    """score (paired shares, Tango), exact (a share, Clopper and Pearson), student (means)."""
    power: Power | None = None


@dataclass(frozen=True, slots=True)
class Pairs:
    """Figures of the same items, same order; `skipped` items have it on one side only."""

    candidate: Floats
    reference: Floats
    skipped: int = 0

    @property
    def count(self) -> int:
        """Pairs."""
        return len(self.candidate)


def pairs_of(candidate: Scores, reference: Scores, name: str) -> Pairs:
    """Items that have the figure, and a finite one, on both sides; the others that have it on one are skips."""
    wanted = sorted(
        key
        for key in candidate.keys() | reference.keys()
        if name in candidate.get(key, {}) or name in reference.get(key, {})
    )
    both = [
        (candidate[key][name], reference[key][name])
        for key in wanted
        if name in candidate.get(key, {}) and name in reference.get(key, {})
    ]
    kept = [pair for pair in both if np.isfinite(pair).all()]
    values = np.array(kept, dtype=np.float64).reshape(len(kept), 2)
    return Pairs(values[:, 0], values[:, 1], len(wanted) - len(kept))


def gained(name: str, against: str, pairs: Pairs, gain: float, rules: Margins) -> Check:
    """A mean must be better by `gain`, and certainly better at all."""
    check = _empty(name, CheckKind.SUPERIORITY, against, pairs, gain, "student")
    few = _too_few(pairs, rules.fewest_means, rules)
    if few is not None:
        return replace(check, reason=few)
    differences = pairs.candidate - pairs.reference
    difference, bounds = float(differences.mean()), mean_bounds(differences, rules.alpha)
    reason = None
    if difference < gain:
        reason = f"better by {difference:+.3f}, at least {gain:+.3f} is asked"
    elif bounds is None:
        reason = _unvaried(difference, pairs.count, rules.alpha)
    elif bounds[0] <= 0:
        reason = f"the improvement of {difference:+.3f} is not certain (bound {bounds[0]:+.3f})"
    power = power_of_gain(pairs.count, float(differences.std(ddof=1)), gain, rules.alpha) if bounds else None
    return replace(_filled(check, pairs, bounds, reason), power=power)


def mean_kept(
    name: str, against: str, pairs: Pairs, margin: float, max_drop: float, rules: Margins, *, fewest: int | None = None
) -> Check:
    """A mean must have dropped by `max_drop` at most, and certainly by less than `margin`."""
    check = _empty(name, CheckKind.NON_INFERIORITY, against, pairs, margin, "student")
    few = _too_few(pairs, rules.fewest_means if fewest is None else fewest, rules)
    if few is not None:
        return replace(check, reason=few)
    differences = pairs.candidate - pairs.reference
    difference, bounds = float(differences.mean()), mean_bounds(differences, rules.alpha)
    if bounds is None:
        return _filled(check, pairs, None, _unvaried(difference, pairs.count, rules.alpha))
    power = power_of_mean(pairs.count, float(differences.std(ddof=1)), margin, max_drop, rules.alpha)
    return replace(_filled(check, pairs, bounds, _worse(difference, bounds[0], margin, max_drop)), power=power)


def _unvaried(difference: float, count: int, alpha: float) -> str | None:
    """Pairs that all differ by the same leave an empty interval, which shows nothing. If they are all better, the exact
    sign test shows that much.
    """
    return None if difference > 0 and 0.5**count <= alpha else EMPTY_INTERVAL


def share_kept(
    name: str, against: str, pairs: Pairs, margin: float, rules: Margins, *, max_drop: float | None = None
) -> Check:
    """A share of right answers must certainly have dropped by less than `margin`; figures are 0 or 1."""
    check = _empty(name, CheckKind.NON_INFERIORITY, against, pairs, margin, "score")
    reason = _too_few(pairs, fewest_pairs(margin, rules.alpha), rules, margin)
    if pairs.count == 0:
        return replace(check, reason=reason, power=power_of_drop(0, 0, 0, 0.0, margin, rules.alpha))
    better, worse = _discordant(pairs)
    bounds = score_bounds(better, worse, pairs.count, rules.alpha)
    difference = (better - worse) / pairs.count
    if reason is None:
        reason = _worse(difference, bounds[0], margin, margin if max_drop is None else max_drop)
    power = power_of_drop(pairs.count, better, worse, float(pairs.reference.mean()), margin, rules.alpha)
    return replace(_filled(check, pairs, bounds, reason), power=power)


def harm_is_shown(pairs: Pairs, rules: Margins) -> bool:
    """Exact test of McNemar, one-sided: whether even these few pairs show that the candidate is worse."""
    better, worse = _discordant(pairs)
    # Under no difference each differing pair falls to either side with one half: the bound of the worse share is exact.
    return bool(worse) and share_bounds(worse, better + worse, rules.alpha)[0] > 0.5


def answers_kept(against: str, pairs: Pairs, rules: Margins) -> Check:
    """Of what the reference answered right, the share still right, with its exact bound.

    pairs: 1 where an answer is right in every respect.
    """
    before = pairs.reference == 1
    count, lost = int(before.sum()), int((before & (pairs.candidate < 1)).sum())
    check = _empty("kept", CheckKind.NON_INFERIORITY, against, pairs, rules.max_lost, "exact")
    check = replace(check, n=count)
    if count < rules.fewest_kept:
        few = f"does not decide: {against} answered only {count} right, and fewer than {rules.fewest_kept} show nothing"
        return replace(check, reason=few, advisory=True)
    low, high = share_bounds(count - lost, count, rules.alpha)
    said = f"{lost} of {count} answers that were right became wrong, {lost / count:.1%}; it may be {1 - low:.1%}"
    reason = None if 1 - low <= rules.max_lost else f"{said}, at most {rules.max_lost:.0%} is borne"
    return replace(
        check, candidate=round(1 - lost / count, 4), reference=1.0, difference=round(-lost / count, 4),
        ci_low=round(low - 1, 4), ci_high=round(high - 1, 4), passed=reason is None, reason=reason,
        power=Power(rules.max_lost, round(1 - rules.alpha, 3), None, None, said),
    )  # fmt: skip


def power_of_drop(count: int, better: int, worse: int, reference: float, margin: float, alpha: float) -> Power:
    """What a paired share of this size sees. reference: share that the reference has right."""
    discordant = round((better + worse + _PLAN_WEIGHT * PLANNED_DISCORDANT) / (count + _PLAN_WEIGHT), 2)
    passes = chance_to_pass(count, discordant, 0.0, margin, alpha)
    needed = pairs_needed(margin, alpha, max(discordant, 0.01))
    points = round(100 * margin)
    equal = f"an equal version passes with probability {passes:.2f}, with 0.95 at n = {needed}"
    if count and reference < margin:
        text = f"the reference is right in {reference:.0%}: a drop of {points} points cannot be at n = {count}; {equal}"
        return Power(margin, 0.0, round(passes, 3), needed, text)
    seen = 1 - chance_to_pass(count, max(discordant, margin), -margin, margin, alpha)
    text = f"a true drop of {points} points would be seen with probability {seen:.2f} at n = {count}; {equal}"
    return Power(margin, round(seen, 3), round(passes, 3), needed, text)


def power_of_gain(count: int, spread: float, gain: float, alpha: float) -> Power:
    """What a mean of this size sees of a true gain of twice the asked one."""
    seen = gain_power(count, spread, 2 * gain, gain, alpha)
    needed = gain_needed(spread, 2 * gain, gain, alpha)
    text = f"a true gain of {2 * gain:.2f}, twice what is asked, would pass with probability {seen:.2f} at n = {count}"
    if needed is not None:
        text += f", with 0.95 at n = {needed}"
    return Power(gain, round(seen, 3), None, needed, text)


def power_of_mean(count: int, spread: float, margin: float, max_drop: float, alpha: float) -> Power:
    """What a mean of this size sees of a drop as large as is borne."""
    seen, passes = mean_power(count, spread, margin, max_drop, alpha)
    needed = mean_needed(spread, margin, max_drop, alpha)
    text = (
        f"a true drop of {max_drop:.2f} would be seen with probability {seen:.2f} at n = {count}; an equal version "
        f"passes with probability {passes:.2f}" + ("" if needed is None else f", with 0.95 at n = {needed}")
    )
    return Power(max_drop, round(seen, 3), round(passes, 3), needed, text)


def _discordant(pairs: Pairs) -> tuple[int, int]:
    better = int((pairs.candidate > pairs.reference).sum())
    return better, int((pairs.candidate < pairs.reference).sum())


def _too_few(pairs: Pairs, fewest: int, rules: Margins, margin: float | None = None) -> str | None:
    """Why a comparison cannot be made at all."""
    count, skipped = pairs.count, pairs.skipped
    if count < fewest:
        why = "" if margin is None else f" for a margin of {margin:g} even if all of them agree"
        return f"only {count} pairs, at least {fewest} are needed{why} ({skipped} skipped)"
    if count < rules.min_coverage * (count + skipped):
        return f"{skipped} of {count + skipped} items have no figure on one side"
    return None


def _worse(difference: float, low: float, margin: float, max_drop: float) -> str | None:
    if difference < -max_drop:
        return f"worse by {-difference:.3f}, at most {max_drop:.3f} is borne"
    if low < -margin:
        return f"may be worse by {-low:.3f}, at most {margin:.3f} is borne"
    return None


def _empty(name: str, kind: CheckKind, against: str, pairs: Pairs, margin: float, method: str) -> Check:
    return Check(
        name, kind, against, None, None, None, None, None, margin, pairs.count, pairs.skipped,
        passed=False, reason=None, method=method,
    )  # fmt: skip


def _filled(check: Check, pairs: Pairs, bounds: tuple[float, float] | None, reason: str | None) -> Check:
    low, high = (None, None) if bounds is None else (round(bounds[0], 4), round(bounds[1], 4))
    return replace(
        check, candidate=round(float(pairs.candidate.mean()), 4), reference=round(float(pairs.reference.mean()), 4),
        difference=round(float((pairs.candidate - pairs.reference).mean()), 4), ci_low=low, ci_high=high,
        passed=reason is None, reason=reason,
    )  # fmt: skip
