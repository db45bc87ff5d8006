"""Every filter that search sends finds what exact search finds, on a shard whose graph is built."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from qdrant_edge import EdgeConfig, EdgeOptimizersConfig

from benchmarks.filters import LIMIT, WANTED, change, fill, make_corpus, measure
from core.types import AccessFilter
from retrieval.index import edge, edge_points
from retrieval.index.edge import EdgeIndex


def test_edge_finds_under_every_filter_before_and_after_changes(tmp_path: Path) -> None:
    """13,500 points in islands: a graph alone loses whole islands, with and without a filter."""
    corpus = make_corpus(13_500, 384, "islands")
    queries = corpus.vectors[np.flatnonzero(corpus.tenants == 0)[::350]]
    index = EdgeIndex(tmp_path, dim=384)
    fill(index, corpus, np.arange(13_500))
    index.optimize()
    lines = measure(index, corpus, queries, "built")
    change(index, corpus, "islands", share=0.02)
    lines += measure(index, corpus, queries, "changed")
    index.close()
    assert {line["filter"] for line in lines} >= {"no filter", "7 of 12 groups", "a collection", "500 documents"}
    assert [line for line in lines if line["recall"] < WANTED or line["empty"]] == []


@pytest.mark.parametrize(("shape", "wide"), [("topics", False), ("uniform", True)])
def test_the_beam_is_as_wide_as_the_vectors_need(
    shape: str, wide: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the bounds the graph answers, with a beam that was measured; vectors that defeat it are all compared."""
    monkeypatch.setattr(edge, "EXACT_UP_TO", 100)
    monkeypatch.setattr(edge, "EXACT_FILTERED_UP_TO", 100)
    monkeypatch.setattr(edge_points, "SCAN_UP_TO", 100)
    monkeypatch.setattr(edge, "BEAMS", (24, 256))
    soon = EdgeOptimizersConfig(indexing_threshold=50)  # KB; 20,000 by itself, so that few points get no graph
    monkeypatch.setattr(edge_points, "EdgeConfig", partial(EdgeConfig, optimizers=soon))
    corpus = make_corpus(4_000, 96, shape)
    index = EdgeIndex(tmp_path, dim=96)
    fill(index, corpus, np.arange(4_000))
    index.optimize()
    assert index._beam != 24 if wide else index._beam is not None
    queries = corpus.vectors[np.flatnonzero(corpus.tenants == 0)[::100]]
    lines = measure(index, corpus, queries, "built")
    assert min(line["recall"] for line in lines) >= WANTED
    assert index.search_dense(queries[0].tolist(), AccessFilter("nobody", None), LIMIT) == []
    index.close()
