from __future__ import annotations

from core.types import Language
from retrieval.choose_fusion import MIN_QUESTIONS, Judged, choose_fusion, score_fusion
from retrieval.fusion import Fusion, FusionMethod
from retrieval.search import Arms, Candidates

DOCUMENTS = {f"c{n}": (f"d{n}", f"{n}.txt") for n in range(10)}


def judged(similar: dict[str, float] | None, bm25: dict[str, float], gold: str) -> Judged:
    arms = Arms(similar, bm25, similar or {}, 1.0, Fusion())
    return Judged(Candidates(Language.ENGLISH, arms, DOCUMENTS), frozenset({gold}))


NOISE = {f"c{n}": 0.9 for n in range(1, 8)}
"""An arm that puts seven wrong passages first."""


def test_an_arm_that_only_disturbs_is_left_out() -> None:
    asked = [judged(NOISE | {"c0": 0.1}, {"c0": 5.0, "c1": 4.9}, "0.txt")] * MIN_QUESTIONS
    fusion, figures = choose_fusion(asked)
    assert fusion is not None and score_fusion(asked, fusion).recall == 1.0
    assert figures["recall_at_5_dense"] == 0.0 and figures["recall_at_5"] == figures["recall_at_5_sparse"] == 1.0
    assert score_fusion(asked, Fusion()).recall == figures["recall_at_5_default"] == 0.0


def test_the_choice_is_never_worse_than_the_better_arm() -> None:
    lexical = judged(NOISE | {"c0": 0.1}, {"c0": 5.0}, "d0")
    dense = judged({"c0": 0.9, "c1": 0.1}, {f"c{n}": 5.0 + n for n in range(1, 8)}, "d0")
    for share in range(0, MIN_QUESTIONS + 1, 4):
        asked = [lexical] * share + [dense] * (MIN_QUESTIONS - share)
        fusion, figures = choose_fusion(asked)
        assert fusion is not None
        better = max(figures["recall_at_5_dense"], figures["recall_at_5_sparse"])
        assert score_fusion(asked, fusion).recall >= better - 0.005


def test_the_default_stays_where_nothing_is_gained_or_little_is_known() -> None:
    good = judged({"c0": 0.9, "c1": 0.1}, {"c0": 5.0}, "d0")
    assert choose_fusion([good] * MIN_QUESTIONS)[0] == Fusion()
    assert choose_fusion([good] * (MIN_QUESTIONS - 1))[0] is None


def test_a_dead_arm_is_known_question_by_question() -> None:
    asked = [judged(None, {"c0": 5.0, "c1": 1.0}, "d0")] * 10 + [judged({"c0": 0.5, "c1": 0.1}, {}, "d0")] * 10
    for method in FusionMethod:
        assert score_fusion(asked, Fusion(method)).recall == 1.0


def test_passages_of_one_document_count_once_and_hidden_ones_not_at_all() -> None:
    arms = Arms(None, {"hidden": 9.0, "a": 8.0, "b": 7.0, "c": 6.0}, {}, 1.0, Fusion())
    documents = {"a": ("d1", "x"), "b": ("d1", "x"), "c": ("d2", "y")}
    assert Judged(Candidates(Language.JAPANESE, arms, documents), frozenset({"d2"})).rank(Fusion()) == 2
    assert Judged(Candidates(Language.JAPANESE, arms, documents), frozenset({"z"})).rank(Fusion()) is None
