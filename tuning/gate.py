"""The gate: may a trained version become a candidate? Paired comparisons on the same prompts; nothing is drawn.

Against the base, style must be better; against the champion, not worse. Whatever else can be right or wrong must not
drop: "not worse" is shown by a bound and never taken from too few pairs, and each report says what its size could see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from tuning.checks import (
    EMPTY_INTERVAL,
    Check,
    CheckKind,
    Pairs,
    Scores,
    answers_kept,
    gained,
    harm_is_shown,
    mean_kept,
    pairs_of,
    share_kept,
)
from tuning.intervals import fewest_pairs
from tuning.items import BASE, CANDIDATE, CHAMPION, FEW_SHOT, Evaluation, EvaluationItem
from tuning.margins import Margins, look_text
from tuning.metrics import score

__all__ = ["Check", "CheckKind", "GateReport", "Judged", "Margins", "Verdict", "judge"]

GATE_VERSION = "gate-4"


class Verdict(StrEnum):
    """What the version becomes."""

    CANDIDATE = "candidate"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class GateReport:
    """The verdict with all it rests on; `reasons` is empty for a candidate."""

    verdict: Verdict
    reasons: list[str]
    checks: list[Check]
    margins: Margins
    items: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    version: str = GATE_VERSION

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return asdict(self) | {
            "passed": self.verdict is Verdict.CANDIDATE,
            "look": {"number": self.margins.look, "alpha": round(self.margins.alpha, 5)},
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """What an ensemble of judges found: points of 25 by pair. `gates` only if it was calibrated against people."""

    against: str
    candidate: tuple[float, ...]
    reference: tuple[float, ...]
    skipped: int
    gates: bool


_NOT_WORSE = ("grounding", "precision", "citation", "answering", "refusal", "finished")
_OPTIONAL = ("numbers", "language")
"""A prompt that is not shown passages, or asks in no language, has no such figure."""
_RIGHT = ("grounding", "answering", "refusal", "believing")
"""What an answer is right or wrong by, as people count."""


def judge(
    items: Sequence[EvaluationItem],
    evaluation: Evaluation,
    *,
    margins: Margins | None = None,
    notes: Sequence[str] = (),
    judged: Judged | None = None,
) -> GateReport:
    """Compare the candidate with the base, with the champion where there is one, and with examples in the prompt."""
    rules = margins or Margins()
    references = [name for name in (BASE, CHAMPION) if name in evaluation.systems]
    if CANDIDATE not in evaluation.systems or BASE not in references:
        raise ValueError("an evaluation holds at least base and candidate")
    scores = {
        system: {item.id: score(item, outputs[item.id]) for item in items if item.id in outputs}
        for system, outputs in evaluation.systems.items()
    }
    checks = []
    for reference in references:
        same = _same_answers(evaluation, reference, scores[CANDIDATE])
        checks += _style(scores[CANDIDATE], scores[reference], reference, same, rules)
        checks += _answers(items, scores[CANDIDATE], scores[reference], reference, rules)
    if FEW_SHOT in evaluation.systems:
        held_out = {key: one for key, one in scores[CANDIDATE].items() if key in scores[FEW_SHOT]}
        for name in ("likelihood", "similarity"):
            pairs = pairs_of(held_out, scores[FEW_SHOT], name)
            margin = rules.few_shot_margin
            few = max(2, min(rules.fewest_means, len(held_out)))
            checks.append(mean_kept(name, FEW_SHOT, pairs, margin * 2, margin, rules, fewest=few))
        if _same_answers(evaluation, FEW_SHOT, held_out):
            checks[-1] = _all_alike(checks[-1])
    if judged is not None and judged.gates:
        checks.append(_rubric(judged, rules))
    checks = [
        replace(check, advisory=check.advisory or check.name in rules.advisory or check.against in rules.advisory)
        for check in checks
    ]
    reasons = [
        f"{check.name} against {check.against}: {check.reason}"
        for check in checks
        if not check.passed and not check.advisory
    ]
    leaks = any(item.leak for item in items)
    return GateReport(
        verdict=Verdict.REJECTED if reasons else Verdict.CANDIDATE,
        reasons=reasons,
        checks=checks,
        margins=rules,
        items=dict(Counter(item.source for item in items)),
        notes=[
            look_text(rules),
            *_blind(checks),
            *notes,
            *([] if leaks else ["no training row states a fact that could be asked for without passages"]),
        ],
    )


def _blind(checks: Sequence[Check]) -> list[str]:
    """Which drops could not have been: what the reference is never right in, nobody can lose."""
    floors = [f"{one.name} against {one.against}" for one in checks if one.power is not None and not one.power.seen]
    return [f"no drop could be seen, for the reference is hardly ever right: {', '.join(floors)}"] if floors else []


def _rubric(judged: Judged, rules: Margins) -> Check:
    """What a calibrated judge says. One that tells no pair apart says nothing, and rejects nothing."""
    pairs = Pairs(np.array(judged.candidate), np.array(judged.reference), judged.skipped)
    # Long pairs are skipped on purpose, so coverage is asked of half of them only.
    half = replace(rules, min_coverage=0.5)
    check = mean_kept("rubric", judged.against, pairs, rules.max_rubric * 2, rules.max_rubric, half)
    blind = check.reason == EMPTY_INTERVAL and (check.difference or 0.0) >= -rules.max_rubric
    return replace(check, advisory=True, reason=f"does not decide: {check.reason}") if blind else check


def _style(candidate: Scores, reference: Scores, against: str, same: bool, rules: Margins) -> list[Check]:
    """How the house writes: better than the base, not worse than the champion."""
    likelihood, similarity = (pairs_of(candidate, reference, name) for name in ("likelihood", "similarity"))
    if against == BASE:
        return [
            gained("likelihood", against, likelihood, rules.likelihood_gain, rules),
            gained("similarity", against, similarity, rules.similarity_gain, rules),
        ]
    one, two = rules.champion_likelihood, rules.champion_similarity
    checks = [
        mean_kept("likelihood", against, likelihood, one, one, rules),
        mean_kept("similarity", against, similarity, two, two, rules),
    ]
    return [checks[0], _all_alike(checks[1])] if same else checks


def _all_alike(check: Check) -> Check:
    """An empty interval proves nothing; two systems that write every answer alike are no failure either."""
    said = f"does not decide: every answer is that of {check.against}, letter for letter; likelihood decides on style"
    return replace(check, advisory=True, reason=said)


def _same_answers(evaluation: Evaluation, reference: str, scores: Scores) -> bool:
    """Whether both write the house's answers alike, letter for letter."""
    ours, theirs = evaluation.systems[CANDIDATE], evaluation.systems[reference]
    compared = [key for key, figures in scores.items() if "similarity" in figures and key in theirs]
    return bool(compared) and all(ours[key].text == theirs[key].text for key in compared)


def _answers(
    items: Sequence[EvaluationItem], candidate: Scores, reference: Scores, against: str, rules: Margins
) -> list[Check]:
    """What an answer says: nothing of it may be worse, against whichever reference."""
    checks = [
        share_kept(name, against, pairs_of(candidate, reference, name), rules.margin, rules) for name in _NOT_WORSE
    ]
    checks += [
        _if_enough(name, against, pairs_of(candidate, reference, name), rules.margin, rules) for name in _OPTIONAL
    ]
    checks.append(answers_kept(against, pairs_of(_right(candidate), _right(reference), "right"), rules))
    if any(item.raw for item in items):
        pairs = pairs_of(candidate, reference, "general")
        checks.append(mean_kept("general", against, pairs, rules.max_forgetting * 2, rules.max_forgetting, rules))
    if any(item.conflict for item in items):
        pairs = pairs_of(candidate, reference, "believing")
        checks.append(_if_enough("believing", against, pairs, rules.trap_margin, rules))
    if any(item.leak for item in items):
        pairs = pairs_of(candidate, reference, "no_leak")
        borne = max(rules.max_leak, 3.01 / max(pairs.count, 1))
        checks.append(_if_enough("no_leak", against, pairs, rules.trap_margin, rules, max_drop=borne))
    return checks


def _if_enough(
    name: str, against: str, pairs: Pairs, margin: float, rules: Margins, *, max_drop: float | None = None
) -> Check:
    """A share whose items lie in the data or in the answers: few of them are no failure of the version, and said.

    Harm that even few show is one.
    """
    check = share_kept(name, against, pairs, margin, rules, max_drop=max_drop)
    if pairs.count >= fewest_pairs(margin, rules.alpha) or pairs.skipped:
        return check
    if harm_is_shown(pairs, rules):
        return replace(check, reason=f"worse by {-(check.difference or 0):.3f}, which even {pairs.count} pairs show")
    return replace(check, advisory=True, reason=f"does not decide: {check.reason}")


def _right(scores: Scores) -> dict[str, Mapping[str, float]]:
    """{item id: {right: 1 or 0}} of items that can be answered rightly."""
    found: dict[str, Mapping[str, float]] = {}
    for key, figures in scores.items():
        told = [figures[name] for name in _RIGHT if name in figures]
        if told:
            found[key] = {"right": float(all(value == 1 for value in told))}
    return found
