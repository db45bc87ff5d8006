"""Facts of a training row that is shown without passages: what an adapter can only have learnt by heart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tuning.render import answer_of, question_of, sentences, stated_numbers

_NAME = re.compile(r"[A-Z][a-z]{2,}")
_TERM = re.compile(r"[\u30a1-\u30fa\u30fc]{4,}|[\u3400-\u9fff々]{3,}")
MOST_TERMS = 3


class LearntFacts:
    """Reads rows against each other: what many rows say is style, what one says and did not ask is a fact.

    Facts without a number are names and terms: capitalised Latin words within a sentence, runs of katakana or kanji.
    """

    def __init__(self, contents: Sequence[Mapping[str, Any]]) -> None:
        self._rows_with: Counter[str] = Counter()
        for content in contents:
            self._rows_with.update(set(_terms(answer_of(content))))
        self._most_rows = max(1, len(contents) // 100)

    def of(self, content: Mapping[str, Any]) -> tuple[str, ...]:
        """Facts of a row without passages, at most three; sentences with a number come before terms."""
        numbers = stated_numbers(content)
        if numbers:
            return numbers
        asked = question_of(content).casefold()
        rare = [
            term
            for term in _terms(answer_of(content))
            if self._rows_with[term] <= self._most_rows and term.casefold() not in asked
        ]
        return tuple(rare[:MOST_TERMS])


def _terms(text: str) -> list[str]:
    """Names and terms in their order, each once."""
    found: list[str] = []
    for sentence in sentences(text):
        first = next((at for at, char in enumerate(sentence) if char.isalnum()), 0)
        found += [match.group() for match in _NAME.finditer(sentence) if match.start() > first]
        found += _TERM.findall(sentence)
    return list(dict.fromkeys(found))
