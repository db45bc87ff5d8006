"""Figures of an evaluation: shares with Wilson intervals, by kind and by language, and how well confidence is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from generation.evaluation.outcome import Outcome, Status
from generation.evaluation.questions import Question

BINS = 10
Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Judged:
    """A question with its outcome."""

    question: Question
    outcome: Outcome

    @property
    def right(self) -> bool:
        """Whether it is right; a refusal of an unanswerable question is."""
        return self.outcome.status is Status.RIGHT


def wilson(count: int, total: int) -> tuple[float, float]:
    """95 % score interval of a share.

    Wilson 1927: unlike the usual one it stays within 0..1 and is not empty at 0 and 1.
    """
    if total == 0:
        return 0.0, 1.0
    share, z2 = count / total, Z_95**2
    middle = share + z2 / (2 * total)
    spread = Z_95 * sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    scale = 1 + z2 / total
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def share(count: int, total: int) -> dict[str, Any]:
    """{count, of, share, low, high}; share and interval are None of nothing."""
    if total == 0:
        return {"count": count, "of": 0, "share": None, "low": None, "high": None}
    low, high = wilson(count, total)
    return {"count": count, "of": total, "share": round(count / total, 4), "low": round(low, 4), "high": round(high, 4)}


def figures(judged: Sequence[Judged]) -> dict[str, Any]:
    """Shares over some questions; each says of how many."""
    answerable = [one for one in judged if not one.question.unanswerable]
    unanswerable = [one for one in judged if one.question.unanswerable]
    right = [one for one in answerable if one.right]
    cited = [one.outcome.cited for one in answerable if one.outcome.cited is not None]
    evidence = [one.outcome.evidence_found for one in answerable if one.outcome.evidence_found is not None]

    def count(ones: Iterable[Judged], status: Status) -> int:
        return sum(one.outcome.status is status for one in ones)

    return {
        "questions": len(judged),
        "right": share(len(right), len(answerable)),
        "wrong": share(count(judged, Status.WRONG), len(judged)),
        "refused": share(count(answerable, Status.REFUSED) + count(unanswerable, Status.RIGHT), len(judged)),
        "refused_wrongly": share(count(answerable, Status.REFUSED), len(answerable)),
        "refused_rightly": share(count(unanswerable, Status.RIGHT), len(unanswerable)),
        "verified_wrong": share(
            sum(one.outcome.status is Status.WRONG and one.outcome.verified for one in judged), len(judged)
        ),
        "verified_right": share(sum(one.outcome.verified for one in right), len(right)),
        "cited": share(sum(cited), len(cited)),
        "evidence_found": share(sum(evidence), len(evidence)),
        "failed": count(judged, Status.FAILED),
    }


def grouped(judged: Sequence[Judged], name: Callable[[Judged], str]) -> dict[str, dict[str, Any]]:
    """Figures by a label; questions without one are left out."""
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        if label := name(one):
            groups.setdefault(label, []).append(one)
    return {label: figures(groups[label]) for label in sorted(groups)}


def calibration(judged: Sequence[Judged]) -> dict[str, Any] | None:
    """How confidence and being right agree over the questions that were answered; None where no answer told it.

    ece: expected calibration error, the distance between mean confidence and share of right answers in ten bins of
    equal width, weighted by their size. brier: mean squared distance.
    """
    told = [
        (one.outcome.confidence, one.right)
        for one in judged
        if one.outcome.confidence is not None and one.outcome.status in {Status.RIGHT, Status.WRONG}
        and not (one.outcome.refused or one.outcome.refused_in_words)
    ]  # fmt: skip
    if not told:
        return None
    bins: list[dict[str, Any]] = []
    ece = 0.0
    for number in range(BINS):
        inside = [pair for pair in told if min(int(pair[0] * BINS), BINS - 1) == number]
        if not inside:
            continue
        mean = sum(confidence for confidence, _ in inside) / len(inside)
        right = share(sum(good for _, good in inside), len(inside))
        ece += len(inside) / len(told) * abs(mean - right["count"] / len(inside))
        bins.append({"from": number / BINS, "to": (number + 1) / BINS, "confidence": round(mean, 4), "right": right})
    brier = sum((confidence - good) ** 2 for confidence, good in told) / len(told)
    return {"answers": len(told), "ece": round(ece, 4), "brier": round(brier, 4), "bins": bins}


def report(judged: Sequence[Judged]) -> dict[str, Any]:
    """Everything that is told of a run."""
    totals = sorted(one.outcome.total_ms for one in judged if one.outcome.total_ms is not None)
    return {
        **figures(judged),
        "calibration": calibration(judged),
        "answer_ms": {"median": totals[len(totals) // 2], "p90": totals[len(totals) * 9 // 10]} if totals else None,
        "by_kind": grouped(judged, lambda one: one.question.kind),
        "by_language": grouped(judged, lambda one: one.question.language),
        "by_languages": grouped(judged, _languages),
    }


def conditions(judged: Iterable[Judged], beside: Mapping[str, Any]) -> dict[str, Any]:
    """What answered: versions stamped on the answers, one value or, where it changed meanwhile, a list of them."""
    seen: dict[str, dict[Any, None]] = {}
    for one in judged:
        for name, value in one.outcome.provenance.items():
            seen.setdefault(name, {})[value] = None
    stamped = {name: next(iter(values)) if len(values) == 1 else list(values) for name, values in seen.items()}
    return {**stamped, **beside}


def _languages(one: Judged) -> str:
    document = one.question.document_language
    return f"{one.question.language} in {document}" if document else ""
