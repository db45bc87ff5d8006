"""A cross-encoder as second stage: it reads question and passage together, far better and far slower than any index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from core.errors import Unavailable


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
