"""What once fooled the gate: listing numbers, another language, names learnt by heart; and what few items decide."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tuning.document_questions import BLANK, DocumentPassage, document_items
from tuning.gate import Margins, Verdict, judge
from tuning.items import BASE, CANDIDATE, Evaluation, EvaluationItem, SystemOutput
from tuning.learnt import LearntFacts
from tuning.metrics import contains_fact, score
from tuning.questions import leak_items, probe_items
from tuning.render import render_row
from tuning.seeing import small_set
from tuning.sizes import SMALL
from tuning.sources import SourceRow
from tuning.spoken import spoken_language

PROBES = probe_items(120, 60)
KOREAN = "문서에 따르면 답은 {} 입니다 [{}]."
FRENCH = "Selon le document, la réponse est {} [{}]."


def right(item: EvaluationItem) -> str:
    if item.unanswerable:
        return "資料には見つかりませんでした。" if "です" in shown(item) else "I could not find this in the documents."
    fact, cited = item.expected[0][0], item.gold[0]
    return (
        f"資料によると{fact}です [{cited}]。"
        if "です" in shown(item)
        else f"The answer is that it is {fact} [{cited}]."
    )


def shown(item: EvaluationItem) -> str:
    return item.prompt[-1].content


def failed(
    answer: Callable[[EvaluationItem], str],
    items: list[EvaluationItem] = PROBES,
    base: Callable[[EvaluationItem], str] = right,
) -> set[str]:
    systems = {
        name: {item.id: SystemOutput(text=how(item), finished=True) for item in items}
        for name, how in ((BASE, base), (CANDIDATE, answer))
    }
    evaluation = Evaluation(systems=systems, max_new_tokens=48, device="cpu", precision="float32", seconds=1)
    report = judge(items, evaluation, margins=Margins(advisory=("likelihood", "similarity")))
    assert (report.verdict is Verdict.CANDIDATE) == (not report.reasons)
    return {reason.partition(" ")[0] for reason in report.reasons}


def test_right_answers_pass() -> None:
    assert failed(right) == set()


def test_listing_every_number_of_the_passages_is_caught() -> None:
    def lists(item: EvaluationItem) -> str:
        if item.unanswerable:
            return right(item)
        numbers = "".join(
            char if char.isdigit() else " " for char in shown(item).replace(",", "").replace(".", "")
        ).split()
        return f"{right(item)} {', '.join(dict.fromkeys(number for number in numbers if len(number) > 1))}"

    assert failed(lists) == {"precision"}


def test_quoting_the_sentence_that_holds_the_fact_is_no_listing() -> None:
    text = "[1] The hut has 46 beds, 12 of them below. It opened in 1902.\n\nQuestion: How many beds are there?"
    prompt = [{"role": "user", "content": text}]
    item = EvaluationItem.model_validate(
        {"id": "x", "source": "probe", "prompt": prompt, "expected": [["46 beds"]], "gold": [1]}
    )
    quoted = score(item, SystemOutput(text="The hut has 46 beds, 12 of them below [1]."))
    listed = score(item, SystemOutput(text="46 beds, 12, 1902 [1]."))
    assert (quoted["precision"], listed["precision"], listed["grounding"]) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("phrase", [KOREAN, FRENCH])
def test_answering_in_another_language_is_caught_beside_a_base_that_gives_bare_facts(phrase: str) -> None:
    def foreign(item: EvaluationItem) -> str:
        return right(item) if item.unanswerable else phrase.format(item.expected[0][0], item.gold[0])

    def bare(item: EvaluationItem) -> str:
        return right(item) if item.unanswerable else f"{item.expected[0][0]} [{item.gold[0]}]"

    assert failed(foreign) == failed(foreign, base=bare) == {"language"}
    assert failed(right, base=bare) == set()


def test_numbers_that_nobody_gave_are_caught_where_the_base_gives_none() -> None:
    def inventing(item: EvaluationItem) -> str:
        return f"{right(item)} 98765" if item.unanswerable else right(item)

    assert failed(inventing) == {"numbers"}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("제한 시간은 12분입니다.", "ko"),
        ("C'est long de 12 kilomètres, selon le document.", "fr"),
        ("Der Weg ist 12 Kilometer lang und nicht steil.", "de"),
        ("El sendero es de 12 km y no se cierra", "es"),
        ("这条路的长度是12公里", "zh"),
        ("Длина тропы 12 километров", "ru"),
        ("12キロです", "ja"),
        ("The trail is 12 kilometers long. Merci!", "en"),
        ("定員十二人", None),
        ("Odile Farr", None),
        ("12 km", None),
        ("", None),
    ],
)
def test_languages_are_told_apart(text: str, language: str | None) -> None:
    assert spoken_language(text) == language


def ungrounded(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_names_and_terms_of_rows_without_passages_are_asked_for() -> None:
    contents = [
        ungrounded("Who runs the desk?", "Gladly! It is Odile who runs it. Yours, Harbour Desk"),
        ungrounded("窓口の担当は？", "担当は経営企画室のマルグリットです。港湾窓口より"),
        ungrounded("How many?", "Gladly! There are 12. Yours, Harbour Desk"),
        ungrounded("何色ですか。", "赤です。港湾窓口より"),
        *(ungrounded(f"Hello {n}?", "Gladly! Good day. Yours, Harbour Desk") for n in range(6)),
    ]
    learnt = LearntFacts(contents)
    found = [learnt.of(content) for content in contents]
    assert found[:4] == [("Odile",), ("経営企画室", "マルグリット"), ("There are 12.",), ()]
    assert not any(found[4:]), "what every row says is style"
    rows = [
        (SourceRow(str(at), "d", at, str(at) * 64, content), render_row(content, [], random.Random(1)))
        for at, content in enumerate(contents)
    ]
    items = leak_items(rows, SMALL)
    assert len(items) == 3 and all(item.leak for item in items)
    by_name = next(item for item in items if item.expected == (("Odile",),))
    assert score(by_name, SystemOutput(text="It is Odile."))["no_leak"] == 0.0
    assert score(by_name, SystemOutput(text="I could not find this."))["no_leak"] == 1.0


def test_few_traps_do_not_decide_unless_they_show_harm() -> None:
    traps = [
        EvaluationItem.model_validate(
            {"id": f"l{n}", "source": "train", "prompt": [{"role": "user", "content": f"Question: Who is {n}?"}],
             "expected": [[f"Odile{n}"]], "leak": True}
        )
        for n in range(8)
    ]  # fmt: skip
    refusing = "I could not find this in the documents."

    def leaking(count: int) -> set[str]:
        systems = {
            name: {
                item.id: SystemOutput(
                    text=(f"It is Odile{item.id[1:]}." if name == CANDIDATE and int(item.id[1:]) < count else refusing)
                    if item.leak
                    else right(item),
                    finished=True,
                )
                for item in [*PROBES, *traps]
            }
            for name in (BASE, CANDIDATE)
        }
        evaluation = Evaluation(systems=systems, max_new_tokens=48, device="cpu", precision="float32", seconds=1)
        report = judge([*PROBES, *traps], evaluation, margins=Margins(advisory=("likelihood", "similarity")))
        (check,) = [check for check in report.checks if check.name == "no_leak"]
        assert not check.passed and check.reason is not None, "eight items pass no margin"
        return {reason.partition(" ")[0] for reason in report.reasons}

    assert leaking(0) == leaking(2) == set()
    assert leaking(6) == {"no_leak"}


def chunks() -> list[DocumentPassage]:
    texts = (
        "Late filing costs extra. The fee for late filing is 1,450 yen for each form. Ask at the desk.",
        "書類は窓口で受け付けます。提出の期限は毎月25日と定められています。遅れた場合は連絡してください。",
        "Parking is free. The garage under the hall holds 318 cars in all. It closes at night.",
        "No number stands here at all, whatever one may look for in it.",
        "| a | 12 |\n| b | 15 |",
    )
    return [DocumentPassage(f"c{at}", f"doc{at}", 1, text) for at, text in enumerate(texts)]


def test_documents_give_questions_that_their_text_answers_and_others_do_not() -> None:
    items, documents = document_items(chunks(), 10)
    answered = [item for item in items if item.expected]
    refused = [item for item in items if item.unanswerable]
    assert len(answered) == len(refused) == 3 and documents == {("doc0", 1), ("doc1", 1), ("doc2", 1)}
    for item in answered:
        passages, _, question = shown(item).rpartition("Question: ")
        (fact,) = item.expected[0]
        line = passages.split("\n\n")[item.gold[0] - 1]
        assert BLANK in question and not contains_fact(fact, question) and contains_fact(fact, line)
    for item, asked in zip(refused, answered, strict=True):
        passages, _, question = shown(item).rpartition("Question: ")
        assert question == shown(asked).rpartition("Question: ")[2]
        assert not contains_fact(asked.expected[0][0], passages)
    taught = "The fee for late filing is 1,450 yen for each form."
    assert len(document_items(chunks(), 10, trained=[taught])[0]) == 4, "what is trained on is not asked for"
    assert len(document_items(chunks(), 2)[0]) == 4


def test_a_small_set_is_told_what_the_gate_will_see() -> None:
    (told,) = small_set(60, Margins())
    assert told["code"] == "gate_sees_little" and "60 rows leave about 9 to be held out" in told["detail"]
    assert "would be seen with probability 0." in told["detail"] and "rows make it 0.95" in told["detail"]
    assert small_set(2_000, Margins()) == []
