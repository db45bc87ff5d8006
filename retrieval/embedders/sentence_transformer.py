"""Any sentence-transformers model as the embedder, with the prefixes it was trained with (E5: `query: `, `passage: `).

Its own code is never run: `trust_remote_code` stays off, and pickled weights are read without executing them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from core.errors import Unavailable
from core.types import Language
from retrieval.embedders.batches import by_tokens
from retrieval.embedders.bge_m3 import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, auto_dtype
from retrieval.embedders.checkpoint import digest_of, find_checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REVISION = "sentence-transformer-1"
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*/config.json", "*/model.safetensors")


class SentenceTransformerEmbedder:
    """Dense embedder. Passes run one at a time: its tokenizer cannot be shared by two calls."""

    def __init__(
        self,
        model: str,
        *,
        languages: frozenset[Language],
        query_prefix: str = "",
        passage_prefix: str = "",
        device: str = "auto",
        dtype: str = "auto",
        max_tokens: int = 512,
        batch_tokens: int | None = None,
    ) -> None:
        """Load a model folder, or a name on the Hugging Face hub.

        Raises:
            Unavailable: `embedder_not_found` or `embedder_broken`.
        """
        import torch
        from sentence_transformers import SentenceTransformer
        from tokenizers import Tokenizer

        folder = find_checkpoint(model, _PATTERNS)
        target = torch.device(
            "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
        )
        try:
            network = SentenceTransformer(str(folder), device=str(target), local_files_only=True)
            network.eval().to(getattr(torch, dtype) if dtype != "auto" else auto_dtype(target))
            counting = Tokenizer.from_str(network.tokenizer._tokenizer.to_str())
        except Exception as error:
            raise Unavailable(
                f"the model in {folder} cannot be loaded: {error}", code="embedder_broken", retryable=False
            ) from error
        counting.no_truncation()
        counting.no_padding()
        self.max_tokens = min(max_tokens, int(network.max_seq_length or max_tokens))
        network.max_seq_length = self.max_tokens
        self._model: Any = network
        self._counting: Any = counting
        self._special = len(counting.encode("").ids)
        self._query_prefix, self._passage_prefix = query_prefix, passage_prefix
        self.name = Path(model).name if Path(model).is_dir() else model
        self.languages = languages
        files = sorted(str(path.relative_to(folder)) for pattern in _PATTERNS for path in folder.glob(pattern))
        self.digest = digest_of(folder, files, REVISION, query_prefix, passage_prefix)
        self.batch_tokens = batch_tokens or (GPU_BATCH_TOKENS if target.type == "cuda" else CPU_BATCH_TOKENS)
        self.truncated_total = 0
        self._lock = Lock()
        self.dim = int(self._encode([""]).shape[1])

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages: float32 (len(texts), dim), rows L2-normalised, order kept; over-long ones cut and counted."""
        return self._encode([self._passage_prefix + text for text in texts])

    def encode_query(self, text: str) -> NDArray[np.float32]:
        """Embed one query: float32 (dim,), L2-normalised."""
        vector: NDArray[np.float32] = self._encode([self._query_prefix + text])[0]
        return vector

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` without special tokens or prefix."""
        return len(self._counting.encode(text, add_special_tokens=False).ids)

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        import numpy as np

        encoded = self._counting.encode_batch(texts, add_special_tokens=False)
        lengths = [len(item.ids) + self._special for item in encoded]
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        found: list[Any] = [None] * len(texts)
        with self._lock:
            self.truncated_total += sum(length > self.max_tokens for length in lengths)
            for batch in by_tokens([min(length, self.max_tokens) for length in lengths], self.batch_tokens):
                vectors = self._model.encode(
                    [texts[i] for i in batch], batch_size=len(batch), show_progress_bar=False, convert_to_tensor=True
                )
                for place, vector in zip(batch, vectors.float().cpu().numpy(), strict=True):
                    found[place] = vector
        stacked: NDArray[np.float32] = np.stack(found).astype(np.float32)
        stacked /= np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-12)
        return stacked
