"""A stored row to the prompt that serving would build for it, and to the answer it teaches.

Passages that the row brings are joined by real ones that do not hold the answer, in an order of chance; the numbers in
the answer follow. A row without passages is asked without any, as a plain question: no retrieved text is put before an
answer that was not written from it. A row's own system message is left out: serving has one of its own.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.types import Message
from generation.citations import MARKER, find_support
from generation.prompt import PromptPassage, is_not_found, render_grounded
from tuning.spec import TrainMessage, TrainRow

_SENTENCE = re.compile(r"[^。！？!?\n]*?(?:[。！？!?]+[」』）)\"]*|\.(?=\s|$)|\n|$)")


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """A row ready to be trained on or asked. `facts` are what its answer takes from passages; `gold` their numbers."""

    row: TrainRow
    question: str
    grounded: bool
    refusal: bool
    facts: tuple[str, ...]
    gold: tuple[int, ...]
    citation_added: bool


def question_of(content: Mapping[str, Any]) -> str:
    """The last thing the user says in a row."""
    return str(next(turn["content"] for turn in reversed(content["messages"]) if turn["role"] == "user"))


def answer_of(content: Mapping[str, Any]) -> str:
    """What the row teaches to answer."""
    return str(content["messages"][-1]["content"])


def render_row(content: Mapping[str, Any], negatives: Sequence[PromptPassage], generator: random.Random) -> RenderedRow:
    """Render one canonical row; negatives are ignored for a row without passages."""
    turns = [turn for turn in content["messages"] if turn["role"] != "system"]
    history = [Message(turn["role"], turn["content"]) for turn in turns[:-2]]
    question, answer = turns[-2]["content"], turns[-1]["content"]
    own = [PromptPassage(passage["text"], passage.get("title")) for passage in content.get("passages", [])]
    shown: list[PromptPassage] = []
    gold: tuple[int, ...] = ()
    added = False
    if own:
        answer, added = _with_citation(answer, own)
        places = list(range(len(own) + len(negatives)))
        generator.shuffle(places)
        shown = [
            passage for _, passage in sorted(zip(places, [*own, *negatives], strict=True), key=lambda pair: pair[0])
        ]
        new_number = {old + 1: places[old] + 1 for old in range(len(own))}
        answer, gold = _renumber(answer, new_number)
    prompt = render_grounded(question, shown, history=history)
    refusal = is_not_found(answer)
    return RenderedRow(
        row=TrainRow(prompt=_as_turns(prompt), completion=answer, passages=tuple(passage.text for passage in shown)),
        question=question,
        grounded=bool(own),
        refusal=refusal,
        facts=() if refusal or not own else cited_claims(answer),
        gold=gold,
        citation_added=added,
    )


def ask_plainly(content: Mapping[str, Any]) -> tuple[TrainMessage, ...]:
    """The row's question without its passages: what an adapter knows by itself is then what it has memorised."""
    return _as_turns(render_grounded(question_of(content), []))


def cited_claims(answer: str) -> tuple[str, ...]:
    """The sentence, or part of one, before each run of citation marks."""
    claims = []
    start = 0
    for match in MARKER.finditer(answer):
        before = sentences(answer[start : match.start()])
        if before:
            claims.append(before[-1].rstrip("。.、, "))
        start = match.end()
    return tuple(dict.fromkeys(claim for claim in claims if claim))


def carries(text: str, claims: Sequence[str]) -> bool:
    """Whether a text verifiably holds one of the claims."""
    return any(find_support(claim, text)[2] for claim in claims)


def stated_numbers(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences of an ungrounded answer with a number that the question does not hold: facts it could leak."""
    asked = set(re.findall(r"\d+", unicodedata.normalize("NFKC", question_of(content))))
    found = []
    for sentence in sentences(answer_of(content)):
        numbers = set(re.findall(r"\d+", unicodedata.normalize("NFKC", sentence)))
        if numbers - asked:
            found.append(sentence)
    return tuple(found[:1])


def _with_citation(answer: str, passages: Sequence[PromptPassage]) -> tuple[str, bool]:
    """Cite where the row does not but could: answers that cite are the product's promise, not the author's task.

    The first sentence that a passage verifiably carries gets that passage's number; where none is, nothing is forced.
    """
    if MARKER.search(answer) or is_not_found(answer):
        return answer, False
    position = 0
    for sentence in sentences(answer):
        position = answer.index(sentence, position) + len(sentence)
        for number, passage in enumerate(passages, start=1):
            if find_support(sentence, passage.text)[2]:
                return f"{answer[:position]} [{number}]{answer[position:]}", True
    return answer, False


def _renumber(answer: str, new_number: Mapping[int, int]) -> tuple[str, tuple[int, ...]]:
    """Citation marks after the shuffle; a number that the row has no passage for is dropped."""
    gold: set[int] = set()

    def replaced(match: re.Match[str]) -> str:
        old = [int(number) for number in re.findall(r"\d+", unicodedata.normalize("NFKC", match.group(1)))]
        new = [new_number[number] for number in old if number in new_number]
        gold.update(new)
        return "".join(f"[{number}]" for number in dict.fromkeys(new))

    return MARKER.sub(replaced, answer).strip(), tuple(sorted(gold))


def sentences(text: str) -> list[str]:
    """Sentences and lines of a text, trimmed; none is empty."""
    return [match.group().strip() for match in _SENTENCE.finditer(text) if match.group().strip()]


def _as_turns(messages: Sequence[Message]) -> tuple[TrainMessage, ...]:
    return tuple(TrainMessage.model_validate({"role": turn.role, "content": turn.content}) for turn in messages)
