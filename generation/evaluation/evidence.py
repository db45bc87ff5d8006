"""Fits the evidence stage to questions with known answers: ranking of lines, and how sure the first of them is.

Every candidate that the passages found make is judged against what is expected; no model is asked. Figures are of
questions held out: their documents are not those that the weights were fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import audit
from core.access import Principal, access_filter
from core.database import Database
from core.errors import InvalidInput
from core.tables.operations import EvidenceCalibration
from generation.asking import Search
from generation.evaluation.evidence_fit import calibration_error, fit_logistic, fit_ranking, probabilities
from generation.evaluation.matching import judge
from generation.evaluation.questions import Question
from generation.evidence.meaning import MEANING_FEATURES
from generation.evidence.parameters import CONFIDENCE_FEATURES, Weights, shipped_parameters
from generation.evidence.pool import Pool, pool_of
from generation.evidence.ranking import FEATURES, SPEAKS_AGAINST, SPEAKS_NEITHER, features
from generation.evidence.stage import EVIDENCE_PASSAGES, answer_of, signals_of

_FOLDS = 5
_SIDES = ("own", "foreign")
_UNCOMPARED = "uncompared"
"""All candidates, their meanings not compared: what serves where there is no multilingual arm."""
_CUTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
_ENOUGH_FOR_RANKING = 200
"""Answerable questions from which a tenant's own ranking is tried at all; with fewer it only learns them by heart."""
_FEWEST_ANSWERABLE, _FEWEST_UNANSWERABLE = 30, 10

Table = NDArray[np.float64]
_SIGNS = np.array([-1.0 if one in SPEAKS_AGAINST else 0.0 if one in SPEAKS_NEITHER else 1.0 for one in FEATURES])


@dataclass(frozen=True, slots=True)
class Judged:
    """A question, its candidates' features, and which of them are right answers."""

    question: Question
    pool: Pool
    table: Table
    right: Table

    def side(self, name: str) -> NDArray[np.intp]:
        """Candidates in the question's own language, those in others, or all of them."""
        if name == _UNCOMPARED:
            return np.arange(len(self.table))
        foreign = self.table[:, FEATURES.index("foreign")] > 0
        return np.flatnonzero(foreign if name == "foreign" else ~foreign)

    @property
    def across(self) -> bool:
        """Whether it is asked in another language than its document's."""
        return bool(self.question.document_language) and self.question.document_language != self.question.language


def judge_candidates(question: Question, search: Search, principal: Principal, today: date) -> Judged | None:
    """Search for a question and judge every candidate of its answer; None where nothing was found."""
    found = search.search(question.question, access_filter(principal), EVIDENCE_PASSAGES)
    pool = pool_of(question.question, found.passages, today, found.siblings, found.bridge)
    return Judged(question, pool, features(pool), right_candidates(question, pool)) if pool.candidates else None


def right_candidates(question: Question, pool: Pool) -> Table:
    """1 for each candidate that is a right answer, else 0."""
    if question.unanswerable:
        return np.zeros(len(pool.candidates))
    answers = [answer_of(pool, candidate) for candidate in pool.candidates]
    verdicts = {
        answer: judge(answer, question.expected, question.not_expected).right for answer in dict.fromkeys(answers)
    }
    return np.array([float(verdicts[answer]) for answer in answers])


def fit_side(judged: Sequence[Judged], name: str) -> Table:
    """Ranking weights of one side, from the questions that are asked across languages or those that are not."""
    rows = [
        (item.table[places], item.right[places])
        for item in judged
        if (name == _UNCOMPARED or item.across is (name == "foreign")) and not item.question.unanswerable
        for places in [item.side(name)]
        if item.right[places].any()
    ]
    return fit_ranking(rows, _SIGNS) if rows else np.zeros(len(FEATURES))


def best_of(item: Judged, name: str, weights: Table) -> tuple[list[float], float] | None:
    """(signals, whether it is right) of the best candidate of a side; None where the side has none."""
    places = item.side(name)
    if not len(places):
        return None
    belief = item.table[places] @ weights
    order = [int(at) for at in np.argsort(-belief, kind="stable")]
    probability = np.exp(belief - belief.max())
    probability /= probability.sum()
    candidates = [item.pool.candidates[at] for at in places]
    signals = signals_of(item.pool, candidates, item.table[places], belief, probability, order)
    best = item.pool.narrow(int(places[order[0]]))
    return [signals[feature] for feature in CONFIDENCE_FEATURES], float(item.right[best])


def measure(judged: Sequence[Judged]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(figures, parameters): held out by document, and fitted on all."""
    folds = folds_of(judged)
    sure, right, stored = _held_out(judged, folds, _SIDES)
    blind = [replace(item, table=_not_compared(item.table)) for item in judged]
    blind_sure, blind_right, blind_stored = _held_out(blind, folds, (_UNCOMPARED,))
    figures = {**figures_of(judged, sure, right), _UNCOMPARED: figures_of(blind, blind_sure, blind_right)}
    return figures, stored | blind_stored


def folds_of(judged: Sequence[Judged]) -> NDArray[np.intp]:
    """The fold of each, (len(judged),). Questions of one document share one; one that names none is by itself."""
    names = [(item.question.documents or [item.question.question])[0] for item in judged]
    order = np.random.RandomState(0).permutation(sorted(set(names)))
    fold_of = {name: number % _FOLDS for number, name in enumerate(order)}
    return np.array([fold_of[name] for name in names])


def _not_compared(table: Table) -> Table:
    blind = table.copy()
    blind[:, [FEATURES.index(name) for name in ("not_compared", *MEANING_FEATURES)]] = 0.0
    return blind


def _held_out(
    judged: Sequence[Judged], folds: NDArray[np.intp], sides: Sequence[str]
) -> tuple[Table, Table, dict[str, Any]]:
    """(how sure of each question's answer, whether it is right, parameters fitted on all)."""
    sure, right = np.zeros(len(judged)), np.zeros(len(judged))
    stored: dict[str, Any] = {}
    for name in sides:
        best: list[tuple[list[float], float] | None] = [None] * len(judged)
        for fold in range(_FOLDS):
            weights = fit_side([item for item, own in zip(judged, folds, strict=True) if own != fold], name)
            for at in np.flatnonzero(folds == fold):
                best[at] = best_of(judged[int(at)], name, weights)
        known = np.array([at for at, one in enumerate(best) if one is not None], dtype=np.intp)
        signals = np.array([one[0] for one in best if one is not None])
        truth = np.array([one[1] for one in best if one is not None])
        for fold in range(_FOLDS):
            held = folds[known] == fold
            if held.any():
                told = probabilities(signals[held], fit_logistic(signals[~held], truth[~held]))
                surer = told > sure[known[held]]
                sure[known[held][surer]], right[known[held][surer]] = told[surer], truth[held][surer]
        stored[name] = {
            "ranking": _named(FEATURES, fit_side(judged, name)),
            "confidence": _named(("bias", *CONFIDENCE_FEATURES), fit_logistic(signals, truth)),
        }
    return sure, right, stored


def figures_of(judged: Sequence[Judged], sure: Table, right: Table) -> dict[str, Any]:
    """Shares at several bounds of refusal, and the calibration error (ten bins)."""
    unanswerable = np.array([item.question.unanswerable for item in judged])
    across = np.array([item.across for item in judged]) & ~unanswerable
    same = ~unanswerable & ~across
    some = np.array([bool(item.right.any()) for item in judged])
    return {
        "n": {
            "same_language": int(same.sum()),
            "other_language": int(across.sum()),
            "unanswerable": int(unanswerable.sum()),
        },
        "some_candidate_right": _share(some, same),
        "calibration_error": round(calibration_error(sure, right), 4),
        "refusing_below": {
            str(cut): {
                "right": _share((sure >= cut) & (right > 0), same),
                "refused_wrongly": _share(sure < cut, same),
                "right_other_language": _share((sure >= cut) & (right > 0), across),
                "refused_rightly": _share(sure < cut, unanswerable),
            }
            for cut in _CUTS
        },
    }


def _share(what: NDArray[np.bool_], among: NDArray[np.bool_]) -> float | None:
    return round(float(what[among].mean()), 4) if among.any() else None


def _named(names: Sequence[str], weights: Table) -> Mapping[str, float]:
    return {name: round(float(weight), 4) for name, weight in zip(names, weights, strict=True) if abs(weight) > 1e-4}


def fit_for_tenant(judged: Sequence[Judged]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters in their stored form, figures by language) for a tenant's own questions.

    How sure an answer is, is read anew from the shipped confidence: two numbers a side, so that a few dozen questions
    are enough. The ranking is fitted anew where there are hundreds, and taken only if it is right more often on
    questions held out.

    Raises:
        InvalidInput: `too_few_questions`.
    """
    unanswerable = sum(item.question.unanswerable for item in judged)
    if len(judged) - unanswerable < _FEWEST_ANSWERABLE or unanswerable < _FEWEST_UNANSWERABLE:
        raise InvalidInput(
            f"at least {_FEWEST_ANSWERABLE} answerable and {_FEWEST_UNANSWERABLE} unanswerable questions that find"
            f" something are needed, not {len(judged) - unanswerable} and {unanswerable}",
            code="too_few_questions",
        )
    shipped, folds = shipped_parameters(), folds_of(judged)
    stored = shipped.to_json()
    compared = any(item.table[:, FEATURES.index("similar")].any() for item in judged)
    before, sure, right = np.zeros(len(judged)), np.zeros(len(judged)), np.zeros(len(judged))
    for name in _SIDES if compared else (_UNCOMPARED,):
        weights: Weights = getattr(shipped, name)
        ranking = np.array([weights.ranking.get(feature, 0.0) for feature in FEATURES])
        best = [best_of(item, name, ranking) for item in judged]
        known = np.array([at for at, one in enumerate(best) if one is not None], dtype=np.intp)
        if not len(known):
            continue
        truth = np.array([one[1] for one in best if one is not None])
        odds = np.array([[_log_odds(_confidence(weights, one[0]))] for one in best if one is not None])
        told = np.zeros(len(known))
        for fold in range(_FOLDS):
            held = folds[known] == fold
            if held.any():
                told[held] = probabilities(odds[held], np.array(_scaled(odds[~held], truth[~held])))
        surer = told > sure[known]
        sure[known[surer]], right[known[surer]] = told[surer], truth[surer]
        before[known] = np.maximum(before[known], 1 / (1 + np.exp(-odds[:, 0])))
        shift, scale = _scaled(odds, truth)
        stored[name]["confidence"] = {
            feature: round(weight * scale + (shift if feature == "bias" else 0.0), 5)
            for feature, weight in {"bias": 0.0, **weights.confidence}.items()
        }
    ranked = {"shipped": int(right.sum())}
    if len(judged) - unanswerable >= _ENOUGH_FOR_RANKING and compared:
        own_sure, own_right, own = _held_out(judged, folds, _SIDES)
        ranked["own"] = int(own_right.sum())
        if ranked["own"] > ranked["shipped"]:
            sure, right = own_sure, own_right
            stored |= own
    figures: dict[str, Any] = {"right_by_ranking": ranked}
    for language in sorted({item.question.language for item in judged}):
        places = [at for at, item in enumerate(judged) if item.question.language == language]
        figures[language] = _told_of(places, judged, before, sure, right)
    return stored, figures


def _confidence(weights: Weights, signals: Sequence[float]) -> float:
    return weights.confidence_of(dict(zip(CONFIDENCE_FEATURES, signals, strict=True)))


@dataclass(frozen=True, slots=True)
class EvidenceReport:
    """What was fitted, and stored under an id."""

    calibration_id: str
    parameters: dict[str, Any]
    figures: dict[str, Any]


def calibrate_evidence(
    db: Database, search: Search, principal: Principal, questions: Sequence[Question], *, today: date
) -> EvidenceReport:
    """Fit the evidence stage to questions of the caller's tenant, and store what serves from the next answer on.

    Raises:
        InvalidInput: `too_few_questions`.
    """
    asked = (judge_candidates(question, search, principal, today) for question in questions)
    parameters, figures = fit_for_tenant([item for item in asked if item is not None])
    row = EvidenceCalibration(tenant_id=principal.tenant_id, parameters=parameters, figures=figures)
    with db.write() as session:
        session.add(row)
        session.flush()
        audit.record(
            session,
            action="evidence.calibrate",
            actor=principal.key_id,
            tenant_id=principal.tenant_id,
            object_id=row.id,
            detail={"questions": len(questions)},
        )
        return EvidenceReport(row.id, parameters, figures)


def _scaled(odds: Table, truth: Table) -> tuple[float, float]:
    """(shift, scale) of log-odds; what is surer stays surer."""
    shift, scale = fit_logistic(odds, truth, ridge=0.5)
    return float(shift), max(float(scale), 0.1)


def _log_odds(probability: float) -> float:
    bounded = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(bounded / (1 - bounded))


def _told_of(
    places: Sequence[int], judged: Sequence[Judged], before: Table, sure: Table, right: Table
) -> dict[str, float | int]:
    """Figures over some questions, held out."""
    at = np.array(places, dtype=np.intp)
    answerable = np.array([not judged[place].question.unanswerable for place in places])
    refused = sure[at] < shipped_parameters().refuse
    return {
        "questions": len(places),
        "right_at_first": round(float(right[at][answerable].mean()), 4) if answerable.any() else 0.0,
        "right": round(float((right[at] > 0)[answerable & ~refused].sum() / max(answerable.sum(), 1)), 4),
        "refused_wrongly": round(float(refused[answerable].mean()), 4) if answerable.any() else 0.0,
        "refused_rightly": round(float(refused[~answerable].mean()), 4) if (~answerable).any() else 0.0,
        "calibration_error_shipped": round(calibration_error(before[at], right[at]), 4),
        "calibration_error": round(calibration_error(sure[at], right[at]), 4),
    }
