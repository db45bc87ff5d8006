from __future__ import annotations

from retrieval.diversity import POOL, diversify

TERMS = {"a": {"leave": 1.0, "days": 1.0}, "copy": {"leave": 1.0, "days": 1.0}, "other": {"toner": 1.0}}
SCORES = {"a": 1.0, "copy": 0.95, "other": 0.6}


def test_what_says_something_else_comes_before_a_second_copy() -> None:
    def chosen(diversity: float) -> list[str]:
        return diversify(["a", "copy", "other"], SCORES, TERMS.__getitem__, 2, diversity)

    assert chosen(0.0) == ["a", "copy"]
    assert chosen(0.5) == ["a", "other"]


def test_all_come_once_whatever_the_limit_and_the_scores() -> None:
    keys = [str(n) for n in range(POOL + 20)]
    scores = dict.fromkeys(keys, 0.0)
    assert sorted(diversify(keys, scores, lambda key: {key: 1.0}, POOL + 10, 0.9)) == sorted(keys[: POOL + 10])
    assert diversify(["a"], {"a": 1.0}, lambda key: {}, 5, 1.0) == ["a"]
    assert diversify([], {}, lambda key: {}, 5, 0.5) == []
