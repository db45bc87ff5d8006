"""Near duplicates by MinHash over character 5-grams: no word borders, so Japanese and English are treated alike.

Of every text the smallest of 64 hashes of its 5-grams are kept; the share of equal ones estimates the Jaccard
similarity of the 5-gram sets (Broder 1997), with a standard error of at most 0.06. Texts that agree in one of 16 bands
of four are compared.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GRAM = 5
HASHES = 64
BANDS = 16
NEAR = 0.75
"""Similarity from which two texts count as the same with small changes."""
_SLACK = 0.2
"""How far below the threshold an estimate may lie and still be looked at: three standard errors."""
_LARGEST_BUCKET = 200
"""Of a bucket with more texts each is compared with the first only: a template shared by thousands is one family."""

_GENERATOR = np.random.default_rng(20_260_101)
_MULTIPLIERS = _GENERATOR.integers(1, 2**63, HASHES, dtype=np.uint64) | np.uint64(1)
_ADDENDS = _GENERATOR.integers(0, 2**63, HASHES, dtype=np.uint64)


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


def signature(text: str) -> NDArray[np.uint32]:
    """MinHash signature, uint32 (HASHES,)."""
    with np.errstate(over="ignore"):
        hashed = grams(text)[:, None] * _MULTIPLIERS[None, :] + _ADDENDS[None, :]
    smallest: NDArray[np.uint32] = (hashed.min(axis=0) >> np.uint64(32)).astype(np.uint32)
    return smallest


def near_pairs(texts: Sequence[str], *, threshold: float = NEAR) -> list[tuple[int, int, float]]:
    """(earlier, later, similarity) of texts that are nearly the same, in order of the later one.

    The estimate only chooses what is compared; the similarity is the exact one of the 5-gram sets.
    """
    if len(texts) < 2:
        return []
    signatures = np.stack([signature(text) for text in texts])
    width = HASHES // BANDS
    candidates: set[tuple[int, int]] = set()
    for band in range(BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        part = np.ascontiguousarray(signatures[:, band * width : (band + 1) * width])
        for position in range(len(texts)):
            buckets[part[position].tobytes()].append(position)
        for members in buckets.values():
            if len(members) > _LARGEST_BUCKET:
                candidates |= {(members[0], other) for other in members[1:]}
            else:
                candidates |= {(one, two) for at, one in enumerate(members) for two in members[at + 1 :]}
    found = []
    for one, two in candidates:
        if (signatures[one] == signatures[two]).mean() < threshold - _SLACK:
            continue
        ours, theirs = grams(texts[one]), grams(texts[two])
        common = len(np.intersect1d(ours, theirs, assume_unique=True))
        similarity = common / (len(ours) + len(theirs) - common)
        if similarity >= threshold:
            found.append((one, two, round(similarity, 3)))
    return sorted(found, key=lambda pair: (pair[1], pair[0]))
