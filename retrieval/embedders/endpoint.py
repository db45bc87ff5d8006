"""An OpenAI-compatible `/embeddings` endpoint as the embedder: vLLM, TEI, llama.cpp, or a provider.

Embedding has no effect on the server, so a request may be sent again. An endpoint can change its model behind one name,
and nothing in the protocol would tell: name the model with its revision, and build a new index version when it changes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import httpx

from core.errors import Unavailable
from core.language import is_cjk
from core.types import Language
from retrieval.embedders.checkpoint import digest_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REVISION = "endpoint-1"
_CHARS_PER_TOKEN = 3.0
_LONGEST_WAIT_S = 20.0


class EndpointEmbedder:
    """Dense embedder over HTTP. Thread-safe; `concurrency` requests run at once."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        dim: int,
        languages: frozenset[Language],
        api_key: str | None = None,
        query_prefix: str = "",
        passage_prefix: str = "",
        max_tokens: int = 512,
        tokenizer: Path | None = None,
        batch_texts: int = 64,
        concurrency: int = 4,
        timeout_s: float = 30.0,
        attempts: int = 4,
        transport: httpx.BaseTransport | None = None,
        ask: bool = True,
    ) -> None:
        """Ask the endpoint for one vector and compare its length; without `ask` that waits for the first text.

        url: up to and with `/v1`. dim: what is expected. tokenizer: a `tokenizer.json` for exact token counts; without
        one, a Japanese character counts as one token and three others as one.

        Raises:
            Unavailable: `embedder_unreachable`, `embedder_busy`, `embedder_unauthorised`, `embedder_refused`,
                `embedder_bad_answer` or `embedder_dimension`.
        """
        self.name = model
        self.dim = dim
        self.max_tokens = max_tokens
        self.languages = languages
        self.truncated_total = 0
        self._prefixes = (query_prefix, passage_prefix)
        self._batch_texts = batch_texts
        self._attempts = max(1, attempts)
        self._counting = _tokenizer(tokenizer)
        self._lock = Lock()
        counted_by = tokenizer.read_bytes().hex() if tokenizer is not None else ""
        self.digest = digest_text(REVISION, model, str(dim), query_prefix, passage_prefix, str(max_tokens), counted_by)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="embed")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(
            base_url=url.rstrip("/") + "/",
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=min(5.0, timeout_s)),
            limits=httpx.Limits(max_connections=concurrency + 2),
            transport=transport,
        )
        try:
            if ask:
                self._request(["dimension"])
        except BaseException:
            self.close()
            raise

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages: float32 (len(texts), dim), rows L2-normalised, order kept; over-long ones cut and counted.

        Raises:
            Unavailable: see the constructor; those that may pass are `retryable`.
        """
        return self._encode([self._cut(self._prefixes[1], text) for text in texts])

    def encode_query(self, text: str) -> NDArray[np.float32]:
        """Embed one query: float32 (dim,), L2-normalised."""
        vector: NDArray[np.float32] = self._encode([self._cut(self._prefixes[0], text)])[0]
        return vector

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`: exact with a tokenizer, else an estimate that is rather too high."""
        if self._counting is not None:
            return len(self._counting.encode(text, add_special_tokens=False).ids)
        wide = sum(map(is_cjk, text))
        return wide + math.ceil((len(text) - wide) / _CHARS_PER_TOKEN)

    def close(self) -> None:
        """Close the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        import numpy as np

        batches = [texts[at : at + self._batch_texts] for at in range(0, len(texts), self._batch_texts)]
        if len(batches) <= 1:
            return self._request(texts) if texts else np.zeros((0, self.dim), dtype=np.float32)
        return np.concatenate(list(self._pool.map(self._request, batches)))

    def _cut(self, prefix: str, text: str) -> str:
        """Prefix and text within `max_tokens`, two of them left for what the server adds. Empty input is refused
        by most servers, so it becomes a space.
        """
        room = self.max_tokens - 2 - self.count_tokens(prefix)
        if self.count_tokens(text) > room:
            with self._lock:
                self.truncated_total += 1
            low, high = 0, len(text)
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if self.count_tokens(text[:middle]) <= room else (low, middle - 1)
            text = text[:low]
        return prefix + text or " "

    def _request(self, texts: list[str]) -> NDArray[np.float32]:
        """Vectors of one batch; only what may pass is sent again: no connection, a broken one, 429, 5xx."""
        trouble = Unavailable(f"the embedder '{self.name}' was not asked", code="embedder_unreachable")
        for attempt in range(self._attempts):
            try:
                response = self._client.post(
                    "embeddings", json={"model": self.name, "input": texts, "encoding_format": "float"}
                )
            except httpx.TransportError as error:
                trouble = Unavailable(
                    f"the embedder '{self.name}' does not answer: {type(error).__name__}", code="embedder_unreachable"
                )
                wait_s = 0.2 * 2**attempt
            else:
                if response.status_code == httpx.codes.OK:
                    return self._vectors(response, len(texts))
                trouble, wait_s = self._refusal(response, attempt)
                if not trouble.retryable:
                    raise trouble
            if attempt + 1 < self._attempts:
                time.sleep(wait_s)
        raise trouble

    def _refusal(self, response: httpx.Response, attempt: int) -> tuple[Unavailable, float]:
        status = response.status_code
        said = f"the embedder '{self.name}' answered {status}"
        if status in {401, 403}:
            return Unavailable(f"{said}: the key is not accepted", code="embedder_unauthorised", retryable=False), 0.0
        if status == 429 or status >= 500:
            asked = response.headers.get("retry-after", "")
            wait_s = float(asked) if asked.isdigit() else 0.2 * 2**attempt
            return Unavailable(said, code="embedder_busy"), min(wait_s, _LONGEST_WAIT_S)
        return Unavailable(f"{said}: {response.text[:300]}", code="embedder_refused", retryable=False), 0.0

    def _vectors(self, response: httpx.Response, count: int) -> NDArray[np.float32]:
        import numpy as np

        try:
            items = sorted(response.json()["data"], key=lambda item: item["index"])
            if [item["index"] for item in items] != list(range(count)):
                raise ValueError("not one vector for each text")
            lengths = {len(item["embedding"]) for item in items}
            if lengths != {self.dim}:
                raise Unavailable(
                    f"the embedder '{self.name}' makes vectors of {sorted(lengths)} dimensions, not of {self.dim}",
                    code="embedder_dimension",
                    retryable=False,
                )
            vectors: NDArray[Any] = np.asarray([item["embedding"] for item in items], dtype=np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(
                f"the embedder '{self.name}' sent no usable answer: {error}",
                code="embedder_bad_answer",
                retryable=False,
            ) from error
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or (norms == 0).any():
            raise Unavailable(
                f"the embedder '{self.name}' sent a vector that is zero or not finite",
                code="embedder_bad_answer",
                retryable=False,
            )
        normalised: NDArray[np.float32] = vectors / norms
        return normalised


def _tokenizer(path: Path | None) -> Any:
    if path is None:
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise Unavailable(f"the tokenizer {path} cannot be read", code="embedder_broken", retryable=False) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
