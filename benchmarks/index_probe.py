"""Searches on one index, by the code of whichever checkout is first on the path; `benchmarks.index_speed` runs it.

    PYTHONPATH=CHECKOUT python -P benchmarks/index_probe.py edge|URL POINTS SECONDS THREADS

A search is what the product asks of an index: both arms, and the scores of what only one of them found. Prints one line
of JSON: searches a second, the median search in ms, its CPU in ms of this process, and recall at 40 of the dense arm.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from core.types import AccessFilter, IndexPoint, SparseVector

DIM = 384
LIMIT = 40
GRAPHS_FROM = 20_000
"""Points from which Edge makes a graph by itself, at either commit; it compares all points until then."""
ACCESS = AccessFilter("t1", None)


def made_points(count: int) -> list[IndexPoint]:
    """Chunks of one tenant around a few topics, with words by Zipf's law."""
    rng = np.random.default_rng(7)
    topics = rng.normal(size=(64, DIM))
    vectors = topics[rng.integers(64, size=count)] + 0.7 * rng.normal(size=(count, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [_point(number, vectors[number], rng) for number in range(count)]


def _point(number: int, vector: Any, rng: np.random.Generator) -> IndexPoint:
    words = np.unique(np.minimum(rng.zipf(1.3, size=40), 20_000)).tolist()
    dense = tuple(vector.tolist())
    return IndexPoint(
        id=str(uuid.UUID(int=number + 1)),
        tenant_id="t1",
        collection_id="c1",
        document_id=f"d{number // 10}",
        generation=1,
        ordinal=number % 10,
        groups=("*",),
        dense=dense,
        sparse=SparseVector(tuple(words), tuple(1.0 for _ in words)),
        sentences=(dense,),
    )


def open_server(url: str) -> Any:
    """A new collection on a server."""
    from retrieval.index import server

    try:
        from core.settings_qdrant import QdrantSettings
        from retrieval.index.connection import connect
    except ImportError:  # before the connection had a module of its own
        from core.settings import QdrantSettings  # type: ignore[attr-defined, no-redef, unused-ignore]

        connect = server.open_client  # type: ignore[attr-defined]
    settings = QdrantSettings(url=url)
    name = f"speed-{uuid.uuid4().hex[:8]}"
    return server.ServerIndex(connect(settings), name, dim=DIM, sentences=True, settings=settings)


def search(index: Any, query: IndexPoint) -> list[str]:
    """Ids that the dense arm found."""
    assert query.dense is not None
    if hasattr(index, "find"):
        found = index.find(query.dense, query.sparse, ACCESS, LIMIT)
        dense, sparse = found.dense, found.sparse
    else:
        dense = index.search_dense(query.dense, ACCESS, LIMIT)
        sparse = index.search_sparse(query.sparse, ACCESS, LIMIT)
    ids, words = {hit.id for hit in dense}, {hit.id for hit in sparse}
    lacks_dense, lacks_words, both = sorted(words - ids), sorted(ids - words), sorted(ids | words)
    if hasattr(index, "score"):
        arms = {"by_dense": lacks_dense, "by_sparse": lacks_words, "by_sentences": both}
        index.score(query.dense, query.sparse, ACCESS, **arms)
    else:
        index.score_dense(query.dense, lacks_dense, ACCESS)
        index.score_sparse(query.sparse, lacks_words, ACCESS)
        index.score_sentences(query.dense, both, ACCESS)
    return [hit.id for hit in dense]


def main() -> None:
    """Fill, ask for so many seconds, print."""
    where, count, seconds, threads = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    points = made_points(count)
    with tempfile.TemporaryDirectory() as folder:
        if where == "edge":
            from retrieval.index.edge import EdgeIndex

            index: Any = EdgeIndex(Path(folder) / "shard", dim=DIM, sentences=True)
        else:
            index = open_server(where)
        for start in range(0, count, 1000):
            index.upsert(points[start : start + 1000])
        if hasattr(index, "optimize") and count >= GRAPHS_FROM:
            index.optimize()
        matrix = np.array([point.dense for point in points])
        recall = []
        for query in points[:: max(1, count // 40)]:
            best = {points[int(row)].id for row in np.argsort(-(matrix @ np.array(query.dense)))[:LIMIT]}
            recall.append(len(best & set(search(index, query))) / min(LIMIT, count))
        times: list[float] = []
        until = perf_counter() + seconds

        def ask(first: int) -> None:
            number = first
            while (began := perf_counter()) < until:
                search(index, points[number % count])
                times.append(perf_counter() - began)
                number += 97

        began, cpu = perf_counter(), process_time()
        workers = [threading.Thread(target=ask, args=(n * 13,)) for n in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        took, cpu = perf_counter() - began, process_time() - cpu
        figures = {
            "searches_per_s": len(times) / took,
            "median_ms": 1000 * float(np.median(times)),
            "cpu_ms": 1000 * cpu / len(times),
            "recall": float(np.mean(recall)),
        }
        if hasattr(index, "drop"):
            index.drop()
        index.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
