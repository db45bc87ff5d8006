"""Lookups in tables, three ways: the row read by the model, the cell handed to it, the cell answered directly.

    python -m benchmarks.lookups --data DIR [--limit N] [--models DATA_DIR] [--json FILE]

DIR as for `benchmarks.office`; its questions about rows, matrices, merged tables, conditions, numbers, forms and error
codes, where the best line stands in a row. All three are given the same best line; its ranking is fitted on the
questions of other documents (five folds). `either` is what serves: the cell, unless the model's words are those of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence import ingest_folder
from benchmarks.ingested import Ingested, open_ingested
from benchmarks.office import find_data
from core.access import access_filter
from core.log import configure
from core.ports import Engine
from core.settings import load_settings
from core.types import GenerationRequest, Passage
from generation.build import build_base, build_engine
from generation.evaluation.evidence import Judged, fit_side, folds_of, judge_candidates
from generation.evaluation.matching import judge
from generation.evaluation.questions import Question, chosen, parse_questions, read_questions
from generation.evidence.parameters import EvidenceParameters, Weights, shipped_parameters
from generation.evidence.ranking import FEATURES
from generation.evidence.stage import EVIDENCE_PASSAGES, Line, gather
from generation.prompt import PromptPassage, is_not_found, render_grounded

KINDS = (
    "table_row", "table_matrix", "table_merged", "table_condition", "number_unit", "form_field", "error_code",
)  # fmt: skip
METHODS = ("row, model", "cell, model", "cell")
"""The whole row in the prompt; the best line in the prompt; the best line as the answer."""
_ROWS = frozenset({"row", "cell"})


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with documents/ and questions.jsonl")
    parser.add_argument("--limit", type=int, help="ask at most so many questions, spread over the file")
    parser.add_argument("--models", type=Path, help="data dir that keeps the prepared model between runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    configure("ERROR")
    folder = find_data(arguments.data)
    if folder is None:
        return 0
    questions = parse_questions(read_questions(folder / "questions.jsonl")[0])
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as temporary, open_ingested() as service:
        ingest_folder(service, folder)
        settings = load_settings(data_dir=arguments.models or Path(temporary))
        engine = build_engine(settings, build_base(settings))
        try:
            figures = measure(service, engine, questions, limit=arguments.limit)
        finally:
            engine.close()
    print_table(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def measure(
    service: Ingested, engine: Engine, questions: Sequence[Question], *, limit: int | None = None
) -> dict[str, Any]:
    """{kind: {"questions", "in a row", each method}}, and all of them under "all"."""
    today = datetime.now(UTC).date()
    found = (judge_candidates(one, service.retrieval.searcher, service.principal, today) for one in questions)
    judged = [one for one in found if one is not None]
    folds = folds_of(judged)
    asked = chosen([one for one in questions if one.kind in KINDS and not one.unanswerable], limit=limit)
    wanted = {id(one) for one in asked}
    counts: dict[str, Counter[str]] = {}
    for fold in range(int(folds.max()) + 1):
        parameters = fitted([one for one, own in zip(judged, folds, strict=True) if own != fold])
        for one, own in zip(judged, folds, strict=True):
            if own == fold and id(one.question) in wanted:
                _try(service, engine, one.question, parameters, counts)
    return {kind: dict(count) for kind, count in sorted(counts.items())}


def fitted(judged: Sequence[Judged]) -> EvidenceParameters:
    """The shipped parameters with a ranking of other questions."""
    shipped = shipped_parameters()

    def ranking(side: str, weights: Weights) -> Weights:
        fit = fit_side(judged, side)
        return replace(weights, ranking=dict(zip(FEATURES, map(float, np.asarray(fit)), strict=True)))

    return replace(shipped, own=ranking("own", shipped.own), foreign=ranking("foreign", shipped.foreign))


def _try(
    service: Ingested,
    engine: Engine,
    question: Question,
    parameters: EvidenceParameters,
    counts: dict[str, Counter[str]],
) -> None:
    search = service.retrieval.searcher
    found = search.search(question.question, access_filter(service.principal), EVIDENCE_PASSAGES)
    evidence = gather(
        question.question, found.passages, parameters, today=datetime.now(UTC).date(), siblings=found.siblings,
        bridge=found.bridge,
    )  # fmt: skip
    tallies = [counts.setdefault(kind, Counter()) for kind in ("all", question.kind or "")]
    for tally in tallies:
        tally["questions"] += 1
    if not evidence.lines or evidence.lines[0].kind not in _ROWS:
        return
    line = evidence.lines[0]
    said = answers_of(engine, question.question, line)
    right = {
        method: judge(text, question.expected, question.not_expected).right and not is_not_found(text)
        for method, text in said.items()
    }
    for tally in tallies:
        tally["in a row"] += 1
        for method in METHODS:
            tally[method] += right[method]
        tally["any"] += any(right.values())
        tally["model refused"] += is_not_found(said[METHODS[0]])


def answers_of(engine: Engine, question: str, line: Line) -> Mapping[str, str]:
    """What each method answers."""
    row, cell = _whole_row(line.passage), PromptPassage(line.answer)
    return {
        METHODS[0]: _said(engine, question, row),
        METHODS[1]: _said(engine, question, cell),
        METHODS[2]: line.answer,
    }


def _whole_row(passage: Passage) -> PromptPassage:
    return PromptPassage(passage.text, passage.heading or passage.filename)


def _said(engine: Engine, question: str, passage: PromptPassage) -> str:
    request = GenerationRequest(
        messages=render_grounded(question, [passage]), adapter=None, max_tokens=64, temperature=0.0
    )
    handle = engine.submit(request)
    return "".join(handle).strip()


def print_table(figures: Mapping[str, Mapping[str, int]]) -> None:
    """As Markdown."""
    columns = ("questions", "in a row", *METHODS, "any", "model refused")
    print(f"| kind | {' | '.join(columns)} |")
    for kind, count in figures.items():
        print(f"| {kind} | {' | '.join(str(count.get(column, 0)) for column in columns)} |")


if __name__ == "__main__":
    raise SystemExit(main())
