"""Calibration: fits how relevance is read from a search, and where refusing begins, on questions with known verdicts.

Two uses of one method. `calibrate` tunes the threshold of a running index on its owner's questions, some of which the
documents do not answer. `fit_weights` and `choose_threshold` also made the shipped file, from thousands of questions on
passages that were put into the collection or left out of it (`python -m benchmarks.calibration`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.database import Database
from core.errors import FieldError, InvalidInput
from core.tables.operations import Calibration
from core.types import AccessFilter, Language
from retrieval.choose_fusion import Judged, choose_fusion
from retrieval.live import Retrieval
from retrieval.relevance import FEATURES, load_parameters, parse_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_WRONG_REFUSAL = 0.02
"""Share of answerable questions that may be refused, unless the caller says otherwise."""
_PASSAGES = 3
_MIN_ANSWERABLE = 8
_MIN_UNANSWERABLE = 2
_RIDGE = 1e-2


@dataclass(frozen=True, slots=True)
class CalibrationQuestion:
    """A question and whether the collection's documents answer it."""

    question: str
    answerable: bool
    documents: frozenset[str] = frozenset()
    """Ids or file names of the documents that answer it, where they are known: fusion is chosen by them."""


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What was measured and stored."""

    calibration_id: str
    parameters: dict[str, Any]
    figures: dict[str, Any]


def read_questions(path: Path) -> list[CalibrationQuestion]:
    """Questions from JSONL: one {"question": str, "answerable": bool} a line, other fields ignored.

    Raises:
        InvalidInput: a line is not such an object; `errors` names each.
    """
    questions: list[CalibrationQuestion] = []
    errors: list[FieldError] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            errors.append(FieldError(f"line {number}", f"not JSON: {error.msg}"))
            continue
        question, answerable = (row.get("question"), row.get("answerable")) if isinstance(row, dict) else (None, None)
        if isinstance(question, str) and question.strip() and isinstance(answerable, bool):
            questions.append(CalibrationQuestion(question, answerable, _documents(row)))
        else:
            errors.append(FieldError(f"line {number}", 'needs "question" (text) and "answerable" (true or false)'))
    if errors or not questions:
        raise InvalidInput(f"{path.name} holds no usable question set", errors=errors)
    return questions


def calibrate(
    db: Database,
    retrieval: Retrieval,
    access: AccessFilter,
    questions: Sequence[CalibrationQuestion],
    *,
    max_wrong_refusal: float = MAX_WRONG_REFUSAL,
) -> CalibrationReport:
    """Choose refusal threshold and fusion of each language on `questions`, store them and put them in force.

    The weights in force stay: a few dozen questions can place a threshold, not weigh features. A language with fewer
    than 8 answerable or 2 unanswerable questions keeps its threshold, one with fewer than 20 questions whose document
    is known keeps its fusion, and the figures say so. Fusion is chosen first: the threshold is one of its results.
    """
    parameters = load_parameters(db, retrieval.index_version)
    fused = _choose_fusions(db, retrieval, access, questions, parameters)
    measured: dict[Language, tuple[list[float], list[float]]] = {}
    for item in questions:
        result = retrieval.searcher.search(item.question, access, _PASSAGES)
        language = Language.JAPANESE if result.language is Language.JAPANESE else Language.ENGLISH
        answerable, unanswerable = measured.setdefault(language, ([], []))
        (answerable if item.answerable else unanswerable).append(result.best_relevance)
    figures: dict[str, Any] = {"max_wrong_refusal": max_wrong_refusal}
    for language, (answerable, unanswerable) in measured.items():
        enough = len(answerable) >= _MIN_ANSWERABLE and len(unanswerable) >= _MIN_UNANSWERABLE
        if enough:
            threshold = choose_threshold(answerable, unanswerable, max_wrong_refusal)
            parameters[language.value] = parameters[language.value] | {"threshold": threshold}
        threshold = float(parameters[language.value]["threshold"])
        figures[language.value] = {
            "chosen": enough,
            **refusal_figures(answerable, unanswerable, threshold),
            **fused.get(language, {}),
        }
    row = Calibration(index_version=retrieval.index_version, parameters=parameters, figures=figures)
    with db.write() as session:
        session.add(row)
    retrieval.searcher.use_relevance(parse_model(parameters))
    return CalibrationReport(row.id, parameters, figures)


def _choose_fusions(
    db: Database,
    retrieval: Retrieval,
    access: AccessFilter,
    questions: Sequence[CalibrationQuestion],
    parameters: dict[str, Any],
) -> dict[Language, dict[str, Any]]:
    """Put the fusion of each language into `parameters` and in force; figures by language."""
    searcher = retrieval.active.searcher
    judged: dict[Language, list[Judged]] = {}
    for item in questions:
        if item.answerable and item.documents:
            candidates = searcher.candidates(item.question, access)
            language = Language.JAPANESE if candidates.language is Language.JAPANESE else Language.ENGLISH
            judged.setdefault(language, []).append(Judged(candidates, item.documents))
    figures = {}
    for language, asked in judged.items():
        fusion, figures[language] = choose_fusion(asked)
        if fusion is not None:
            chosen = {"method": fusion.method.value, "dense_weight": fusion.dense_weight}
            parameters[language.value] = parameters[language.value] | {"fusion": chosen}
    searcher.use_relevance(parse_model(parameters))
    return figures


def _documents(row: dict[str, Any]) -> frozenset[str]:
    named = row.get("document")
    names = named if isinstance(named, list) else [named]
    return frozenset(name for name in names if isinstance(name, str) and name)


def choose_threshold(answerable: Sequence[float], unanswerable: Sequence[float], max_wrong_refusal: float) -> float:
    """Threshold that refuses as many unanswerable questions as it may; relevance below it is refused.

    At most `max_wrong_refusal` of the answerable ones fall below. Between the best refused unanswerable question and
    the worst kept answerable one every threshold does the same here; the geometric middle leaves room on both sides.
    """
    kept = sorted(answerable)[int(max_wrong_refusal * len(answerable)) :]
    worst_kept = kept[0]
    refused = [value for value in unanswerable if value < worst_kept]
    if not refused:
        return round(worst_kept / 2, 6)
    return round(math.sqrt(max(*refused, 1e-6) * worst_kept), 6)


def refusal_figures(answerable: Sequence[float], unanswerable: Sequence[float], threshold: float) -> dict[str, Any]:
    """Shares refused among answerable (wrong) and unanswerable (right) questions; None where there is no question."""

    def share(values: Sequence[float]) -> float | None:
        return round(sum(value < threshold for value in values) / len(values), 4) if values else None

    return {
        "threshold": threshold,
        "n_answerable": len(answerable),
        "n_unanswerable": len(unanswerable),
        "refusal_wrong": share(answerable),
        "refusal_right": share(unanswerable),
    }


def fit_weights(relevant: NDArray[np.float64], irrelevant: NDArray[np.float64]) -> dict[str, float]:
    """Logistic regression by Newton's method on rows in the order of FEATURES, the two classes weighing the same.

    A small ridge on all but the bias keeps features that are always equal (English: content, characters) apart from
    infinity: they share their weight. Columns that are always 0 get exactly 0.
    """
    import numpy as np

    rows = np.concatenate([relevant, irrelevant])
    truth = np.concatenate([np.ones(len(relevant)), np.zeros(len(irrelevant))])
    balance = np.where(truth == 1, 0.5 / len(relevant), 0.5 / len(irrelevant)) * len(rows)
    ridge = np.diag([0.0, *([_RIDGE * len(rows) / 100] * (len(FEATURES) - 1))])
    weights = np.zeros(rows.shape[1])
    for _ in range(50):
        predicted = 1 / (1 + np.exp(-np.clip(rows @ weights, -60, 60)))
        gradient = rows.T @ (balance * (predicted - truth)) + ridge @ weights
        hessian = (rows * (balance * predicted * (1 - predicted))[:, None]).T @ rows + ridge
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if float(np.abs(step).max()) < 1e-9:
            break
    return {name: round(float(weight), 4) for name, weight in zip(FEATURES, weights, strict=True)}
