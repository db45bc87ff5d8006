"""How much of a query a passage holds, weighing terms by their kind alone.

A document frequency would be a better weight in a large collection and a useless one among ten documents, where half of
all words occur once. Kind works in both: a Han or katakana bigram names a thing, a hiragana one is grammar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from retrieval.lexical import normalise, tokenize
from retrieval.stem import stem

_HIRAGANA = re.compile(r"[\u3041-\u3096\u309d-\u309fー]+")
_HAS_HIRAGANA = re.compile(r"[\u3041-\u3096]")
_CHARACTERS = re.compile(r"[\u30a1-\u30fa\u3400-\u9fff々]")
_MIXED_WEIGHT = 0.4
"""A bigram of one Han and one hiragana is half a word ending."""
_JAPANESE_ASKING = "何 誰 幾 何年 何月 何日 何人 何歳 何時 何で 何が 何と 何を 何の 教え えて 下さ"
_ENGLISH_FUNCTION = (
    "a about after all also an and any are as at be because been before being between both but by can could did do"
    " does doing done during each for from further get give given had has have having he her here hers him his how"
    " i if in into is it its just like many may me might more most much must my name no nor not of off on once one"
    " only or other our out over own per please s same shall she should so some such t tell than that the their"
    " them then there these they this those through to too under until up us used was we were what when where"
    " which while who whom whose why will with would you your"
)
_ASKING = frozenset(_JAPANESE_ASKING.split())
"""Question words: they are in the question whatever it is about."""
_FUNCTION_WORDS = frozenset(stem(word) for word in _ENGLISH_FUNCTION.split())


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares in [0, 1] of the query's terms that the passage holds; a share of nothing is 0."""

    content: float
    """Words, identifiers, numbers, Han and katakana bigrams."""
    function: float
    """Grammar: hiragana bigrams, English function words."""
    characters: float
    """Single Han and katakana characters, which forgive other word forms; for Latin queries the same as `content`."""


def coverage(query: str, passage: str) -> Coverage:
    """Coverage of `query` by `passage`."""
    held = set(tokenize(passage))
    content = function = content_held = function_held = 0.0
    for term in set(tokenize(query)) - _ASKING:
        weight = content_weight(term)
        if weight:
            content += weight
            content_held += weight * (term in held)
        else:
            function += 1
            function_held += term in held
    share = content_held / content if content else 0.0
    wanted = set(_CHARACTERS.findall(normalise(query))) - _ASKING
    present = set(_CHARACTERS.findall(normalise(passage)))
    characters = len(wanted & present) / len(wanted) if wanted else share
    return Coverage(share, function_held / function if function else 0.0, characters)


def content_weight(term: str) -> float:
    """0 for grammar, 1 for what names something."""
    if term in _FUNCTION_WORDS or _HIRAGANA.fullmatch(term):
        return 0.0
    return _MIXED_WEIGHT if len(term) == 2 and _HAS_HIRAGANA.search(term) else 1.0
