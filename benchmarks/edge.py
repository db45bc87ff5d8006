"""Qdrant Edge beside qdrant-client's Python local mode, in one run: hybrid queries and upserts over random chunks.

    python -m benchmarks.edge [--chunks 5000] [--queries 30] [--dim 384] [--json FILE]

A hybrid query is what search asks: 40 nearest by cosine, 40 best by BM25, behind the tenant filter. Both hold the same
points; how often their best ten agree is printed too, since a faster answer that differs would be no answer.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from qdrant_client import QdrantClient

from core.ports import VectorIndex
from core.settings_qdrant import QdrantSettings
from core.types import AccessFilter, IndexPoint, SparseVector
from retrieval.index.connection import Connection
from retrieval.index.edge import EdgeIndex
from retrieval.index.server import ServerIndex

_VOCABULARY = 30_000
_TERMS_PER_CHUNK = 120
_TERMS_PER_QUERY = 12
_CANDIDATES = 40
_ACCESS = AccessFilter("tenant", frozenset({"*"}))


def random_points(n: int, dim: int, seed: int) -> list[IndexPoint]:
    """Chunks of one tenant: unit vectors, and terms drawn by Zipf's law as words are."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, dim)).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    return [
        IndexPoint(
            id=str(uuid.UUID(int=random.Random(seed * n + i).getrandbits(128), version=4)),
            tenant_id="tenant",
            collection_id="collection",
            document_id=f"doc_{i // 10}",
            generation=1,
            ordinal=i % 10,
            groups=("*",),
            dense=tuple(dense[i].tolist()),
            sparse=_terms(rng, _TERMS_PER_CHUNK),
        )
        for i in range(n)
    ]


def _terms(rng: np.random.Generator, n: int) -> SparseVector:
    ids = np.unique(np.minimum(rng.zipf(1.2, size=n), _VOCABULARY))
    return SparseVector(tuple(int(i) for i in ids), tuple(float(w) for w in rng.uniform(0.5, 2.0, len(ids))))


def measure(index: VectorIndex, points: list[IndexPoint], queries: list[IndexPoint]) -> dict[str, Any]:
    """Upserts a second, milliseconds of the median hybrid query, and the best ten of each arm and query."""
    began = perf_counter()
    index.upsert(points)
    index.flush()
    upserts_per_s = len(points) / (perf_counter() - began)
    times: list[float] = []
    best: list[tuple[frozenset[str], frozenset[str]]] = []
    for query in queries:
        began = perf_counter()
        dense = index.search_dense(query.dense or (), _ACCESS, _CANDIDATES)
        sparse = index.search_sparse(query.sparse, _ACCESS, _CANDIDATES)
        times.append((perf_counter() - began) * 1000)
        best.append((frozenset(p.id for p in dense[:10]), frozenset(p.id for p in sparse[:10])))
    return {"upserts_per_s": upserts_per_s, "query_ms": float(np.median(times)), "best": best}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=5000)
    parser.add_argument("--queries", "--limit", type=int, default=30)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    points = random_points(arguments.chunks, arguments.dim, seed=1)
    rng = np.random.default_rng(3)
    queries = [
        IndexPoint(**{name: getattr(p, name) for name in p.__slots__} | {"sparse": _terms(rng, _TERMS_PER_QUERY)})
        for p in random_points(arguments.queries, arguments.dim, seed=2)
    ]
    measured: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as folder:
        kinds: dict[str, Callable[[], VectorIndex]] = {
            "edge": lambda: EdgeIndex(Path(folder), dim=arguments.dim),
            "local": lambda: ServerIndex(
                Connection([QdrantClient(":memory:")]), "chunks", dim=arguments.dim, settings=QdrantSettings()
            ),
        }
        for name, build in kinds.items():
            index = build()
            measured[name] = measure(index, points, queries)
            index.close()
    edge, local = measured["edge"], measured["local"]
    pairs = [
        (mine, theirs)
        for a, b in zip(edge["best"], local["best"], strict=True)
        for mine, theirs in zip(a, b, strict=True)
    ]
    figures = {
        "chunks": arguments.chunks,
        "queries": arguments.queries,
        "edge": {"query_ms": round(edge["query_ms"], 3), "upserts_per_s": round(edge["upserts_per_s"])},
        "local": {"query_ms": round(local["query_ms"], 3), "upserts_per_s": round(local["upserts_per_s"])},
        "query_speedup": round(local["query_ms"] / edge["query_ms"], 1),
        "upsert_speedup": round(edge["upserts_per_s"] / local["upserts_per_s"], 1),
        "best_ten_shared": round(sum(len(a & b) for a, b in pairs) / max(sum(len(b) for _, b in pairs), 1), 4),
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
