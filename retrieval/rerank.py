"""Second stages: they read the question with each of the best passages, far better and far slower than any index.

A cross-encoder reads both together. Late interaction compares a vector per token of one with those of the other, as
bge-m3 makes them. They are made for the candidates of a query, never stored: a passage of 230 tokens has 230 times the
bytes of its dense vector in them, half a megabyte in half precision.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from core.errors import Unavailable
from core.ports import TokenEmbedder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class CrossEncoderReranker:
    """Any sequence classifier with one label that sentence-transformers' CrossEncoder loads. Thread-safe."""

    def __init__(self, model: str, *, max_tokens: int, batch: int, device: str, dtype: str) -> None:
        """Load from a folder or the Hugging Face cache; nothing is downloaded when the hub is set offline.

        Raises:
            Unavailable: `reranker_unusable`: it cannot be loaded, or gives more than one score a pair.
        """
        import torch
        from sentence_transformers import CrossEncoder

        where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if dtype == "auto":
            native = where == "cuda" or torch.cpu._is_avx512_bf16_supported()
            dtype = "bfloat16" if native else "float32"
        try:
            self._model: Any = CrossEncoder(
                model,
                device=where,
                max_length=max_tokens,
                trust_remote_code=False,
                model_kwargs={"dtype": getattr(torch, dtype), "use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, RuntimeError, json.JSONDecodeError) as error:
            raise Unavailable(
                f"the reranker '{model}' cannot be loaded: {error}", code="reranker_unusable", retryable=False
            ) from error
        labels = int(self._model.config.num_labels)
        if labels != 1:
            raise Unavailable(
                f"the reranker '{model}' gives {labels} scores for a pair, one is needed",
                code="reranker_unusable",
                retryable=False,
            )
        self.name = Path(model).name
        self._batch = batch
        self._lock = Lock()  # one pass at a time: two at once on one device are slower than one after the other

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """Relevance of each passage to the query in [0, 1], order kept."""
        import torch

        if not passages:
            return []
        with self._lock:
            scores = self._model.predict(
                [(query, passage) for passage in passages],
                batch_size=self._batch,
                show_progress_bar=False,
                activation_fn=torch.nn.Sigmoid(),
                convert_to_tensor=True,
            )
        return [float(score) for score in scores.float()]


class MultiVectorReranker:
    """Late interaction over an embedder's token vectors. Thread-safe; vectors of the passages last read are kept."""

    def __init__(self, embedder: TokenEmbedder, *, cache_bytes: int) -> None:
        """cache_bytes: memory for vectors of passages, in half precision; 0 keeps none."""
        self.name = f"{embedder.name}/multi-vector"
        self._embedder = embedder
        self._cache_bytes = cache_bytes
        self._held = 0
        self._kept: OrderedDict[str, NDArray[np.float16]] = OrderedDict()
        self._lock = Lock()

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """Relevance of each passage in [0, 1], order kept: the mean over the query's tokens of the passage's likest.

        This is FlagEmbedding's `colbert_score`; below 0, where nothing is alike, counts as 0.
        """
        if not passages:
            return []
        with self._lock:
            known = {passage: self._kept[passage] for passage in passages if passage in self._kept}
            for passage in known:
                self._kept.move_to_end(passage)
        missing = [passage for passage in dict.fromkeys(passages) if passage not in known]
        asked, *made = self._embedder.encode_tokens([query, *missing])
        if not len(asked):
            return [0.0] * len(passages)
        fresh = dict(zip(missing, made, strict=True))
        scores = []
        for passage in passages:
            vectors: Any = fresh[passage] if passage in fresh else known[passage]
            likest = (asked @ vectors.T.astype(asked.dtype)).max(axis=1) if len(vectors) else asked[:, 0] * 0
            scores.append(max(0.0, float(likest.mean())))
        self._keep(fresh)
        return scores

    def _keep(self, fresh: dict[str, NDArray[np.float32]]) -> None:
        with self._lock:
            for passage, vectors in fresh.items():
                if passage not in self._kept:
                    self._kept[passage] = vectors.astype("float16")
                    self._held += self._kept[passage].nbytes
            while self._held > self._cache_bytes and self._kept:
                self._held -= self._kept.popitem(last=False)[1].nbytes
