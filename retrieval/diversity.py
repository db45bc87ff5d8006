"""Maximal marginal relevance: passages that say the same take room from those that say something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

POOL = 50
"""Best passages that are weighed against one another."""


def diversify(
    keys: Sequence[str],
    scores: Mapping[str, float],
    terms_of: Callable[[str], Mapping[str, float]],
    limit: int,
    diversity: float,
) -> list[str]:
    """First `limit` of `keys` (best first), each chosen by its score less its likeness to those before it.

    diversity: 0 keeps the order, 1 looks at likeness alone. scores count as shares of the best. terms_of: how often a
    passage has each term, by whose cosine likeness is measured: words work in every language, vectors only where the
    embedder was trained. Keys beyond the pool follow in their order.
    """
    pool, rest = list(keys[: max(POOL, limit)]), list(keys[max(POOL, limit) :])
    top = max((scores[key] for key in pool), default=0.0)
    share = {key: scores[key] / top if top > 0 else 0.0 for key in pool}
    vectors = {key: _unit(terms_of(key)) for key in pool}
    likeness = dict.fromkeys(pool, 0.0)
    chosen: list[str] = []
    while pool and len(chosen) < limit:
        best = max(pool, key=lambda key: (1 - diversity) * share[key] - diversity * likeness[key])
        pool.remove(best)
        chosen.append(best)
        for key in pool:
            likeness[key] = max(likeness[key], _dot(vectors[key], vectors[best]))
    return [*chosen, *rest[: limit - len(chosen)]]


def _unit(weights: Mapping[str, float]) -> dict[str, float]:
    length = sum(value * value for value in weights.values()) ** 0.5
    return {key: value / length for key, value in weights.items()} if length else {}


def _dot(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    return sum(value * other[key] for key, value in one.items() if key in other)
