"""Recall of retrieval alone, through the real ingest and the real index.

    python -m benchmarks.retrieval --data FILE_OR_FOLDER [--limit N] [--sample N --seed S] [--mixed] [--json FILE]

A SQuAD-shaped file goes in as one document per paragraph; a paragraph that is cut into several passages counts once,
at the rank of its best one. A question is right at k when the paragraph it was asked on is among the first k. Each
language is ingested into a data dir of its own; `--mixed` also asks the same questions of one index with all languages
in it. `arms` says what each arm finds alone.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.ingested import Ingested, open_ingested
from benchmarks.squad import SquadParagraph, load_paragraphs, split_languages
from core.log import configure
from core.ports import Embedder
from ingest.upload import Upload
from retrieval.embedders.minilm import MiniLmEmbedder

CUTOFFS = (1, 3, 5, 10)
_DEPTH = 30
"""Passages looked at, so that ten paragraphs are among them although some have two passages."""


def measure(
    languages: dict[str, list[SquadParagraph]], *, limit: int | None, embedder: Embedder
) -> dict[str, dict[str, Any]]:
    """Figures by language, over one index of all their paragraphs; `limit` asks that many of each, evenly spread."""
    figures = {}
    with open_ingested(embedder=embedder) as service:
        began = perf_counter()
        documents = {
            # One file name for all: a name would help, and users' files do not tell their content by it.
            language: service.add([Upload("passage.txt", paragraph.text.encode()) for paragraph in paragraphs])
            for language, paragraphs in languages.items()
        }
        ingest_s = perf_counter() - began
        for language, paragraphs in languages.items():
            asked = [
                (q.question, document)
                for document, p in zip(documents[language], paragraphs, strict=True)
                for q in p.questions
                if q.answers
            ]
            if limit is not None and limit < len(asked):
                asked = [asked[i * len(asked) // limit] for i in range(limit)]
            figures[language] = _ask(service, asked) | {
                "paragraphs": len(paragraphs),
                "passages": service.retrieval.index.count(),
                "ingest_s": round(ingest_s, 1),
            }
    return figures


def _ask(service: Ingested, asked: list[tuple[str, str]]) -> dict[str, Any]:
    ranks: dict[str, list[int]] = {"fused": [], "dense": [], "sparse": []}
    search_ms: list[float] = []
    for question, gold in asked:
        result = service.retrieval.searcher.search(question, service.access, _DEPTH)
        search_ms.append(result.timings_ms["total"])
        ranks["fused"].append(rank_of(gold, (passage.document_id for passage in result.passages)))
        for arm, found in _arms(service, question).items():
            ranks[arm].append(rank_of(gold, found))
    return {
        **recall(ranks["fused"]),
        "n": len(asked),
        "arms": {arm: recall(ranks[arm]) for arm in ("dense", "sparse")},
        "search_ms_median": round(sorted(search_ms)[len(search_ms) // 2], 2),
    }


def rank_of(gold: str, documents: Iterable[str]) -> int:
    """Rank from 1 of `gold` among distinct documents in order; a large number when it is absent."""
    for rank, document in enumerate(dict.fromkeys(documents), start=1):
        if document == gold:
            return rank
    return sys.maxsize


def recall(ranks: list[int]) -> dict[str, float]:
    """Share of ranks within each cutoff."""
    return {f"recall_at_{k}": round(sum(rank <= k for rank in ranks) / len(ranks), 4) for k in CUTOFFS}


def _arms(service: Ingested, question: str) -> dict[str, list[str]]:
    retrieval, access = service.retrieval, service.access
    dense = retrieval.index.search_dense(retrieval.embedder.encode_query(question).tolist(), access, _DEPTH)
    sparse = retrieval.index.search_sparse(retrieval.lexical.encode_query(question), access, _DEPTH)
    return {"dense": [p.document_id for p in dense], "sparse": [p.document_id for p in sparse]}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="SQuAD-shaped file, or a folder of them")
    parser.add_argument("--limit", type=int, help="questions a language")
    parser.add_argument("--articles", help="only the articles FROM:TO of each language, counted from 0")
    parser.add_argument("--sample", type=int, help="only so many articles of each language, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0, help="of --sample")
    parser.add_argument("--mixed", action="store_true", help="measure both languages in one index as well")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    configure("WARNING")
    embedder = MiniLmEmbedder()
    figures: dict[str, Any] = {}
    languages = split_languages(load_paragraphs(arguments.data))
    for language, paragraphs in languages.items():
        articles = list(dict.fromkeys(p.article for p in paragraphs))
        if arguments.articles:
            first, last = (int(number) for number in arguments.articles.split(":"))
            articles = articles[first:last]
        if arguments.sample:
            articles = random.Random(arguments.seed).sample(articles, min(arguments.sample, len(articles)))
        languages[language] = [p for p in paragraphs if p.article in set(articles)]
    for language, paragraphs in languages.items():
        figures |= measure({language: paragraphs}, limit=arguments.limit, embedder=embedder)
    if arguments.mixed and len(languages) > 1:
        mixed = measure(languages, limit=arguments.limit, embedder=embedder)
        for language, apart in ((name, figures[name]) for name in languages):
            mixed[language]["loss_at_5"] = round(apart["recall_at_5"] - mixed[language]["recall_at_5"], 4)
        figures["mixed"] = mixed
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
