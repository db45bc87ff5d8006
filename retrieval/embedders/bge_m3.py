"""BAAI/bge-m3: a dense vector, learnt term weights and a vector per token, all from one forward pass.

What comes out equals FlagEmbedding's `BGEM3FlagModel` on the same checkpoint (tests/integration/test_bge_m3.py). The
two small heads are pickles in every published checkpoint; they are read with `weights_only=True`, which runs no code.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from core.errors import Unavailable
from core.inference_imports import load
from core.types import Language, SparseVector
from retrieval.embedders.batches import by_tokens
from retrieval.embedders.checkpoint import digest_of, find_checkpoint

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

REVISION = "bge-m3-1"
GPU_BATCH_TOKENS = 65_536
"""Rows of one product: enough that the last, partly filled wave of blocks no longer shows."""
CPU_BATCH_TOKENS = 4_096
_FILES = ("config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "sentencepiece.bpe.model")
_HEADS = ("sparse_linear.pt", "colbert_linear.pt")
_REMEMBERED = 4_096
_WINDOW = 2_048
"""Texts tokenised at once: about seven batches on a GPU, so that the next ones are ready long before they are due."""


@dataclass(frozen=True, slots=True)
class M3Output:
    """Vectors of some texts, in their order."""

    dense: NDArray[np.float32]
    """(texts, dim), rows L2-normalised."""
    sparse: list[SparseVector]
    """Weight per token id, ids ascending; special tokens and weights of zero left out. Empty when not asked for."""
    multi: list[NDArray[np.float32]]
    """(tokens - 1, colbert_dim) each, rows L2-normalised, the first token left out. Empty when not asked for."""


class BgeM3Embedder:
    """Embedder with the three outputs of bge-m3. One loaded model serves all threads; passes run one at a time."""

    languages = frozenset(Language)
    """Trained on more than a hundred languages: the dense arm has its say in all of them."""

    def __init__(
        self,
        model: str = "BAAI/bge-m3",
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        max_tokens: int = 1024,
        batch_tokens: int | None = None,
        compiled: bool = False,
    ) -> None:
        """Load a checkpoint: a folder, or a name on the Hugging Face hub.

        dtype: auto is bfloat16 on GPUs from Ampere on and on CPUs that multiply it, float16 on older GPUs, or float32.
        max_tokens: longer texts are cut at the end, special tokens included; at most what the checkpoint allows.
        batch_tokens: rows of one forward pass; default 65,536 on a GPU, 4,096 on a CPU.

        Raises:
            Unavailable: `embedder_not_found` or `embedder_broken`.
        """
        folder = find_checkpoint(model, (*_FILES, *_HEADS, "tokenizer_config.json", "special_tokens_map.json"))
        self.name = Path(model).name if Path(model).is_dir() else model
        self._load(folder, device, dtype, compiled)
        self.max_tokens = min(max_tokens, self._encoder.max_length)
        self.digest = digest_of(folder, (*_FILES, *_HEADS), REVISION)
        self.batch_tokens = batch_tokens or (
            GPU_BATCH_TOKENS if self._encoder.device.type == "cuda" else CPU_BATCH_TOKENS
        )
        self.truncated_total = 0
        """Texts cut at `max_tokens` since start."""
        self.forwards_total = 0
        """Forward passes since start."""
        self._known: OrderedDict[str, SparseVector] = OrderedDict()
        self._queries: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = Lock()
        self._pass = Lock()

    def _load(self, folder: Path, device: str, dtype: str, compiled: bool) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        from retrieval.embedders.packed import PackedEncoder

        target = torch.device(
            "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
        )
        precision = getattr(torch, dtype) if dtype != "auto" else auto_dtype(target)
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            network = load(
                lambda: AutoModel.from_pretrained(
                    str(folder), local_files_only=True, dtype=precision, add_pooling_layer=False
                )
            )
            network = network.eval().requires_grad_(False).to(target)
            self._sparse = _linear(folder / "sparse_linear.pt", network.config.hidden_size, target, precision)
            self._multi = _linear(folder / "colbert_linear.pt", network.config.hidden_size, target, precision)
            self._encoder = PackedEncoder(network, compiled=compiled)
        except Unavailable:
            raise
        except Exception as error:
            raise Unavailable(
                f"the checkpoint in {folder} cannot be loaded: {error}", code="embedder_broken", retryable=False
            ) from error
        self.dim = int(network.config.hidden_size)
        # Truncation and padding are off once for all: changing them per call is not thread-safe in `tokenizers`.
        self._tokenizer: Any = tokenizer._tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._start, self._end = int(tokenizer.cls_token_id), int(tokenizer.eos_token_id)
        self._unused = {self._start, self._end, int(tokenizer.pad_token_id), int(tokenizer.unk_token_id)}

    def encode(self, texts: Sequence[str], *, sparse: bool = True, multi: bool = False) -> M3Output:
        """All outputs of some texts in one pass over them.

        multi: also a vector per token; 230 tokens of bge-m3 are about a megabyte in float32.
        """
        import numpy as np
        import torch

        dense = np.zeros((len(texts), self.dim), dtype=np.float32)
        weights: list[SparseVector] = [SparseVector((), ())] * len(texts) if sparse else []
        vectors: list[Any] = [None] * len(texts) if multi else []
        done: list[tuple[list[int], list[list[int]], tuple[Any, Any, Any]]] = []
        # Results wait on the device: reading any of them would hold up the launch of the next batch.
        with self._pass, torch.inference_mode():
            for first, rows in self._windows(texts):
                for batch in by_tokens([len(row) for row in rows], self.batch_tokens, padded=False):
                    taken = [rows[i] for i in batch]
                    done.append(([first + i for i in batch], taken, self._forward(taken, sparse, multi)))
            if self._encoder.device.type == "cuda":
                torch.cuda.current_stream(self._encoder.device).synchronize()
            self.forwards_total += len(done)
        for places, rows, (pooled, token_weights, token_vectors) in done:
            dense[places] = pooled.numpy()
            if token_weights is not None:
                for place, item in zip(places, self._weights(rows, token_weights.numpy()), strict=True):
                    weights[place] = item
            if token_vectors is not None:
                start = 0
                for place, row in zip(places, rows, strict=True):
                    vectors[place] = token_vectors[start + 1 : start + len(row)].numpy()
                    start += len(row)
        return M3Output(dense, weights, vectors)

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages: float32 (len(texts), dim), rows L2-normalised, order kept; cut at `max_tokens`, and counted.

        Their term weights are remembered, so that `M3Lexical` needs no second pass over the same texts.
        """
        output = self.encode(texts)
        self._remember(texts, output.sparse)
        return output.dense

    def encode_query(self, text: str) -> NDArray[np.float32]:
        """Embed one query: float32 (dim,), L2-normalised; the last ones are remembered with their term weights."""
        with self._lock:
            known = self._queries.get(text)
        if known is not None:
            return known
        output = self.encode([text])
        self._remember([text], output.sparse)
        vector: NDArray[np.float32] = output.dense[0]
        vector.setflags(write=False)
        with self._lock:
            self._queries[text] = vector
            while len(self._queries) > _REMEMBERED // 4:
                self._queries.popitem(last=False)
        return vector

    def encode_tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Vectors of each text's tokens: float32 (tokens - 1, colbert_dim), rows L2-normalised, order kept."""
        return self.encode(texts, sparse=False, multi=True).multi

    def term_weights(self, text: str) -> SparseVector:
        """Learnt weights of a text's tokens; without a forward pass when the text was embedded just before."""
        with self._lock:
            known = self._known.get(text)
        if known is None:
            known = self.encode([text]).sparse[0]
            self._remember([text], [known])
        return known

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` without special tokens."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _remember(self, texts: Sequence[str], weights: Sequence[SparseVector]) -> None:
        with self._lock:
            for text, item in zip(texts, weights, strict=True):
                self._known[text] = item
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def _windows(self, texts: Sequence[str]) -> Iterator[tuple[int, list[list[int]]]]:
        """(number of the first text, token ids) of some texts at a time; the next ones are tokenised meanwhile."""
        starts = range(0, len(texts), _WINDOW)
        if len(starts) <= 1:
            yield 0, self._tokenize(texts)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="tokenize") as pool:
            ahead = pool.submit(self._tokenize, texts[:_WINDOW])
            for start in starts:
                rows = ahead.result()
                if start + _WINDOW < len(texts):
                    ahead = pool.submit(self._tokenize, texts[start + _WINDOW : start + 2 * _WINDOW])
                yield start, rows

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        room = self.max_tokens - 2
        encoded = [item.ids for item in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        cut = sum(len(ids) > room for ids in encoded)
        if cut:
            with self._lock:
                self.truncated_total += cut
        return [[self._start, *ids[:room], self._end] for ids in encoded]

    def _forward(
        self, rows: list[list[int]], sparse: bool, multi: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """(dense, weight per token, vector per token) on the host; complete once the device was waited for."""
        import torch
        import torch.nn.functional as F

        from retrieval.embedders.packed import pack

        batch = pack(rows, self._encoder.device)
        hidden = self._encoder.forward(batch)
        dense = F.normalize(hidden[batch.borders[:-1].long()].float(), dim=-1)
        weights = torch.relu(F.linear(hidden, *self._sparse)).squeeze(-1).float() if sparse else None
        vectors = F.normalize(F.linear(hidden, *self._multi).float(), dim=-1) if multi else None
        return _to_host(dense), _to_host(weights), _to_host(vectors)

    def _weights(self, rows: list[list[int]], weights: NDArray[np.float32]) -> list[SparseVector]:
        """Largest weight of each distinct token of each row; special tokens have none."""
        import numpy as np

        ids = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
        owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        kept = (weights > 0) & ~np.isin(ids, list(self._unused))
        ids, owner, weights = ids[kept], owner[kept], weights[kept]
        order = np.lexsort((ids, owner))
        ids, owner, weights = ids[order], owner[order], weights[order]
        if not len(ids):
            return [SparseVector((), ())] * len(rows)
        first = np.flatnonzero(np.r_[True, (ids[1:] != ids[:-1]) | (owner[1:] != owner[:-1])])
        best = np.maximum.reduceat(weights, first)
        ids, owner = ids[first], owner[first]
        borders = np.searchsorted(owner, np.arange(len(rows) + 1))
        return [
            SparseVector(tuple(ids[a:b].tolist()), tuple(best[a:b].tolist())) for a, b in pairwise(borders.tolist())
        ]


class M3Lexical:
    """bge-m3's learnt term weights as the lexical side; the index multiplies them as they are, without an IDF."""

    idf = False

    def __init__(self, embedder: BgeM3Embedder) -> None:
        self._embedder = embedder
        self.digest = embedder.digest

    def encode_passage(self, text: str) -> SparseVector:
        """Weights of a stored passage."""
        return self._embedder.term_weights(text)

    def encode_query(self, text: str) -> SparseVector:
        """Weights of a query: the same head on the same terms."""
        return self._embedder.term_weights(text)


def auto_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, float16 on older GPUs, float32 on other CPUs."""
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def _to_host(tensor: Any) -> Any:
    """Start the copy to pinned memory and go on; on a CPU there is nothing to copy."""
    import torch

    if tensor is None or tensor.device.type == "cpu":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    return host


def _linear(path: Path, width: int, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a head."""
    import torch

    if not path.is_file():
        raise Unavailable(
            f"the checkpoint has no {path.name}: it is not a bge-m3", code="embedder_broken", retryable=False
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    weight, bias = state["weight"], state["bias"]
    if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
        raise Unavailable(f"{path.name} does not fit the model", code="embedder_broken", retryable=False)
    return weight.to(device, dtype), bias.to(device, dtype)
