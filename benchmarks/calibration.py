"""Fits the relevance model that is shipped, and says how well it refuses.

    python -m benchmarks.calibration --fit FOLDER_OR_FILE... [--test FOLDER_OR_FILE...] [--write FILE] [--json FILE]

Each question is asked of small collections: ten passages with the one that answers it among them, ten of other articles
only, a hundred of other articles, and the whole set without its article. Ten is the hard case for statistics and the
usual one for a new user; a relevance that holds there may not lean on the collection.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.squad import SquadParagraph, load_paragraphs, split_languages
from core.types import Language
from retrieval.calibrate import fit_weights
from retrieval.coverage import coverage_of
from retrieval.embedders.minilm import MiniLmEmbedder
from retrieval.lexical import query_terms, tokenize
from retrieval.relevance import features, parse_model

LANGUAGES = {"english": Language.ENGLISH, "japanese": Language.JAPANESE}
OFF_TOPIC_REFUSED = 0.92
"""The shipped threshold is the lowest that refuses so many off-topic questions in a collection of ten.

Lower than wrong refusals would force it to be: questions of these sets repeat the words of their passage more than
users' questions do, and what passes still meets a generator that can say that it found nothing.
"""
COLLECTIONS = ("ten_others", "hundred_others", "all_others", "paragraph_removed")
_CONSIDERED = 12
"""Passages per collection whose relevance is looked at, those with most of the query first."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Feature rows of one question: of its own passage, and of the best passages of collections without it."""

    gold: tuple[float, ...]
    others: dict[str, list[tuple[float, ...]]]


def ask(paragraphs: list[SquadParagraph], language: Language, n: int, seed: int) -> list[Asked]:
    """Features of `n` random answerable questions against their own passage and against others."""
    rng = random.Random(seed)
    asked = [(q.question, at) for at, p in enumerate(paragraphs) for q in p.questions if q.answers]
    asked = rng.sample(asked, min(n, len(asked)))
    texts = [paragraph.text for paragraph in paragraphs]
    terms = [frozenset(tokenize(text)) for text in texts]
    cosines: NDArray[np.float32] | None = None
    if language is Language.ENGLISH:
        embedder = MiniLmEmbedder()
        cosines = embedder.encode_passages([question for question, _ in asked]) @ embedder.encode_passages(texts).T
    rows = []
    for i, (question, gold) in enumerate(asked):
        wanted = frozenset(query_terms(question))

        def row(at: int, wanted: frozenset[str] = wanted, i: int = i) -> tuple[float, ...]:
            cosine = None if cosines is None else float(cosines[i, at])
            return features(cosine, coverage_of(wanted, terms[at]))

        strangers = [at for at, p in enumerate(paragraphs) if p.article != paragraphs[gold].article]
        pools = {
            "ten_others": rng.sample(strangers, 10),
            "hundred_others": rng.sample(strangers, min(100, len(strangers))),
            "all_others": rng.sample(strangers, min(430, len(strangers))),
            "paragraph_removed": [
                at for at, p in enumerate(paragraphs) if p.article == paragraphs[gold].article and at != gold
            ],
        }
        others = {
            name: sorted((row(at) for at in pool), key=sum, reverse=True)[:_CONSIDERED] for name, pool in pools.items()
        }
        rows.append(Asked(row(gold), others))
    return rows


def fit(rows: Sequence[Asked]) -> dict[str, Any]:
    """Weights from a question's own passage against the two best strangers of each collection; then the threshold."""
    relevant = np.array([item.gold for item in rows])
    strangers = ("ten_others", "hundred_others", "all_others")
    irrelevant = np.array([other for item in rows for name in strangers for other in item.others[name][:2]])
    entry: dict[str, Any] = {"weights": fit_weights(relevant, irrelevant), "threshold": 0.0}
    entry["threshold"] = round(float(np.quantile(_relevances(rows, entry, "ten_others"), OFF_TOPIC_REFUSED)), 5)
    return entry


def measure(rows: Sequence[Asked], entry: dict[str, Any]) -> dict[str, Any]:
    """Wrong refusals with the answering passage in the collection, right ones in each collection without it."""
    threshold = entry["threshold"]

    def share(values: list[float]) -> float:
        return round(float(np.mean([value < threshold for value in values])), 4)

    return {
        "n": len(rows),
        "refusal_wrong": share(_relevances(rows, entry, None)),
        "refusal_right": {name: share(_relevances(rows, entry, name)) for name in COLLECTIONS},
    }


def _relevances(rows: Sequence[Asked], entry: dict[str, Any], collection: str | None) -> list[float]:
    names = list(entry["weights"])
    weights = np.array([entry["weights"][name] for name in names])
    best: list[float] = []
    for item in rows:
        considered = [item.gold] if collection is None else item.others[collection]
        best.append(max((1 / (1 + math.exp(-float(np.array(x) @ weights))) for x in considered), default=0.0))
    return best


def _load(paths: Sequence[Path]) -> dict[str, list[SquadParagraph]]:
    return split_languages([paragraph for path in paths for paragraph in load_paragraphs(path)])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, nargs="+", required=True, help="SQuAD-shaped files to fit on")
    parser.add_argument("--test", type=Path, nargs="*", default=[], help="others to measure on")
    parser.add_argument("--limit", type=int, default=1200, help="questions a language and set")
    parser.add_argument("--max-paragraphs", type=int, default=1200, help="paragraphs a language and set")
    parser.add_argument("--write", type=Path, help="write the calibration here")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    parameters: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    for name, paragraphs in _load(arguments.fit).items():
        language = LANGUAGES[name]
        rows = ask(paragraphs[: arguments.max_paragraphs], language, arguments.limit, seed=1)
        parameters[language.value] = fit(rows)
        figures[name] = {"fit": measure(rows, parameters[language.value])}
    for name, paragraphs in _load(arguments.test).items() if arguments.test else ():
        language = LANGUAGES[name]
        rows = ask(paragraphs[: arguments.max_paragraphs], language, arguments.limit, seed=2)
        figures[name]["test"] = measure(rows, parameters[language.value])
    parse_model(parameters)
    card = {
        "made_by": "python -m benchmarks.calibration",
        "how": "question against its own paragraph, and against paragraphs of other articles, in collections of 10,"
        " 100 and 430; threshold: the lowest that refuses the share below of off-topic questions in collections of 10",
        "fitted_on": sorted(path.name for path in arguments.fit),
        "tested_on": sorted(path.name for path in arguments.test),
        "off_topic_refused": OFF_TOPIC_REFUSED,
        "parameters": parameters,
        "figures": figures,
    }
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    print(text)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
