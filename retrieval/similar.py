"""Near-identical passages: the same page uploaded twice, or a footer. One of them is enough before the generator."""

from __future__ import annotations

from core.text_folding import fold

_WIDTH = 5
_NEAR = 0.92
"""Jaccard similarity of character 5-grams: one changed figure in a passage of 100 characters stays below it."""


def shingles(text: str) -> frozenset[str]:
    """Character 5-grams of the normalised text without white space."""
    dense = "".join(fold(text).split())
    return frozenset(dense[i : i + _WIDTH] for i in range(max(1, len(dense) - _WIDTH + 1)))


def is_near_copy(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two passages say the same in the same words."""
    shared = len(one & other)
    return shared >= _NEAR * (len(one) + len(other) - shared)
