"""Reasoning, best of several, and search queries of follow-ups, over an engine that says what it is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core.errors import Unavailable
from core.types import GenerationRequest, GenerationResult, Message
from generation.condense import rewritten_query, search_query
from generation.deliberation import Deliberation, Plan

ASKED = (Message("user", "[1] Full-time staff get 25 days.\n\nQuestion: How many days?"),)


class Said:
    def __init__(self, text: str, request: GenerationRequest) -> None:
        self.text, self.request, self.cancelled = text, request, False

    def __iter__(self):
        yield from self.text

    def cancel(self) -> None:
        self.cancelled = True

    def result(self) -> GenerationResult:
        return GenerationResult(self.text, "stop", 10, len(self.text), self.request.adapter)


class Engine:
    def __init__(self, say: Callable[[GenerationRequest], str]) -> None:
        self.say, self.handles = say, []

    def submit(self, request: GenerationRequest) -> Said:
        self.handles.append(Said(self.say(request), request))
        return self.handles[-1]


def plan(**options) -> Plan:
    return Plan(GenerationRequest(ASKED, None, 50), "How many days?", **options)


def test_reasoning_comes_first_and_is_read_by_the_answer() -> None:
    engine = Engine(
        lambda request: "Passage 1 says 25." if "step by step" in request.messages[-1].content else "25 [1]"
    )
    made = Deliberation(engine, plan(reasoning=True), lambda _: 1.0)
    assert "".join(made.thoughts()) == "Passage 1 says 25."
    assert "".join(made) == "25 [1]"
    last = engine.handles[-1].request
    assert [turn.role for turn in last.messages] == ["user", "assistant", "user"]
    assert last.messages[1].content == "Passage 1 says 25." and last.messages[0] == ASKED[0]
    assert made.result().completion_tokens == len("Passage 1 says 25.") + len("25 [1]")


@pytest.mark.parametrize(
    ("candidates", "grades", "best"),
    [
        (["30 [1]", "25 [1]", "31"], {}, "25 [1]"),  # what matching supports
        (["31", "30", "３０"], {}, "30"),  # else what most say
        (["31", "30", "32"], {"30": 5, "31": 2, "32": 1}, "30"),  # else what the model grades best
        (["I could not find this in the documents."] * 2 + ["25 [1]"], {}, "I could not find this in the documents."),
        (["I could not find this in the documents.", "25 [1]", "30"], {}, "25 [1]"),
    ],
)
def test_the_best_supported_candidate_is_given(candidates: list[str], grades: dict[str, int], best: str) -> None:
    left = list(candidates)

    def say(request: GenerationRequest) -> str:
        if request.answer_format is None:
            return left.pop(0)
        graded = request.messages[-1].content.rsplit("\n", 1)[1]
        return f'{{"grade": {grades.get(graded, 1)}}}'

    engine = Engine(say)
    made = Deliberation(engine, plan(best_of=3), lambda text: float(text == "25 [1]"))
    assert "".join(made) == best
    asked = [handle.request for handle in engine.handles if handle.request.answer_format is None]
    assert [request.temperature for request in asked] == [0.0, 0.7, 0.7] and asked[1].seed != asked[2].seed
    assert made.result().completion_tokens == sum(len(handle.text) for handle in engine.handles)


def test_cancelling_reaches_every_generation() -> None:
    engine = Engine(lambda _: "25")
    made = Deliberation(engine, plan(best_of=4), lambda _: 1.0)
    made.cancel()
    assert all(handle.cancelled for handle in engine.handles) and len(engine.handles) == 4
    assert "".join(made) == "25" and made.result().finish_reason == "cancelled"


def turns(*texts: str) -> list[Message]:
    return [Message("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("history", "question", "query"),
    [
        ([], "And in Osaka?", "And in Osaka?"),
        (
            turns("How much is the Tokyo allowance?", "8,000 yen"),
            "And in Osaka?",
            "How much is the Tokyo allowance? And in Osaka?",
        ),
        (
            turns("出張の日当はいくらですか。", "五千円"),
            "それは海外でも同じですか。",
            "出張の日当はいくらですか。 それは海外でも同じですか。",
        ),
        (
            turns("出張の日当はいくらですか。", "五千円"),
            "有給休暇の申請期限はいつまでですか。",
            "有給休暇の申請期限はいつまでですか。",
        ),
        (
            turns("Who approves travel to the Tokyo office?", "Mori", "And hotels?", "Mori"),
            "Why is that?",
            "Who approves travel to the Tokyo office? And hotels? Why is that?",
        ),
    ],
)
def test_follow_ups_are_searched_with_what_they_lean_on(history: list[Message], question: str, query: str) -> None:
    assert search_query(question, history) == query


def test_a_rewritten_query_must_be_one_question() -> None:
    history = turns("How much is the Tokyo allowance?", "8,000 yen")
    assert (
        rewritten_query("And in Osaka?", history, lambda _: "user: Osaka allowance?\nHere it is") == "Osaka allowance?"
    )
    by_rules = "How much is the Tokyo allowance? And in Osaka?"
    assert rewritten_query("And in Osaka?", history, lambda _: "x" * 5000) == by_rules
    assert rewritten_query("And in Osaka?", history, lambda _: " ") == by_rules


@pytest.mark.parametrize("room", [0, 1, 2, 4])
def test_a_full_queue_leaves_no_candidate_running(room: int) -> None:
    class Narrow(Engine):
        def submit(self, request: GenerationRequest) -> Said:
            if len(self.handles) == room:
                raise Unavailable("full", code="queue_full")
            return super().submit(request)

    # Three candidates that differ, and then as many grades of them.
    engine = Narrow(lambda request: "3" if request.answer_format else f"answer {request.seed}")
    with pytest.raises(Unavailable):
        "".join(Deliberation(engine, plan(best_of=3), lambda _: 1.0))
    assert len(engine.handles) == room and all(handle.cancelled for handle in engine.handles)
