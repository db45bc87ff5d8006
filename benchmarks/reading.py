"""Reading: exact match, F1, citations and refusals of whole answers, over the top three of our own retrieval.

    python -m benchmarks.reading --data FILE_OR_FOLDER [--limit N] [--json FILE] [--models FOLDER] [--log FILE]

Paragraphs of SQuAD-shaped files are ingested as documents and questions asked through the service that answers users,
with the calibrated refusal and the real engine. The right passages of a question are those of its paragraph that hold
one of its answers; a paragraph cut into several passages may put another part of itself among the three.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any, TextIO

from benchmarks.ingested import Ingested, open_ingested
from benchmarks.reading_scores import Reply, squeeze, summarise
from benchmarks.squad import SquadParagraph, load_paragraphs, split_languages
from core.log import configure
from core.ports import Embedder, Engine
from core.settings import Settings, load_settings
from core.types import Language, Passage
from generation.adapters.routing import Router
from generation.answer import AnswerRecord, AnswerService, AskOptions, Stamp
from generation.build import build_base, build_engine
from ingest.upload import Upload
from retrieval.embedders.minilm import MiniLmEmbedder

_LANGUAGES = {"english": Language.ENGLISH, "japanese": Language.JAPANESE}
_TOGETHER = 16
"""Questions in flight: two batches of the engine, so that none waits for the slowest of the other."""
_MAX_TOKENS = 96
_SEED = 17


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its right answers and the number of its paragraph; no answers means none is right."""

    text: str
    answers: tuple[str, ...]
    paragraph: int


def measure(
    paragraphs: Sequence[SquadParagraph],
    language: Language,
    *,
    limit: int | None,
    settings: Settings,
    engine: Engine,
    embedder: Embedder,
    log: TextIO | None = None,
) -> dict[str, Any]:
    """Figures of one language over its paragraphs; `limit` asks a seeded sample of that many questions."""
    asked = [Asked(q.question, q.answers, at) for at, p in enumerate(paragraphs) for q in p.questions]
    if limit is not None and limit < len(asked):
        asked = Random(_SEED).sample(asked, limit)
    with open_ingested(embedder=embedder) as service:
        # One file name for all: a name would help, and users' files do not tell their content by it.
        documents = service.add([Upload("passage.txt", paragraph.text.encode()) for paragraph in paragraphs])
        began = perf_counter()
        replies = []
        for question, record in _ask_all(asked, service, settings, engine):
            gold = right_passages(record.passages, documents[question.paragraph], question.answers)
            reply = Reply.of(language, record.answer, question.answers, gold)
            replies.append(reply)
            if log is not None:
                line = {"question": question.text, "answers": question.answers, "gold": sorted(gold)}
                log.write(json.dumps({**line, "answer": record.answer, "why": record.refusal_reason}) + "\n")
        return {**summarise(replies), "paragraphs": len(paragraphs), "seconds": round(perf_counter() - began, 1)}


def _ask_all(
    asked: Sequence[Asked], service: Ingested, settings: Settings, engine: Engine
) -> Iterator[tuple[Asked, AnswerRecord]]:
    retrieval = service.retrieval
    stamp = Stamp(index_version=retrieval.index_version, embedder=retrieval.embedder.name)
    router = Router(service.db, settings)
    answers = AnswerService(service.db, retrieval.searcher, engine, router, settings, stamp=stamp)
    options = AskOptions(adapter="base", max_tokens=_MAX_TOKENS, temperature=0.0)
    for start in range(0, len(asked), _TOGETHER):
        part = asked[start : start + _TOGETHER]
        streams = [answers.ask(service.principal, question.text, options) for question in part]
        for question, stream in zip(part, streams, strict=True):
            yield question, stream.final()


def right_passages(passages: Sequence[Passage], document_id: str, answers: Sequence[str]) -> frozenset[int]:
    """Numbers, from 1, of the passages of a document that hold one of the answers, white space aside."""
    wanted = [squeeze(answer) for answer in answers]
    return frozenset(
        number
        for number, passage in enumerate(passages, start=1)
        if passage.document_id == document_id and any(answer in squeeze(passage.text) for answer in wanted)
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="SQuAD-shaped file, or a folder of them")
    parser.add_argument("--limit", type=int, help="questions a language, a seeded sample of all")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--models", type=Path, help="data dir that keeps the prepared model between runs")
    parser.add_argument("--log", type=Path, help="write every question and answer here, as JSON lines")
    arguments = parser.parse_args()
    configure("WARNING")
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as folder:
        settings = load_settings(data_dir=arguments.models or Path(folder))
        engine = build_engine(settings, build_base(settings))
        embedder = MiniLmEmbedder()
        log = arguments.log.open("w", encoding="utf-8") if arguments.log else None
        try:
            figures = {
                name: measure(
                    paragraphs,
                    _LANGUAGES[name],
                    limit=arguments.limit,
                    settings=settings,
                    engine=engine,
                    embedder=embedder,
                    log=log,
                )
                for name, paragraphs in split_languages(load_paragraphs(arguments.data)).items()
            }
        finally:
            engine.close()
            if log is not None:
                log.close()
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
