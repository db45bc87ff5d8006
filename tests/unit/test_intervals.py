"""Bounds of paired figures: against exact enumeration and against values that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tuning.intervals import (
    chance_to_pass,
    fewest_pairs,
    gain_needed,
    gain_power,
    mean_bounds,
    pairs_needed,
    score_bounds,
    share_bounds,
    student_quantile,
)


@pytest.mark.parametrize("count", [40, 80, 160])
@pytest.mark.parametrize("discordant", [0.1, 0.12, 0.2, 0.4])
def test_a_true_drop_of_the_margin_passes_as_seldom_as_promised(count: int, discordant: float) -> None:
    assert chance_to_pass(count, discordant, -0.1, 0.1, 0.03) <= 0.033


def test_the_chance_to_pass_is_that_of_every_outcome_by_its_bound() -> None:
    count, better, worse = 45, 0.06, 0.08
    total = 0.0
    for b in range(count + 1):
        for c in range(count - b + 1):
            ways = math.comb(count, b) * math.comb(count - b, c)
            chance = ways * better**b * worse**c * (1 - better - worse) ** (count - b - c)
            total += chance * (chance > 1e-9 and score_bounds(b, c, count, 0.03)[0] >= -0.15)
    assert chance_to_pass(count, better + worse, better - worse, 0.15, 0.03) == pytest.approx(total, abs=1e-6)


def test_pairs_that_all_agree_show_a_bound_and_not_certainty() -> None:
    low, high = score_bounds(0, 0, 16, 0.05)
    assert low == pytest.approx(-0.1446, abs=1e-4) and high == pytest.approx(0.1446, abs=1e-4)
    least = fewest_pairs(0.1, 0.05)
    assert least == 25
    assert score_bounds(0, 0, least, 0.05)[0] >= -0.1 > score_bounds(0, 0, least - 1, 0.05)[0]
    with pytest.raises(ValueError, match="no pairs"):
        score_bounds(0, 0, 0, 0.05)


def test_known_values() -> None:
    # Tango 1998, table: 44 pairs, one only under one treatment, none under the other; 95 % two-sided.
    low, high = score_bounds(0, 1, 44, 0.025)
    assert low == pytest.approx(-0.118, abs=5e-3) and high == pytest.approx(0.060, abs=5e-3)
    assert share_bounds(0, 20, 0.05)[1] == pytest.approx(0.1391, abs=1e-4)  # 1 - 0.05 ** (1 / 20)
    assert share_bounds(20, 20, 0.05)[0] == pytest.approx(0.05 ** (1 / 20), abs=1e-6)
    assert student_quantile(0.05, 7) == pytest.approx(1.8946, abs=2e-3)
    assert student_quantile(0.025, 30) == pytest.approx(2.0423, abs=1e-3)


def test_sizes_that_are_asked_for_are_enough_and_hardly_more() -> None:
    needed = pairs_needed(0.1, 0.03)
    assert 180 <= needed <= 220
    assert chance_to_pass(needed, 0.15, 0, 0.1, 0.03) >= 0.95 > chance_to_pass(needed - 5, 0.15, 0, 0.1, 0.03)
    items = gain_needed(0.12, 0.06, 0.03, 0.03)
    assert items is not None and gain_power(items, 0.12, 0.06, 0.03, 0.03) >= 0.95
    assert gain_needed(0.12, 0.03, 0.03, 0.03) is None, "what is just what is asked is seen half the time at best"


def test_a_mean_without_spread_has_no_bound() -> None:
    assert mean_bounds(np.full(12, 0.3), 0.05) is None and mean_bounds(np.array([0.3]), 0.05) is None
    bounds = mean_bounds(np.array([0.1, 0.2, 0.3, 0.4] * 4), 0.05)
    assert bounds is not None and bounds[0] < 0.25 < bounds[1]
