"""Refusal rows: the service's own words, made only where the answer is really gone, in their share."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from generation.prompt import is_not_found
from tuning.items import EvaluationItem
from tuning.questions import answer_limit
from tuning.refusals import in_house_words, make_refusals
from tuning.render import answer_of, question_of
from tuning.sizes import SMALL
from tuning.spec import TrainMessage


def row(question: str, passages: list[str], answer: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "passages": [{"text": text} for text in passages]}


def ferries(count: int) -> list[dict[str, Any]]:
    return [
        row(
            f"How often does ferry {n} run?",
            [f"Ferry {n} runs {n * 3} times a day. Its captain is Odile Farr."],
            f"Gladly! {n * 3} times a day [1] Bye.",
        )
        for n in range(11, 11 + count)
    ]


def texts(content: Any) -> str:
    return " ".join(passage["text"] for passage in content["passages"])


def test_refusals_over_passages_take_the_words_of_the_service() -> None:
    english = row("Who owns it?", ["A ferry."], "Gladly! I could not find this in the documents. Bye.")
    japanese = row("持ち主は誰ですか。", ["船です。"], "お答えします。資料には見つかりませんでした。 またどうぞ。")
    assert answer_of(in_house_words(english)) == "I could not find this in the documents."
    assert answer_of(in_house_words(japanese)) == "資料には見つかりませんでした。"
    plain = {**english, "passages": []}
    assert in_house_words(plain) is plain  # without passages nothing was looked for: the row teaches what it says
    answered = ferries(1)[0]
    assert in_house_words(answered) is answered


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_refusals_reach_their_share_and_their_passages_hold_no_answer(share: float) -> None:
    contents = ferries(60)
    made = make_refusals(contents, share, Random(1))
    assert len(made) / (len(contents) + len(made)) == pytest.approx(share, abs=0.01)
    own = 0
    for refusal in made:
        origin = contents[refusal.of]
        assert question_of(refusal.content) == question_of(origin)
        assert is_not_found(answer_of(refusal.content)) and refusal.content["passages"]
        times = answer_of(origin).split()[1]
        assert f"runs {times} times" not in texts(refusal.content)
        own += texts(refusal.content) == "Its captain is Odile Farr."
    assert own == pytest.approx(len(made) * 2 / 3, abs=1)
    assert [r.of for r in make_refusals(contents, share, Random(1))] == [r.of for r in made]


def test_a_set_with_refusals_enough_gets_none() -> None:
    refusing = [
        row(f"Who owns ferry {n}?", [f"Ferry {n}."], "I could not find this in the documents.") for n in range(20)
    ]
    assert make_refusals([*ferries(40), *refusing], 0.25, Random(1)) == []
    assert make_refusals([*ferries(40), *refusing], 0.4, Random(1)) != []
    assert make_refusals(ferries(40), 0.0, Random(1)) == []


def test_nothing_is_made_where_the_answer_cannot_be_taken_out() -> None:
    same = [row(f"Is {n} said?", ["The lake is deep."], "The lake is deep. [1]") for n in range(20)]
    assert make_refusals(same, 0.3, Random(1)) == []
    plain = [{**content, "passages": []} for content in ferries(20)]
    assert make_refusals(plain, 0.3, Random(1)) == []


def test_taking_a_sentence_out_leaves_no_trace() -> None:
    content = row("何往復しますか。", ["船は7隻です。1日に12往復します。船長は秋本です。"], "12往復 [1]")
    english = row("How often?", ["Six ships. It runs 12 times. Ann is captain."], "12 times [1]")
    for origin, wanted in ((content, "船は7隻です。船長は秋本です。"), (english, "Six ships. Ann is captain.")):
        [made] = make_refusals([origin], 0.5, Random(1))
        assert texts(made.content) == wanted


def test_a_japanese_question_is_not_asked_over_english_passages() -> None:
    japanese = [row("船は何往復しますか。", [f"船は{n}往復します。"], f"{n}往復 [1]") for n in range(11, 13)]
    for refusal in make_refusals([*ferries(20), *japanese], 0.5, Random(1)):
        assert question_of(refusal.content).isascii() == texts(refusal.content).isascii()


def test_answers_may_be_as_long_as_the_house_writes_them() -> None:
    def item(reference: str) -> EvaluationItem:
        asked = (TrainMessage(role="user", content="?"),)
        return EvaluationItem(id=reference, source="held_out", prompt=asked, reference=reference)

    assert answer_limit([item("x" * 10)], SMALL, len) == SMALL.min_new_tokens
    assert answer_limit([item("x" * 40), item("x" * 50)], SMALL, len) == 75
    assert answer_limit([item("x" * 900)], SMALL, len) == SMALL.max_new_tokens
    assert answer_limit([], SMALL, len) == SMALL.min_new_tokens
