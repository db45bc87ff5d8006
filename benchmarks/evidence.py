"""Fits and measures the evidence stage over a folder of office files: ranking, confidence and what refusing costs.

    python -m benchmarks.evidence --data DIR [--limit N] [--json FILE] [--parameters FILE]

DIR as for `benchmarks.office`. Files go through the real ingest; every candidate that the passages found make is judged
against what is expected, with no model. Weights are fitted on the questions of four fifths of the documents and tried
on the rest, five times. --parameters writes those fitted on all, in the form of `generation/evidence/parameters.json`;
what hearing the model adds is taken over from the shipped ones. ZIP archives are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence_fit import calibration_error, fit_logistic, fit_ranking, probabilities
from benchmarks.ingested import open_ingested
from benchmarks.office import find_data
from core.errors import TsumugiError
from core.log import configure
from generation.evaluation.matching import judge
from generation.evaluation.questions import Question, chosen, parse_questions, read_questions
from generation.evidence.meaning import MEANING_FEATURES
from generation.evidence.parameters import CONFIDENCE_FEATURES, SHIPPED, shipped_parameters
from generation.evidence.pool import Pool, pool_of
from generation.evidence.ranking import FEATURES, SPEAKS_AGAINST, SPEAKS_NEITHER, features
from generation.evidence.stage import EVIDENCE_PASSAGES, answer_of, signals_of
from ingest.upload import Upload

_FOLDS = 5
_SIDES = ("own", "foreign")
_UNCOMPARED = "uncompared"
"""All candidates, their meanings not compared: what serves where there is no multilingual arm."""
_CUTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)

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


def read_folder(folder: Path, limit: int | None) -> list[Judged]:
    """Ingest the files and judge every candidate of every question."""
    questions = chosen(parse_questions(read_questions(folder / "questions.jsonl")[0]), limit=limit)
    today = datetime.now(UTC).date()
    judged = []
    with open_ingested() as service:
        for file in sorted((folder / "documents").iterdir()):
            try:
                if file.suffix.lower() != ".zip":
                    service.add([Upload(file.name, file.read_bytes())])
            except TsumugiError as error:
                print(f"not read: {file.name}: {error.code}")
        for question in questions:
            found = service.retrieval.searcher.search(question.question, service.access, EVIDENCE_PASSAGES)
            pool = pool_of(question.question, found.passages, today, found.siblings, found.bridge)
            if pool.candidates:
                judged.append(Judged(question, pool, features(pool), _right(question, pool)))
    return judged


def _right(question: Question, pool: Pool) -> Table:
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
    names = sorted({(item.question.documents or [""])[0] for item in judged})
    fold_of = {name: number % _FOLDS for number, name in enumerate(np.random.RandomState(0).permutation(names))}
    folds = np.array([fold_of[(item.question.documents or [""])[0]] for item in judged])
    sure, right, stored = _held_out(judged, folds, _SIDES)
    blind = [replace(item, table=_not_compared(item.table)) for item in judged]
    blind_sure, blind_right, blind_stored = _held_out(blind, folds, (_UNCOMPARED,))
    figures = {**figures_of(judged, sure, right), _UNCOMPARED: figures_of(blind, blind_sure, blind_right)}
    return figures, stored | blind_stored


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


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with documents/ and questions.jsonl")
    parser.add_argument("--limit", type=int, help="ask at most so many questions, spread over the file")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--parameters", type=Path, help="write the fitted parameters here")
    arguments = parser.parse_args()
    configure("ERROR")
    folder = find_data(arguments.data)
    if folder is None:
        return 0
    figures, stored = measure(read_folder(folder, arguments.limit))
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if arguments.parameters:
        shipped = shipped_parameters()
        stored |= {"heard": dict(shipped.heard), "hopeless": shipped.hopeless}
        stored |= {"refuse": shipped.refuse, "verify": shipped.verify}
        arguments.parameters.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {arguments.parameters}; the shipped ones are generation/evidence/{SHIPPED}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
