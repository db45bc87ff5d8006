"""Two runs over the same questions: what became right, what was lost, and whether that can be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from generation.evaluation.outcome import Status

MAX_CHANGED = 1_000
"""Changed questions named in a comparison; the counts are of all."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a comparison needs of an outcome. digest: of the question with its labels."""

    id: str
    question: str
    digest: str
    status: str
    verified_wrong: bool


def exact_p(only_before: int, only_now: int) -> float:
    """Two-sided p of McNemar's exact test: that pairs which differ went either way like a coin."""
    total = only_before + only_now
    if total == 0:
        return 1.0
    term = tail = 1
    for number in range(min(only_before, only_now)):
        term = term * (total - number) // (number + 1)  # comb(total, number + 1)
        tail += term
    return min(1.0, float(2 * tail / 2**total))


def compare(before: Sequence[Row], now: Sequence[Row]) -> dict[str, Any]:
    """Pair two runs by question and labels; a question whose labels were changed in between is another one."""
    known = {row.digest: row for row in reversed(before)}
    pairs = [(known[row.digest], row) for row in now if row.digest in known]
    pairs = [pair for pair in pairs if Status.FAILED not in {pair[0].status, pair[1].status}]
    gained = sum(b.status != Status.RIGHT and n.status == Status.RIGHT for b, n in pairs)
    lost = sum(b.status == Status.RIGHT and n.status != Status.RIGHT for b, n in pairs)
    worse = sum(n.verified_wrong and not b.verified_wrong for b, n in pairs)
    better = sum(b.verified_wrong and not n.verified_wrong for b, n in pairs)
    changed = [
        {"id": n.id, "question": n.question, "before": b.status, "now": n.status}
        for b, n in pairs
        if b.status != n.status
    ]
    return {
        "paired": len(pairs),
        "unpaired": len(now) - len(pairs),
        "right_before": sum(b.status == Status.RIGHT for b, _ in pairs),
        "right_now": sum(n.status == Status.RIGHT for _, n in pairs),
        "gained": gained,
        "lost": lost,
        "p": exact_p(lost, gained),
        "verified_wrong": {"more": worse, "fewer": better, "p": exact_p(better, worse)},
        "changed_count": len(changed),
        "changed": changed[:MAX_CHANGED],
    }


def changed_conditions(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What differs between two runs beside the answers: {name: {before, now}}."""
    names = sorted({*before, *now})
    return {
        name: {"before": before.get(name), "now": now.get(name)}
        for name in names
        if before.get(name) != now.get(name)
    }  # fmt: skip
