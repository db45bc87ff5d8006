"""Chunker beside two references on questions whose answers are marked as spans of a long text.

    python -m benchmarks.chunking --data FOLDER [--tokens 160] [--passages 5] [--ranking fused] [--json FILE]

FOLDER holds corpora/NAME.md and questions.csv (question, references, corpus_id), as in Chroma's chunking evaluation.
All chunkers get one budget, by the embedder's tokenizer, and one ranking: the best passages of each question by the
product's own retrieval, in an index of that corpus alone. Over code points: recall is the share of the marked spans
that the passages hold; precision the share of the passages that is marked, text in two overlapping passages counted
twice; IoU what both share over all that either holds. Means over questions.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.splitters import recursive_spans, sentence_splitter_spans
from core.log import configure
from core.ports import Embedder
from core.settings import IngestSettings, load_settings
from core.types import AccessFilter, IndexPoint
from ingest.chunk import chunk_document
from ingest.extract.text import extract_text
from ingest.sentences import split_sentences
from retrieval.embedders.minilm import MiniLmEmbedder
from retrieval.fusion import default_fusion, fuse, similarities
from retrieval.index.edge import EdgeIndex
from retrieval.lexical import BigramBm25
from retrieval.text import indexed_text

Span = tuple[int, int]
_ACCESS = AccessFilter("benchmark", None)
_CANDIDATES = 40


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage of a corpus, and the text that stands for it in the index."""

    start: int
    end: int
    indexed: str


@dataclass(frozen=True, slots=True)
class SpanQuestion:
    """A question and the spans of its corpus that answer it."""

    question: str
    spans: tuple[Span, ...]


Chunker = Callable[[str], list[Piece]]


def load_questions(folder: Path) -> dict[str, list[SpanQuestion]]:
    """Questions by corpus.

    Raises:
        ValueError: a reference is not found at its offsets.
    """
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((folder / "corpora").glob("*.md"))}
    questions: dict[str, list[SpanQuestion]] = {name: [] for name in texts}
    with (folder / "questions.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            text = texts[row["corpus_id"]]
            spans = []
            for reference in json.loads(row["references"]):
                start, end = int(reference["start_index"]), int(reference["end_index"])
                if text[start:end] != reference["content"]:
                    raise ValueError(f"'{row['question']}': the reference is not at {start}:{end}")
                spans.append((start, end))
            questions[row["corpus_id"]].append(SpanQuestion(row["question"], tuple(spans)))
    return questions


def chunkers(embedder: Embedder, settings: IngestSettings) -> dict[str, Chunker]:
    """Ours and the references, all with the token budget of `settings`."""
    tokens, overlap = settings.chunk_tokens, settings.chunk_tokens // 5

    def ours(text: str) -> list[Piece]:
        extracted = extract_text(text.encode(), max_chars=len(text) + 1)
        shift = text.index(extracted.text)  # the extractor drops empty lines around the text
        return [
            Piece(shift + chunk.start, shift + chunk.end, indexed_text(None, None, chunk.heading, chunk.text))
            for chunk in chunk_document(extracted, embedder.count_tokens, settings)
        ]

    def reference(spans: Callable[[str], list[Span]]) -> Chunker:
        return lambda text: [Piece(start, end, text[start:end]) for start, end in spans(text)]

    return {
        "tsumugi": ours,
        "SentenceSplitter": reference(lambda text: sentence_splitter_spans(text, embedder, tokens, 0)),
        "SentenceSplitter, overlap": reference(lambda text: sentence_splitter_spans(text, embedder, tokens, overlap)),
        "recursive": reference(lambda text: recursive_spans(text, embedder.count_tokens, tokens, 0)),
        "recursive, overlap": reference(lambda text: recursive_spans(text, embedder.count_tokens, tokens, overlap)),
    }


def measure(
    pieces: Sequence[Piece], questions: Sequence[SpanQuestion], embedder: MiniLmEmbedder, passages: int, ranking: str
) -> dict[str, Any]:
    """Figures of one chunker on one corpus."""
    lexical = BigramBm25()
    scores: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as folder:
        index = EdgeIndex(Path(folder), dim=embedder.dim, sentences=True)
        texts = [piece.indexed for piece in pieces]
        dense_vectors, sentences = embedder.encode_sentences(texts, [split_sentences(text) for text in texts])
        vectors = dense_vectors.tolist()
        ids = {str(uuid.uuid5(uuid.NAMESPACE_OID, str(at))): at for at in range(len(pieces))}
        index.upsert(
            [
                IndexPoint(
                    id=key,
                    tenant_id="benchmark",
                    collection_id="c",
                    document_id="d",
                    generation=1,
                    ordinal=at,
                    groups=("*",),
                    dense=tuple(vectors[at]),
                    sparse=lexical.encode_passage(piece.indexed),
                    sentences=tuple(map(tuple, sentences[at].tolist())),
                )
                for (key, at), piece in zip(ids.items(), pieces, strict=True)
            ]
        )
        for asked in questions:
            dense = embedder.encode_query(asked.question).tolist()
            sparse = lexical.encode_query(asked.question)
            cosines = {p.id: p.score for p in index.search_dense(dense, _ACCESS, len(pieces))}
            if ranking == "dense":
                fused = cosines
            else:
                bm25 = {p.id: p.score for p in index.search_sparse(sparse, _ACCESS, len(pieces))}
                nearest = index.score_sentences(dense, list(cosines), _ACCESS)
                fused = fuse(similarities(cosines, nearest), bm25, sum(sparse.values), default_fusion(nearest))
            best = sorted(fused, key=lambda key: (-fused[key], key))[:passages]
            scores.append(overlap_scores(asked.spans, [(pieces[ids[key]].start, pieces[ids[key]].end) for key in best]))
        index.close()
    lengths = [embedder.count_tokens(piece.indexed) for piece in pieces]
    recall, precision, iou = (round(sum(column) / len(scores), 4) for column in zip(*scores, strict=True))
    return {
        "iou": iou,
        "recall": recall,
        "precision": precision,
        "chunks": len(pieces),
        "tokens_mean": round(sum(lengths) / len(lengths), 1),
        "tokens_max": max(lengths),
        "n": len(scores),
    }


def overlap_scores(marked: Iterable[Span], retrieved: Sequence[Span]) -> tuple[float, float, float]:
    """(recall, precision, IoU) of code points; what two retrieved spans share counts twice as retrieved."""
    wanted = {position for start, end in marked for position in range(start, end)}
    found = {position for start, end in retrieved for position in range(start, end)}
    total = sum(end - start for start, end in retrieved)
    shared = len(wanted & found)
    return shared / len(wanted), shared / max(total, 1), shared / (total + len(wanted) - shared)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpora/ and questions.csv")
    parser.add_argument("--tokens", type=int, help="token budget of a chunk (default: the product's)")
    parser.add_argument("--passages", type=int, default=5, help="passages retrieved for a question")
    parser.add_argument("--ranking", choices=("fused", "dense"), default="fused")
    parser.add_argument("--limit", type=int, help="questions of each corpus")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    configure("ERROR")
    settings = load_settings().ingest
    if arguments.tokens:
        settings = settings.model_copy(update={"chunk_tokens": arguments.tokens})
    embedder = MiniLmEmbedder()
    figures: dict[str, dict[str, Any]] = {}
    for corpus, questions in load_questions(arguments.data).items():
        text = (arguments.data / "corpora" / f"{corpus}.md").read_text(encoding="utf-8")
        figures[corpus] = {
            name: measure(chunker(text), questions[: arguments.limit], embedder, arguments.passages, arguments.ranking)
            for name, chunker in chunkers(embedder, settings).items()
        }
        print(f"{corpus:<28}{'IoU':>8}{'recall':>9}{'precision':>11}{'chunks':>8}{'tokens':>8}")
        for name, row in figures[corpus].items():
            print(
                f"  {name:<26}{row['iou']:>8.4f}{row['recall']:>9.4f}{row['precision']:>11.4f}"
                f"{row['chunks']:>8}{row['tokens_mean']:>8.1f}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
