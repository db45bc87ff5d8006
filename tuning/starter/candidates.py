"""Retrieves for every question what serving would: the same embedder, tokeniser, BM25 and fusion, over whole corpora.

Done in memory with matrices instead of through the index: 45,000 queries take minutes, and the scores are those of
`retrieval.search` (BM25 with the index's IDF, cosine, `retrieval.fusion.fuse`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.language import language_of
from core.types import Language
from retrieval.embedders.minilm import MiniLmEmbedder
from retrieval.fusion import Fusion, fuse
from retrieval.lexical import BigramBm25
from retrieval.text import indexed_text
from tuning.starter.sources import Corpus

DEPTH = 8
"""Candidates kept for a question."""
_POOL = 40
"""Candidates of each arm before fusion, as in serving."""
_QUERIES_AT_ONCE = 256


def rank_corpus(corpus: Corpus) -> list[list[int]]:
    """Numbers of the best DEPTH passages for each question, best first."""
    texts = [indexed_text(None, passage.title, None, passage.text) for passage in corpus.passages]
    lexical = _LexicalArm(texts)
    english = bool(corpus.questions) and language_of(corpus.questions[0].text) is Language.ENGLISH
    dense = _DenseArm(texts) if english else None
    ranked: list[list[int]] = []
    for part in _parts([question.text for question in corpus.questions]):
        scores = lexical.scores(part)
        cosines = dense.cosines(part) if dense is not None else None
        for row in range(len(part)):
            ranked.append(_fuse_row(scores[row], None if cosines is None else cosines[row], lexical.mass(part[row])))
    return ranked


def _fuse_row(bm25: NDArray[np.float32], cosines: NDArray[np.float32] | None, query_mass: float) -> list[int]:
    pool = set(_top(bm25)) | (set() if cosines is None else set(_top(cosines)))
    sparse = {str(i): float(bm25[i]) for i in pool}
    dense = None if cosines is None else {str(i): float(cosines[i]) for i in pool}
    fused = fuse(dense, sparse, query_mass, Fusion())
    return [int(key) for key in sorted(fused, key=lambda key: (-fused[key], int(key)))[:DEPTH]]


def _top(values: NDArray[np.float32]) -> list[int]:
    count = min(_POOL, len(values))
    return [int(i) for i in np.argpartition(-values, count - 1)[:count]]


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), _QUERIES_AT_ONCE):
        yield texts[start : start + _QUERIES_AT_ONCE]


class _LexicalArm:
    """BM25 of all passages as one sparse matrix."""

    def __init__(self, texts: Sequence[str]) -> None:
        from scipy.sparse import csr_array

        self._encoder = BigramBm25()
        vectors = [self._encoder.encode_passage(text) for text in texts]
        terms = np.array(sorted({key for vector in vectors for key in vector.indices}), dtype=np.int64)
        self._column = {int(term): column for column, term in enumerate(terms)}
        rows = np.repeat(np.arange(len(vectors)), [len(vector.indices) for vector in vectors])
        columns = np.searchsorted(terms, np.concatenate([np.array(v.indices, dtype=np.int64) for v in vectors]))
        values = np.concatenate([np.array(v.values, dtype=np.float32) for v in vectors])
        counts = np.bincount(columns, minlength=len(terms))
        idf = np.log1p((len(texts) - counts + 0.5) / (counts + 0.5)).astype(np.float32)
        shape = (len(texts), len(terms))
        self._passages: Any = csr_array((values * idf[columns], (rows, columns)), shape=shape).T.tocsr()

    def mass(self, query: str) -> float:
        """Sum of a query's term weights."""
        return sum(self._encoder.encode_query(query).values)

    def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """float32 (queries, passages)."""
        from scipy.sparse import csr_array

        cells = [
            (row, self._column[key], weight)
            for row, query in enumerate(map(self._encoder.encode_query, queries))
            for key, weight in zip(query.indices, query.values, strict=True)
            if key in self._column
        ]
        rows, columns, weights = zip(*cells, strict=True) if cells else ((), (), ())
        shape = (len(queries), self._passages.shape[0])
        asked = csr_array((np.array(weights, dtype=np.float32), (rows, columns)), shape=shape)
        dense: NDArray[np.float32] = (asked @ self._passages).toarray()
        return dense


class _DenseArm:
    """Cosines of the embedder."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._embedder = MiniLmEmbedder()
        self._passages = self._embedder.encode_passages(texts)

    def cosines(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """float32 (queries, passages)."""
        product: NDArray[np.float32] = self._embedder.encode_passages(queries) @ self._passages.T
        return product
