"""Scores of extractive answers on cases computed by hand."""

from __future__ import annotations

import pytest

from benchmarks.reading_scores import Reply, exact_match, f1, summarise
from core.types import Language

EN, JA = Language.ENGLISH, Language.JAPANESE


@pytest.mark.parametrize(
    ("language", "text", "answers", "exact", "overlap"),
    [
        (EN, "The Eiffel Tower. [1]", ["Eiffel tower"], 1, 1),
        (EN, "in 1889 [2]", ["1889", "the year 1889"], 0, 2 / 3),
        (EN, "Paris", ["London"], 0, 0),
        (JA, "「２０１２年」 [1]", ["2012年"], 1, 1),
        (JA, "東京都です [3]", ["東京都"], 0, 2 * 3 / 8),
        (JA, "資料には見つかりませんでした。", ["東京都"], 0, 0),
    ],
)
def test_match_and_overlap(language: Language, text: str, answers: list[str], exact: float, overlap: float) -> None:
    reply = Reply.of(language, text, answers, [1])
    assert exact_match(reply) == exact
    assert f1(reply) == pytest.approx(overlap)


def test_summary_counts_each_question_where_it_belongs() -> None:
    figures = summarise(
        [
            Reply.of(EN, "Paris [1]", ["Paris"], [1]),
            Reply.of(EN, "Paris [2]", ["Paris"], [1]),  # right answer, wrong citation
            Reply.of(EN, "Paris", ["Paris"], [1]),  # no citation at all
            Reply.of(EN, "I could not find this in the documents.", ["Paris"], [3]),  # wrong refusal
            Reply.of(EN, "I could not find this in the documents.", ["Paris"], []),  # right refusal
            Reply.of(EN, "London [1]", ["Paris"], []),  # should have refused
        ]
    )
    assert figures == {
        "n": 6,
        "n_without_gold": 2,
        "exact_match": 0.5,
        "f1": 0.5,
        "citation": pytest.approx(1 / 3, abs=1e-4),
        "refusal_right": 0.5,
        "refusal_wrong": 0.25,
    }
    assert summarise([])["exact_match"] is None
