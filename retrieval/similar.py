"""Near-identical passages: the same page uploaded twice, or a footer. One of them is enough before the generator.

Passages that differ in a number or an identifier say different things, however many characters they share: rows of one
table, articles of one form of contract, last year's price list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.table_text import CELL_SEPARATOR
from core.text_folding import fold

_WIDTH = 5
_NEAR = 0.92
"""Jaccard similarity of character 5-grams."""
_WORD = re.compile(r"[a-z0-9]+(?:[-._/:][a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Likeness:
    """What two passages are compared by."""

    shingles: frozenset[str]
    """Character 5-grams of the folded text without white space."""
    telling: tuple[str, ...]
    """Numbers and identifiers in reading order; of rows of a table, all that they hold."""


def likeness(text: str) -> Likeness:
    """What `is_near_copy` needs of a passage."""
    folded = fold(text)
    dense = "".join(folded.split())
    shingles = frozenset(dense[i : i + _WIDTH] for i in range(max(1, len(dense) - _WIDTH + 1)))
    if CELL_SEPARATOR in folded:
        return Likeness(shingles, (dense,))
    return Likeness(shingles, tuple(filter(_tells, _WORD.findall(folded))))


def _tells(word: str) -> bool:
    return len(word) == 1 or not word.isalpha()


def is_near_copy(one: Likeness, other: Likeness) -> bool:
    """Whether two passages say the same in the same words."""
    if one.telling != other.telling:
        return False
    shared = len(one.shingles & other.shingles)
    return shared >= _NEAR * (len(one.shingles) + len(other.shingles) - shared)
