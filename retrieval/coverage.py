"""How much of a query a passage holds, weighing terms by their kind alone.

A document frequency would be a better weight in a large collection and a useless one among ten documents, where half of
all words occur once. Kind works in both: a Han or katakana bigram names a thing, a hiragana one is grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.text_folding import fold
from retrieval.dictionary import Expansion, held_by_other_names
from retrieval.kinds import TermKind, kind_of
from retrieval.lexical import han_characters, query_terms, tokenize

_CONTENT_WEIGHT = {TermKind.WORD: 1.0, TermKind.BIGRAM: 1.0, TermKind.KATAKANA: 1.0, TermKind.MIXED: 0.4}
"""A bigram of one Han and one hiragana is half a word ending."""
_BY_CHARACTER = 0.5
"""Credit of a term whose Han characters are all there, though not side by side: 有休 in 有給休暇."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares in [0, 1] of the query's terms that the passage holds; a share of nothing is 0.

    Grammar (function words, hiragana bigrams) is left out: weighed as a third feature it changed no refusal figure.
    """

    content: float
    """Words, identifiers, numbers, Han and katakana bigrams."""
    characters: float
    """Single Han characters, which forgive other word forms; the same as `content` for a query without any."""


def coverage(query: str, passage: str, expansions: Sequence[Expansion] = ()) -> Coverage:
    """Coverage of `query` by `passage`; a word counts as held under each of its other names in `expansions`."""
    held = frozenset(tokenize(passage))
    if expansions:
        held |= held_by_other_names(expansions, fold(passage))
    return coverage_of(frozenset(query_terms(query)), held)


def coverage_of(wanted: frozenset[str], held: frozenset[str]) -> Coverage:
    """Coverage of a query's terms by those of a passage."""
    content, characters = _Share(), _Share()
    for term in wanted:
        kind = kind_of(term)
        if kind in _CONTENT_WEIGHT:
            content.add(_CONTENT_WEIGHT[kind], _credit(term, held))
        elif kind is TermKind.CHARACTER:
            characters.add(1.0, float(term in held))
    return Coverage(content.value, characters.value if characters.total else content.value)


def _credit(term: str, held: frozenset[str]) -> float:
    if term in held:
        return 1.0
    characters = han_characters(term)
    return _BY_CHARACTER if characters and held.issuperset(characters) else 0.0


class _Share:
    def __init__(self) -> None:
        self.total = 0.0
        self._held = 0.0

    def add(self, weight: float, credit: float) -> None:
        self.total += weight
        self._held += weight * credit

    @property
    def value(self) -> float:
        return self._held / self.total if self.total else 0.0
