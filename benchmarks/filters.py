"""Recall of the dense arm under every filter that search can send, against exact search, once graphs are built.

    python -m benchmarks.filters [--points 30000] [--queries 40] [--dim 384] [--shape topics|islands|uniform]
                                 [--url http://127.0.0.1:6333] [--api-key KEY] [--json FILE]

Two tenants share the points; one asks. Filters: none, one to ten of twelve groups, a collection, 20 to 2,000 named
documents, and both together; then once more after deletions and replacements. Exact neighbours are computed here, from
the vectors themselves, so the engine's own exact search is judged as well. The exit code is 1 when a line stays below
0.97 or an answer is empty.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr

from core.ports import VectorIndex
from core.settings_qdrant import QdrantSettings
from core.types import AccessFilter, IndexPoint, SparseVector

LIMIT = 40
WANTED = 0.97
_GROUPS, _COLLECTIONS, _CHUNKS_A_DOCUMENT = 12, 10, 10
_WRITE = 1_000
_TENANTS = ("asks", "other")
_NO_WORDS = SparseVector((0,), (1.0,))

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass(slots=True)
class Corpus:
    """Points of documents in random order of topics; a document's chunks share its groups, collection and topic."""

    vectors: Floats
    documents: NDArray[np.int64]
    """Of each point."""
    tenants: NDArray[np.int64]
    groups: NDArray[np.int64]
    collections: NDArray[np.int64]
    generations: NDArray[np.int64]
    alive: Flags
    rng: np.random.Generator = field(repr=False)

    def point(self, row: int) -> IndexPoint:
        """A row as the index takes it."""
        generation = int(self.generations[row])
        return IndexPoint(
            id=str(uuid.UUID(int=(generation << 64) + row + 1)),
            tenant_id=_TENANTS[self.tenants[row]],
            collection_id=f"c{self.collections[row]}",
            document_id=f"d{self.documents[row]}",
            generation=generation,
            ordinal=row % _CHUNKS_A_DOCUMENT,
            groups=(f"g{self.groups[row]}",),
            dense=tuple(self.vectors[row].tolist()),
            sparse=_NO_WORDS,
        )


def make_corpus(points: int, dim: int, shape: str, seed: int = 1) -> Corpus:
    """shape: `topics` as embeddings of text lie: each document between two of its tenants' topics, of unequal size;
    `islands` are topics that share nothing, the hardest for a graph; `uniform` has no structure at all.
    """
    rng = np.random.default_rng(seed)
    documents = np.arange(points) // _CHUNKS_A_DOCUMENT
    count = int(documents[-1]) + 1
    topics = max(20, count // 50)
    centres = rng.normal(size=(topics, dim)).astype(np.float32) / np.sqrt(dim)
    first, second = (rng.zipf(1.5, size=count) % topics, rng.integers(0, topics, count))
    middle = centres[first] + (0.6 * centres[second] if shape == "topics" else np.float32(0))
    vectors = _around(middle.astype(np.float32)[documents], shape, rng)
    return Corpus(
        vectors=vectors,
        documents=documents,
        tenants=rng.integers(0, 2, count)[documents],
        groups=rng.integers(0, _GROUPS, count)[documents],
        collections=rng.integers(0, _COLLECTIONS, count)[documents],
        generations=np.ones(points, dtype=np.int64),
        alive=np.ones(points, dtype=np.bool_),
        rng=rng,
    )


def _around(centres: Floats, shape: str, rng: np.random.Generator) -> Floats:
    noise = rng.normal(size=centres.shape).astype(np.float32) / np.sqrt(centres.shape[1])
    made: Floats = noise if shape == "uniform" else centres + noise
    unit: Floats = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return unit


def filters_of(corpus: Corpus) -> Iterator[tuple[str, AccessFilter, Flags]]:
    """(what it is, the filter, points that pass it)."""
    mine = corpus.alive & (corpus.tenants == 0)
    own = np.unique(corpus.documents[mine])
    yield "no filter", AccessFilter(_TENANTS[0], None), mine
    for count in range(1, 11):
        names = frozenset(f"g{number}" for number in range(count))
        yield f"{count} of {_GROUPS} groups", AccessFilter(_TENANTS[0], names), mine & (corpus.groups < count)
    yield "a collection", AccessFilter(_TENANTS[0], None, "c3"), mine & (corpus.collections == 3)
    two = frozenset({"g0", "g1"})
    both = mine & (corpus.collections == 3) & (corpus.groups < 2)
    yield "a collection, 2 groups", AccessFilter(_TENANTS[0], two, "c3"), both
    for count in (20, 100, 500, 1000, 1500, 2000):
        if count <= len(own):
            chosen = np.random.default_rng(count).choice(own, count, replace=False)
            names = frozenset(f"d{number}" for number in chosen)
            passing = mine & np.isin(corpus.documents, chosen)
            yield f"{count} documents", AccessFilter(_TENANTS[0], None, document_ids=names), passing
            if count == 500:
                within = passing & (corpus.groups < 6)
                half = frozenset(f"g{number}" for number in range(6))
                yield "500 documents, 6 groups", AccessFilter(_TENANTS[0], half, document_ids=names), within


def measure(index: VectorIndex, corpus: Corpus, queries: Floats, when: str) -> list[dict[str, Any]]:
    """A line for each filter: recall, empty answers, milliseconds of a query and of the engine's exact search."""
    lines = []
    for name, access, passing in filters_of(corpus):
        rows = np.flatnonzero(passing)
        scores = queries @ corpus.vectors[rows].T
        wanted = min(LIMIT, len(rows))
        last = np.sort(scores, axis=1)[:, -wanted]
        shares, times, exact_times, empty = [], [], [], 0
        for query, floor in zip(queries, last, strict=True):
            asked = query.tolist()
            began = perf_counter()
            hits = index.search_dense(asked, access, LIMIT)
            times.append((perf_counter() - began) * 1000)
            began = perf_counter()
            index.search_dense(asked, access, LIMIT, exact=True)
            exact_times.append((perf_counter() - began) * 1000)
            empty += not hits
            shares.append(sum(hit.score >= floor - 1e-5 for hit in hits[:wanted]) / wanted)
        line: dict[str, Any] = {
            "when": when,
            "filter": name,
            "points": len(rows),
            "recall": round(float(np.mean(shares)), 4),
            "least": round(float(np.min(shares)), 3),
            "empty": empty,
            "ms": round(float(np.median(times)), 2),
            "exact_ms": round(float(np.median(exact_times)), 2),
        }
        print("{when:>8} {filter:<24}{points:>8} points  recall {recall:.4f}  least {least:.3f}  empty {empty}"
              "  {ms:.2f} ms  exact {exact_ms:.2f} ms".format(**line), flush=True)  # fmt: skip
        lines.append(line)
    return lines


def fill(index: VectorIndex, corpus: Corpus, rows: NDArray[np.int64]) -> None:
    """Write rows in batches, as ingest does."""
    for start in range(0, len(rows), _WRITE):
        index.upsert([corpus.point(int(row)) for row in rows[start : start + _WRITE]])


def change(index: VectorIndex, corpus: Corpus, shape: str, share: float = 0.1) -> None:
    """Delete a share of the documents and replace another by a new generation."""
    chosen = corpus.rng.permutation(np.unique(corpus.documents))
    part = int(len(chosen) * share)
    tenants = dict(zip(corpus.documents.tolist(), corpus.tenants.tolist(), strict=True))
    for number in chosen[:part].tolist():
        index.delete_document(f"d{number}", tenant_id=_TENANTS[tenants[number]])
    corpus.alive[np.isin(corpus.documents, chosen[:part])] = False
    renewed = np.flatnonzero(np.isin(corpus.documents, chosen[part : 2 * part]))
    corpus.vectors[renewed] = _around(corpus.vectors[renewed], shape, corpus.rng)
    corpus.generations[renewed] = 2
    fill(index, corpus, renewed)
    for number in chosen[part : 2 * part].tolist():
        index.delete_document(f"d{number}", tenant_id=_TENANTS[tenants[number]], keep_generation=2)


@contextmanager
def open_index(arguments: argparse.Namespace, folder: str) -> Iterator[VectorIndex]:
    """Edge in a folder, or a collection of the server whose URL was given, dropped at the end."""
    if not arguments.url:
        from retrieval.index.edge import EdgeIndex

        edge = EdgeIndex(Path(folder) / "shard", dim=arguments.dim)
        yield edge
        edge.close()
        return
    from retrieval.index.connection import connect
    from retrieval.index.server import ServerIndex

    key = SecretStr(arguments.api_key) if arguments.api_key else None
    settings = QdrantSettings(url=arguments.url, api_key=key)
    name = f"filters-{uuid.uuid4().hex[:8]}"
    server = ServerIndex(connect(settings), name, dim=arguments.dim, settings=settings)
    try:
        yield server
    finally:
        server.drop()
        server.close()


def build_graphs(index: VectorIndex) -> float:
    """Return when the graphs are there; seconds that took."""
    began = perf_counter()
    if hasattr(index, "optimize"):
        index.optimize()
    else:
        while not index.settled():  # type: ignore[attr-defined]
            time.sleep(0.5)  # the server tells no other way
    return perf_counter() - began


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=30_000)
    parser.add_argument("--queries", "--limit", type=int, default=40)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--shape", choices=("topics", "islands", "uniform"), default="topics")
    parser.add_argument("--url", default="", help="a Qdrant server; default is Edge")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    corpus = make_corpus(arguments.points, arguments.dim, arguments.shape)
    near = corpus.rng.choice(np.flatnonzero(corpus.tenants == 0), arguments.queries)
    queries = _around(corpus.vectors[near], arguments.shape, corpus.rng)
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as folder, open_index(arguments, folder) as index:
        began = perf_counter()
        fill(index, corpus, np.arange(arguments.points))
        written_s, built_s = perf_counter() - began, build_graphs(index)
        print(f"{arguments.points} points written in {written_s:.1f} s, graphs in {built_s:.1f} s", flush=True)
        lines = measure(index, corpus, queries, "built")
        change(index, corpus, arguments.shape)
        lines += measure(index, corpus, queries, "changed")
        build_graphs(index)
        lines += measure(index, corpus, queries, "rebuilt")
    figures = {
        "engine": "server" if arguments.url else "edge",
        "points": arguments.points,
        "dim": arguments.dim,
        "shape": arguments.shape,
        "written_s": round(written_s, 1),
        "graphs_s": round(built_s, 1),
        "least_recall": min(line["recall"] for line in lines),
        "empty": sum(line["empty"] for line in lines),
        "lines": lines,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"least recall {figures['least_recall']}, {figures['empty']} empty answers")
    return int(figures["least_recall"] < WANTED or figures["empty"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
