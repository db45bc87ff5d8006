"""The bound under which no reward model is used, against the binomial it inverts."""

from __future__ import annotations

from math import comb

import pytest

from tuning.reward_accuracy import accuracy_of, lower_bound, why_unproven


@pytest.mark.parametrize(("right", "of"), [(1, 1), (8, 8), (6, 8), (7, 8), (20, 32), (150, 256), (256, 256)])
def test_at_the_bound_as_many_right_are_seen_once_in_twenty(right: int, of: int) -> None:
    bound = lower_bound(right, of)
    tail = sum(comb(of, k) * bound**k * (1 - bound) ** (of - k) for k in range(right, of + 1))
    assert tail == pytest.approx(0.05, rel=1e-4)


def test_nothing_right_proves_nothing_and_more_than_all_is_an_error() -> None:
    assert lower_bound(0, 9) == 0.0
    with pytest.raises(ValueError, match="4 of 3"):
        lower_bound(4, 3)


@pytest.mark.parametrize(
    ("right", "of", "usable"),
    [(8, 8, True), (7, 8, True), (6, 8, False), (4, 8, False), (0, 8, False), (145, 256, False), (165, 256, True)],
)
def test_a_reward_model_is_used_where_it_is_certainly_and_clearly_better_than_a_coin(
    right: int, of: int, usable: bool
) -> None:
    curve = [{"step": 1}, {"step": 2, "eval_preference_accuracy": right / of}]
    assert (why_unproven(accuracy_of(curve, of)) is None) is usable


def test_one_that_was_never_measured_is_not_used() -> None:
    assert why_unproven(accuracy_of([{"step": 1}], 9)) is not None
    assert why_unproven({"kind": "reward_model"}) is not None
