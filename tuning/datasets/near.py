"""Near duplicates by MinHash over character 5-grams: no word borders, so Japanese and English are treated alike.

Signatures and their index are datasketch's. An index only says what to compare; the similarity of a pair is the exact
Jaccard similarity of the 5-gram sets. Each text is compared with a bounded number of others, so that rows written from
one template, which all resemble one another, take a time that grows as their number does.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GRAM = 5
HASHES = 126
NEAR = 0.75
"""Similarity from which two texts count as the same with small changes."""
_INDEXES = ((21, 6), (9, 14))
"""(bands, hashes of a band): the first finds 98 % of the pairs of similarity 0.75; the second 90 % of those of 0.9 and
nearly none of 0.6, so that copies are found also among rows of a template with which the first is full."""
_CROWD = 256
"""A text with so many candidates in an index is not put into it: what resembles it resembles those as well."""
_COMPARED = 8
"""Candidates that are compared exactly: so many of the most similar by estimate, and so many of the earliest."""
_SLACK = 0.15
"""How far below the threshold an estimate may lie and still be looked at: three standard errors."""


def folded(text: str) -> str:
    """NFKC, lower case, white space left out: what two writings of one text agree in."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def grams(text: str) -> NDArray[np.uint64]:
    """Hashes of a text's 5-grams, uint64, ascending, unique. A text shorter than a 5-gram is one gram."""
    codes = np.frombuffer(folded(text).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < GRAM:
        codes = np.concatenate([codes, np.zeros(GRAM - len(codes), dtype=np.uint64)])
    found = np.zeros(len(codes) - GRAM + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(GRAM):
            found = found * np.uint64(1_000_003) + codes[offset : len(codes) - GRAM + 1 + offset]
        return np.unique((found ^ (found >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9))


def near_pairs(
    texts: Sequence[str], *, threshold: float = NEAR, look: Callable[[], None] = lambda: None
) -> list[tuple[int, int, float]]:
    """(earlier, later, similarity) of texts that are nearly the same, in order of the later one.

    Of a text with many near ones only some are named: enough to tell that it has any, and what hangs together.
    look: called for every text; it may raise to stop.
    """
    if len(texts) < 2:
        return []
    from datasketch import MinHash, MinHashLSH

    indexes = [MinHashLSH(num_perm=HASHES, params=params) for params in _INDEXES]
    empty = MinHash(num_perm=HASHES, hashfunc=int)
    signatures = np.zeros((len(texts), HASHES), dtype=np.uint64)
    grams_of = lru_cache(maxsize=4_096)(lambda position: grams(texts[position]))
    found: list[tuple[int, int, float]] = []
    for position in range(len(texts)):
        look()
        minhash = empty.copy()
        minhash.update_batch((grams_of(position) >> np.uint64(32)).tolist())
        signatures[position] = minhash.hashvalues
        candidates: set[int] = set()
        for index in indexes:
            alike = index.query(minhash)
            candidates.update(alike)
            if len(alike) < _CROWD:
                index.insert(position, minhash, check_duplication=False)
        for other in _worth_comparing(signatures, position, candidates, threshold):
            similarity = _jaccard(grams_of(other), grams_of(position))
            if similarity >= threshold:
                found.append((other, position, round(similarity, 3)))
    return found


def _worth_comparing(
    signatures: NDArray[np.uint64], position: int, candidates: set[int], threshold: float
) -> list[int]:
    """Candidates whose estimated similarity is near or above the threshold, a bounded number, ascending."""
    if not candidates:
        return []
    ordered = np.array(sorted(candidates))
    estimates = (signatures[ordered] == signatures[position]).mean(axis=1)
    likely = np.flatnonzero(estimates >= threshold - _SLACK)
    best = likely[np.argsort(-estimates[likely], kind="stable")[:_COMPARED]]
    return sorted({int(ordered[at]) for at in (*likely[:_COMPARED], *best)})


def _jaccard(ours: NDArray[np.uint64], theirs: NDArray[np.uint64]) -> float:
    common = len(np.intersect1d(ours, theirs, assume_unique=True))
    return common / (len(ours) + len(theirs) - common)
