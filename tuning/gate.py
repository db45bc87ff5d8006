"""The gate: may a trained version become a candidate? Paired comparisons on the same prompts, seeded bootstrap.

Why these margins. The smallest evaluation (two cores, 90 seconds) has some 20 items per figure. There a difference of
two answers in 24 is noise of decoding, and its 95 % bound reaches -0.21, so an interval alone with a margin of 0.10
would reject every adapter, and a wide one alone would let a large set lose a fifth. Hence two conditions for "not
worse": the observed drop is at most `max_drop`, and the bound stays above `-margin`. Leaking facts has a tighter drop:
one answer in a small set, one in twenty in a large one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from tuning.items import BASE, CANDIDATE, CHAMPION, FEW_SHOT, Evaluation, EvaluationItem
from tuning.metrics import score

GATE_VERSION = "gate-3"


class Verdict(StrEnum):
    """What the version becomes."""

    CANDIDATE = "candidate"
    REJECTED = "rejected"


class CheckKind(StrEnum):
    """What a check asks of the difference, candidate less reference."""

    SUPERIORITY = "superiority"
    NON_INFERIORITY = "non_inferiority"


@dataclass(frozen=True, slots=True)
class Margins:
    """Every number the verdict depends on. All figures are better when higher; shares are in 0..1."""

    resamples: int = 2_000
    seed: int = 17
    confidence: float = 0.95
    """One-sided: the bound leaves 5 % below it."""
    min_items: int = 6
    """Fewer pairs than this decide nothing: the check fails."""
    min_coverage: float = 0.9
    """Share of a figure's items that both systems must have; the rest are skips, and many skips are a failure."""
    likelihood_gain: float = 0.05
    """Nats per token by which held-out house text must become likelier than under the base."""
    similarity_gain: float = 0.03
    """chrF by which answers must come nearer to the house's own."""
    champion_margin: float = 0.05
    """How much worse than the champion style may be: bound of the interval, chrF and nats alike."""
    margin: float = 0.25
    """How low the bound of "not worse" may reach."""
    max_drop: float = 0.10
    """Largest observed drop of grounding, citation, answering, refusal, finished."""
    max_forgetting: float = 1.6
    """Nats per token by which neutral English and Japanese text may become less likely than under the reference. Eight
    good adapters of 48 steps moved it by 0.26 to 1.45 and answered no question worse; one that had learnt its rows by
    heart by 1.75 (`python -m benchmarks.gate`). So this stops only what has lost the language; facts learnt by heart
    are seen by `no_leak`, and by what grounding and refusal lose."""
    few_shot_margin: float = 0.05
    """How much worse than the base with examples in its prompt style may be: otherwise examples are the better way."""
    advisory: tuple[str, ...] = ()
    """Checks, by figure or by what they compare with, that are made and shown and do not decide."""
    max_rubric: float = 1.0
    """Points of 25 by which a calibrated judge may find answers worse."""
    max_leak: float = 0.05
    """Largest observed drop of `no_leak`: facts from training given without any passage."""


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison. Figures are None where they are undefined, and then the check has failed."""

    name: str
    kind: CheckKind
    against: str
    candidate: float | None
    reference: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    margin: float
    n: int
    skipped: int
    passed: bool
    reason: str | None
    advisory: bool = False
    """Shown, and not part of the verdict."""


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
        return asdict(self) | {"passed": self.verdict is Verdict.CANDIDATE}


@dataclass(frozen=True, slots=True)
class Judged:
    """What an ensemble of judges found: points of 25 by pair. `gates` only if it was calibrated against people."""

    against: str
    candidate: tuple[float, ...]
    reference: tuple[float, ...]
    skipped: int
    gates: bool


_NOT_WORSE = ("grounding", "citation", "answering", "refusal", "finished")
_OPTIONAL = ("numbers", "language")
"""Answers without a number or without words have no such figure, and which have one differs between two systems: only
items that both answer so are compared, and few of them decide nothing."""


def judge(
    items: Sequence[EvaluationItem],
    evaluation: Evaluation,
    *,
    margins: Margins | None = None,
    notes: Sequence[str] = (),
    judged: Judged | None = None,
) -> GateReport:
    """Compare the candidate with the base, with the champion where there is one, and with examples in the prompt.

    Against the base style must be better; against the champion not worse. Facts must not suffer against either.
    """
    rules = margins or Margins()
    references = [name for name in (BASE, CHAMPION) if name in evaluation.systems]
    if CANDIDATE not in evaluation.systems or BASE not in references:
        raise ValueError("an evaluation holds at least base and candidate")
    scores = {
        system: {item.id: score(item, outputs[item.id]) for item in items if item.id in outputs}
        for system, outputs in evaluation.systems.items()
    }
    leaks, conflicts = sum(item.leak for item in items), sum(item.conflict for item in items)
    checks = []
    for reference in references:
        for name, gain in (("likelihood", rules.likelihood_gain), ("similarity", rules.similarity_gain)):
            pairs = _pairs(scores[CANDIDATE], scores[reference], name)
            if reference == BASE:
                checks.append(_superior(name, reference, pairs, gain, rules))
            else:
                checks.append(_not_worse(name, reference, pairs, rules.champion_margin, rules.champion_margin, rules))
        for name in _NOT_WORSE:
            pairs = _pairs(scores[CANDIDATE], scores[reference], name)
            checks.append(_not_worse(name, reference, pairs, rules.margin, rules.max_drop, rules))
        for name in _OPTIONAL:
            pairs = replace(_pairs(scores[CANDIDATE], scores[reference], name), skipped=0)
            if len(pairs.candidate) >= rules.min_items:
                checks.append(_not_worse(name, reference, pairs, rules.margin, rules.max_drop, rules))
        if any(item.raw for item in items):
            pairs = _pairs(scores[CANDIDATE], scores[reference], "general")
            checks.append(
                _not_worse("general", reference, pairs, rules.max_forgetting * 2, rules.max_forgetting, rules)
            )
        for name, count, drop in (("believing", conflicts, rules.max_drop), ("no_leak", leaks, rules.max_leak)):
            if count:
                pairs = _pairs(scores[CANDIDATE], scores[reference], name)
                # How many facts can be asked about lies in the data, not in the model: few are no failure. Where there
                # are enough, a single answer is borne: a small number can be hit by chance.
                few = replace(rules, min_items=min(rules.min_items, count))
                borne = max(drop, 1.01 / count) if count >= rules.min_items else drop
                checks.append(_not_worse(name, reference, pairs, rules.margin, borne, few))
    if FEW_SHOT in evaluation.systems:
        held_out = {key: one for key, one in scores[CANDIDATE].items() if key in scores[FEW_SHOT]}
        for name in ("likelihood", "similarity"):
            pairs = _pairs(held_out, scores[FEW_SHOT], name)
            few = replace(rules, min_items=min(rules.min_items, max(1, len(held_out))))
            checks.append(_not_worse(name, FEW_SHOT, pairs, rules.few_shot_margin * 2, rules.few_shot_margin, few))
    if judged is not None and judged.gates:
        pairs = _Pairs(np.array(judged.candidate), np.array(judged.reference), judged.skipped)
        # Long pairs are skipped on purpose, so coverage is asked of half of them only.
        half = replace(rules, min_coverage=0.5)
        checks.append(_not_worse("rubric", judged.against, pairs, rules.max_rubric * 2, rules.max_rubric, half))
    checks = [
        replace(check, advisory=check.name in rules.advisory or check.against in rules.advisory) for check in checks
    ]
    reasons = [
        f"{check.name} against {check.against}: {check.reason}"
        for check in checks
        if not check.passed and not check.advisory
    ]
    return GateReport(
        verdict=Verdict.REJECTED if reasons else Verdict.CANDIDATE,
        reasons=reasons,
        checks=checks,
        margins=rules,
        items=dict(Counter(item.source for item in items)),
        notes=[*notes, *([] if leaks else ["no training row states a fact that could be asked for without passages"])],
    )


@dataclass(frozen=True, slots=True)
class _Pairs:
    candidate: np.ndarray[Any, np.dtype[np.float64]]
    reference: np.ndarray[Any, np.dtype[np.float64]]
    skipped: int


def _pairs(
    candidate: Mapping[str, Mapping[str, float]], reference: Mapping[str, Mapping[str, float]], name: str
) -> _Pairs:
    """Items that have the figure, and a finite one, on both sides; the others that have it on one are skips."""
    wanted = sorted(key for key in candidate.keys() | reference.keys() if _has(candidate, reference, key, name))
    both = [
        (candidate[key][name], reference[key][name])
        for key in wanted
        if name in candidate.get(key, {}) and name in reference.get(key, {})
    ]
    kept = [pair for pair in both if np.isfinite(pair).all()]
    values = np.array(kept, dtype=np.float64).reshape(len(kept), 2)
    return _Pairs(values[:, 0], values[:, 1], len(wanted) - len(kept))


def _has(
    candidate: Mapping[str, Mapping[str, float]], reference: Mapping[str, Mapping[str, float]], key: str, name: str
) -> bool:
    return name in candidate.get(key, {}) or name in reference.get(key, {})


def _bootstrap(pairs: _Pairs, rules: Margins) -> tuple[float, float, float]:
    """Mean difference and its one-sided bounds, by resampling items."""
    differences = pairs.candidate - pairs.reference
    generator = np.random.default_rng(rules.seed)
    picks = generator.integers(0, len(differences), size=(rules.resamples, len(differences)))
    means = differences[picks].mean(axis=1)
    low, high = np.quantile(means, [1 - rules.confidence, rules.confidence])
    return float(differences.mean()), float(low), float(high)


def _undefined(pairs: _Pairs, rules: Margins) -> str | None:
    """Why a comparison cannot be made at all."""
    count = len(pairs.candidate)
    if count < rules.min_items:
        return f"only {count} pairs, at least {rules.min_items} are needed ({pairs.skipped} skipped)"
    if count < rules.min_coverage * (count + pairs.skipped):
        return f"{pairs.skipped} of {count + pairs.skipped} items have no figure on one side"
    return None


def _check(
    name: str, kind: CheckKind, against: str, pairs: _Pairs, margin: float, rules: Margins, max_drop: float
) -> Check:
    reason = _undefined(pairs, rules)
    if reason is not None:
        return Check(
            name,
            kind,
            against,
            None,
            None,
            None,
            None,
            None,
            margin,
            len(pairs.candidate),
            pairs.skipped,
            False,
            reason,
        )
    difference, low, high = _bootstrap(pairs, rules)
    if kind is CheckKind.SUPERIORITY:
        if difference < margin:
            reason = f"better by {difference:+.3f}, at least {margin:+.3f} is asked"
        elif low <= 0:
            reason = f"the improvement of {difference:+.3f} is not certain (bound {low:+.3f})"
    elif difference < -max_drop:
        reason = f"worse by {-difference:.3f}, at most {max_drop:.3f} is borne"
    elif low < -margin:
        reason = f"may be worse by {-low:.3f}, at most {margin:.3f} is borne"
    return Check(
        name=name,
        kind=kind,
        against=against,
        candidate=round(float(pairs.candidate.mean()), 4),
        reference=round(float(pairs.reference.mean()), 4),
        difference=round(difference, 4),
        ci_low=round(low, 4),
        ci_high=round(high, 4),
        margin=margin,
        n=len(pairs.candidate),
        skipped=pairs.skipped,
        passed=reason is None,
        reason=reason,
    )


def _superior(name: str, against: str, pairs: _Pairs, gain: float, rules: Margins) -> Check:
    return _check(name, CheckKind.SUPERIORITY, against, pairs, gain, rules, 0.0)


def _not_worse(name: str, against: str, pairs: _Pairs, margin: float, max_drop: float, rules: Margins) -> Check:
    return _check(name, CheckKind.NON_INFERIORITY, against, pairs, margin, rules, max_drop)
