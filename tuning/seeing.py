"""What a gate can see, told before anything is trained: from the rows of a request, and from the items of a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tuning.checks import power_of_gain
from tuning.intervals import (
    PLANNED_DISCORDANT,
    PLANNED_POWER,
    chance_to_pass,
    fewest_pairs,
    gain_needed,
    gain_power,
    pairs_needed,
)
from tuning.items import EvaluationItem
from tuning.margins import Margins
from tuning.split import HELD_OUT_SHARE, MAX_HELD_OUT, MIN_HELD_OUT

PLANNED_SPREAD = {"likelihood": 0.25, "similarity": 0.12}
"""Standard deviations of single held-out rows' differences between a base and its adapter, for planning."""


def what_is_seen(items: Sequence[EvaluationItem], only_read: Collection[str], rules: Margins) -> list[str]:
    """A line for each figure. only_read: ids of items that are read and not answered."""
    answered = [item for item in items if item.id not in only_read and not item.raw]
    held_out = [item for item in items if item.source == "held_out"]
    read, written = len(held_out), sum(item.reference is not None for item in answered)
    lines = [
        _gain("likelihood", read, rules.likelihood_gain, rules),
        _gain("similarity", written, rules.similarity_gain, rules),
    ]
    grounded = sum(bool(item.expected and item.gold) for item in answered)
    for name, count, margin in (
        ("grounding, precision, citation", grounded, rules.margin),
        ("refusal", sum(item.unanswerable for item in answered), rules.margin),
        ("believing", sum(item.conflict for item in answered), rules.trap_margin),
        ("no_leak", sum(item.leak for item in answered), rules.trap_margin),
    ):
        lines.append(f"{name}: {drop_text(count, margin, rules.alpha)}")
    return lines


def drop_text(count: int, margin: float, alpha: float) -> str:
    """What `count` pairs see of a drop as large as the margin, at the planned share of pairs that differ."""
    needed, points = pairs_needed(margin, alpha), round(100 * margin)
    if count < fewest_pairs(margin, alpha):
        least = fewest_pairs(margin, alpha)
        return f"{count} items cannot show that a drop is under {points} points; {least} could, {needed} mostly do"
    seen = 1 - chance_to_pass(count, max(PLANNED_DISCORDANT, margin), -margin, margin, alpha)
    passes = chance_to_pass(count, PLANNED_DISCORDANT, 0.0, margin, alpha)
    return (
        f"a true drop of {points} points would be seen with probability {seen:.2f} at n = {count}; an equal version "
        f"passes with probability {passes:.2f}, with 0.95 at n = {needed}"
    )


def _gain(name: str, count: int, gain: float, rules: Margins) -> str:
    if count < rules.fewest_means:
        return f"{name}: {count} held-out rows decide nothing, {rules.fewest_means} are needed"
    return f"{name}: {power_of_gain(count, PLANNED_SPREAD[name], gain, rules.alpha).text}"


def small_set(rows: int, rules: Margins) -> list[dict[str, str]]:
    """[{code, detail}] where so few rows leave too few held-out ones to see a style that is better by twice the gain
    that is asked.
    """
    held_out = min(MAX_HELD_OUT, max(MIN_HELD_OUT, round(rows * HELD_OUT_SHARE)))
    told, most = [], 0
    for name, unit, gain in (
        ("house text", "nats per token likelier", rules.likelihood_gain),
        ("answers", "chrF nearer to the house's own", rules.similarity_gain),
    ):
        spread = PLANNED_SPREAD["likelihood" if name == "house text" else "similarity"]
        seen = gain_power(held_out, spread, 2 * gain, gain, rules.alpha)
        needed = gain_needed(spread, 2 * gain, gain, rules.alpha)
        if seen < PLANNED_POWER and needed is not None:
            told.append(f"{name} {2 * gain:.2f} {unit} would be seen with probability {seen:.2f}")
            most = max(most, needed)
    if not told:
        return []
    wanted = 10 * round(most / HELD_OUT_SHARE / 10)
    return [
        {
            "code": "gate_sees_little",
            "detail": f"{rows} rows leave about {held_out} to be held out. A style better by twice what is asked may "
            f"be rejected: {'; '.join(told)}; about {wanted} rows make it {PLANNED_POWER}. A style that stands out "
            "gains far more than that, and passes with fewer",
        }
    ]
