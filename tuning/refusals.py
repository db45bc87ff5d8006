"""Refusals for training: the house's own sentence, and rows that need it.

A style set rarely holds questions that its passages do not answer, and an adapter that only ever sees answers unlearns
to refuse. So rows are made from the set itself until refusals have their share of the grounded rows: two in three are
asked over their own passages without the sentence that answers them, the third over another row's passages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from core.language import language_of
from generation.prompt import is_not_found, not_found_text
from tuning.render import answer_of, carries, cited_claims, question_of, sentences

_GAP = re.compile(r"[ \t]{2,}")


@dataclass(frozen=True, slots=True)
class MadeRefusal:
    """`content` is a row like those of a dataset; `of` the position of the row it was made from."""

    content: Mapping[str, Any]
    of: int


def in_house_words(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row, and if it refuses over passages, with the sentence that the service itself refuses with.

    Whether the service refuses before the model or the model does after reading is nothing that a user should see; and
    a refusal that opens like an answer moves the decision to where the model never learned to make it.
    """
    if not content.get("passages") or not is_not_found(answer_of(content)):
        return content
    return _refused(content, content["passages"])


def make_refusals(contents: Sequence[Mapping[str, Any]], share: float, generator: Random) -> list[MadeRefusal]:
    """Rows to refuse, so that refusals reach `share` of the grounded rows; fewer where not enough can be made.

    contents: all rows that are trained on, refusals among them; rows without passages are passed over.
    """
    grounded = [at for at, content in enumerate(contents) if content.get("passages")]
    answered = [at for at in grounded if not is_not_found(answer_of(contents[at]))]
    wanted = min(math.ceil((share * len(grounded) - (len(grounded) - len(answered))) / (1 - share)), len(answered))
    generator.shuffle(answered)
    made: list[MadeRefusal] = []
    for at in answered:
        if len(made) >= wanted:
            break
        content = contents[at]
        ways = [_without_answer(content), _over_others(content, [contents[other] for other in answered], generator)]
        if len(made) % 3 == 2:
            ways.reverse()
        passages = ways[0] or ways[1]
        if passages:
            made.append(MadeRefusal(_refused(content, passages), at))
    return made


def _refused(content: Mapping[str, Any], passages: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    answer = {**content["messages"][-1], "content": not_found_text(question_of(content))}
    return {**content, "messages": [*content["messages"][:-1], answer], "passages": list(passages)}


def _without_answer(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The row's passages without the sentences that carry its answer; empty where too little would be left."""
    claims = cited_claims(answer_of(content))
    if not claims:
        return []
    left: list[Mapping[str, Any]] = []
    cut = False
    for passage in content["passages"]:
        kept = passage["text"]
        for sentence in sentences(kept):
            if carries(sentence, claims):
                # Nothing but the sentence goes: a gap or a space that only refused rows have would be learnt instead.
                kept = _GAP.sub(" ", kept.replace(sentence, "", 1)).strip()
                cut = True
        if kept:
            left.append({**passage, "text": kept})
    if not cut or not left:
        return []
    return [] if any(carries(passage["text"], claims) for passage in left) else left


def _over_others(
    content: Mapping[str, Any], others: Sequence[Mapping[str, Any]], generator: Random
) -> list[Mapping[str, Any]]:
    """Passages of some other row in the same language that do not carry this row's answer."""
    claims = cited_claims(answer_of(content)) or (answer_of(content),)
    language = language_of(question_of(content))
    own = {passage["text"] for passage in content["passages"]}
    for other in generator.sample(list(others), min(8, len(others))):
        passages: list[Mapping[str, Any]] = other["passages"]
        if language_of(question_of(other)) is not language or any(passage["text"] in own for passage in passages):
            continue
        if not any(carries(passage["text"], claims) for passage in passages):
            return passages
    return []
