"""Figures of evaluations against values worked out elsewhere, and comparisons of two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidInput
from core.types import Citation, Passage
from generation.asking import AnswerRecord
from generation.evaluation.compare import Row, compare, exact_p
from generation.evaluation.figures import Judged, calibration, conditions, report, share, wilson
from generation.evaluation.outcome import Outcome, Status, evidence_found, outcome_of
from generation.evaluation.questions import Question, chosen, parse_questions, read_questions


def question(**given: Any) -> Question:
    return Question.model_validate({"question": "How much?", "expected": "500円", **given}).completed(1)


def record(answer: str, *, refused: bool = False, cited: str | None = None, verified: bool = True) -> AnswerRecord:
    citation = Citation(1, 0, 1, "doc_9", 1, cited or "", None, 0, 4, "quote", verified)
    return AnswerRecord(
        "ans", answer, refused, "no_passages" if refused else None, (citation,) if cited else (), {}, {}, {"total": 5.0}
    )


def judged(status: Status, *, confidence: float | None = None, verified: bool = False, **given: Any) -> Judged:
    return Judged(question(**given), Outcome(status, confidence=confidence, verified=verified))


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals(count: int, total: int, low: float, high: float) -> None:
    assert wilson(count, total) == pytest.approx((low, high), abs=5e-5)


def test_a_share_of_nothing_is_none() -> None:
    assert share(0, 0) == {"count": 0, "of": 0, "share": None, "low": None, "high": None}


@pytest.mark.parametrize(
    ("before", "now", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (1, 9, 0.021484375), (9, 1, 0.021484375)]
)
def test_exact_p(before: int, now: int, p: float) -> None:
    assert exact_p(before, now) == pytest.approx(p)


def test_exact_p_of_a_large_run_is_a_number() -> None:
    assert 0 < exact_p(4_900, 5_100) < 0.06


def test_what_is_right_wrong_and_refused() -> None:
    assert outcome_of(question(), record("500円です")).status is Status.RIGHT
    assert outcome_of(question(), record("600円です")).status is Status.WRONG
    assert outcome_of(question(), record("", refused=True)).status is Status.REFUSED
    assert outcome_of(question(), record(" ")).status is Status.REFUSED
    in_words = outcome_of(question(), record("資料に記載がありません"))
    assert in_words.status is Status.REFUSED and in_words.refused_in_words
    off = Question(question="雨？", unanswerable=True)
    assert outcome_of(off, record("", refused=True)).status is Status.RIGHT
    assert outcome_of(off, record("資料に記載がありません")).status is Status.RIGHT
    assert outcome_of(off, record("降ります")).status is Status.WRONG


def test_a_yes_no_question_is_not_answered_by_a_refusal_that_holds_the_word() -> None:
    asked = question(question="返品できる？", expected=[["ありません", "いいえ"]], kind="yes_no")
    assert outcome_of(asked, record("資料に記載はありません")).status is Status.REFUSED
    assert outcome_of(asked, record("いいえ、資料に記載はありません")).status is Status.RIGHT


def test_documents_alone_are_judged_by_the_citations() -> None:
    asked = Question.model_validate({"question": "Which?", "document": "料金表.xlsx"})
    assert outcome_of(asked, record("x", cited="料金表.xlsx")).status is Status.RIGHT
    assert outcome_of(asked, record("x", cited="料金表.xlsx".replace("表", "表2"))).status is Status.WRONG
    assert outcome_of(Question.model_validate({"question": "?", "documents": ["doc_9"]}), record("x", cited="y")).cited


def test_evidence_is_looked_for_in_the_right_document() -> None:
    passage = Passage("c", "doc_1", 1, "a.md", None, None, 0, 9, "料金は５００円", 1.0, 1.0)
    assert evidence_found(question(), [passage]) is True
    assert evidence_found(question(documents=["b.md"]), [passage]) is False
    assert evidence_found(question(expected="700円", evidence="料金 … 500円"), [passage]) is True
    assert evidence_found(question(expected="700円"), []) is False


def test_a_report_counts_what_it_says() -> None:
    ones = [
        judged(Status.RIGHT, verified=True, kind="a"),
        judged(Status.WRONG, verified=True, kind="a", document_language="en"),
        judged(Status.REFUSED, kind="b"),
        judged(Status.FAILED),
        judged(Status.RIGHT, expected=None, unanswerable=True),
        judged(Status.WRONG, expected=None, unanswerable=True),
    ]
    told = report(ones)
    parts = {
        name: (value["count"], value["of"]) for name, value in told.items() if isinstance(value, dict) and "of" in value
    }
    assert parts == {
        "right": (1, 4), "wrong": (2, 6), "refused": (2, 6), "refused_wrongly": (1, 4), "refused_rightly": (1, 2),
        "verified_wrong": (1, 6), "verified_right": (1, 1), "cited": (0, 0), "evidence_found": (0, 0),
    }  # fmt: skip
    assert told["failed"] == 1 and told["calibration"] is None
    assert set(told["by_kind"]) == {"a", "b"} and set(told["by_languages"]) == {"en in en"}


def test_calibration() -> None:
    sure = [judged(Status.RIGHT if number < 9 else Status.WRONG, confidence=0.9) for number in range(10)]
    assert calibration(sure) == {
        "answers": 10, "ece": 0.0, "brier": 0.09,
        "bins": [{"from": 0.9, "to": 1.0, "confidence": 0.9, "right": share(9, 10)}],
    }  # fmt: skip
    unsure = [judged(Status.WRONG, confidence=0.8), judged(Status.RIGHT, confidence=0.2)]
    told = calibration(unsure)
    assert told is not None and told["ece"] == 0.8
    assert (
        calibration([judged(Status.REFUSED, confidence=0.1)]) is None
    )  # whether it would have been right is not known
    assert calibration([judged(Status.RIGHT, confidence=1.0)]) is not None


def test_conditions_show_what_changed_during_a_run() -> None:
    ones = [
        Judged(question(), Outcome(Status.RIGHT, provenance={"adapter": name, "index_version": "i"})) for name in "ab"
    ]
    assert conditions(ones, {"settings": "s"}) == {"adapter": ["a", "b"], "index_version": "i", "settings": "s"}


def rows(statuses: str) -> list[Row]:
    names = {"r": "right", "w": "wrong", "v": "wrong", "f": "failed", "-": "refused"}
    return [Row(str(at), "q", str(at), names[one], one == "v") for at, one in enumerate(statuses)]


def test_a_comparison_pairs_by_question() -> None:
    told = compare(rows("rrwwv-f"), [*rows("rwrwrvr"), Row("new", "q", "new", "right", False)])
    assert (told["paired"], told["unpaired"]) == (6, 2)  # what failed on one side says nothing
    assert (told["gained"], told["lost"], told["right_before"], told["right_now"]) == (2, 1, 2, 3)
    assert told["p"] == 1.0 and told["verified_wrong"] == {"more": 1, "fewer": 1, "p": 1.0}
    assert [one["id"] for one in told["changed"]] == ["1", "2", "4", "5"]


def test_questions_in_every_form(tmp_path: Path) -> None:
    lines = [
        {"question": "a", "answer": "1"},
        {"question": "b", "expected": ["1", "one"], "document": "x.md", "hard": True},
        {"id": "c", "question": "ウ", "answer_all": [["1"], ["2"]], "answer_not": ["3"], "document": None},
        {"question": "d", "answerable": False, "expected": ["never"]},
        {"question": "e", "unanswerable": True, "answer_all": []},
    ]
    file = tmp_path / "q.jsonl"
    file.write_text("\ufeff" + "\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    found, unknown = read_questions(file)
    assert unknown == ["hard"]
    assert [one.get("expected") for one in found] == [[["1"]], [["1", "one"]], [["1"], ["2"]], None, None]
    assert [one["id"] for one in found] == ["q1", "q2", "c", "q4", "q5"]
    assert found[2]["language"] == "ja" and found[3]["unanswerable"] is True
    again = parse_questions(found)
    assert [one.model_dump(exclude_defaults=True) for one in again] == found


@pytest.mark.parametrize("text", ["{", "[1]", '{"question": "a"}', '{"question": "a", "answer": "、 "}\n{}', ""])
def test_files_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput):
        read_questions(file)


def test_the_same_question_has_the_same_digest_under_another_id() -> None:
    assert question(id="1", kind="a").digest == question(id="2").digest != question(not_expected=["600円"]).digest


def test_a_limit_is_spread_over_the_set() -> None:
    many = parse_questions([{"question": f"{n}", "answer": "1", "kind": "ab"[n % 2]} for n in range(10)])
    assert [one.question for one in chosen(many, limit=3)] == ["0", "3", "6"]
    assert [one.question for one in chosen(many, kinds=["b"], limit=2)] == ["1", "5"]
    assert len(chosen(many, limit=99)) == 10
