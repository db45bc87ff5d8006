"""Questions to language models behind any OpenAI-compatible endpoint, and the fence around text that is not ours."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import httpx

from core.settings import EndpointSettings


class EndpointFailed(Exception):
    """The endpoint did not answer, or not in the shape of the API.

    refused: it is there and will not take this very question (a status of 4xx but for keys, time and too many).
    """

    def __init__(self, detail: str, *, refused: bool = False) -> None:
        super().__init__(detail)
        self.refused = refused


def ask(model: EndpointSettings, messages: Sequence[Mapping[str, str]], *, max_tokens: int) -> str:
    """One chat completion, greedily.

    Raises:
        EndpointFailed: see the class.
    """
    headers = {"Authorization": f"Bearer {model.api_key.get_secret_value()}"} if model.api_key else {}
    body = {"model": model.model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens}
    try:
        answer = httpx.post(
            f"{model.url.rstrip('/')}/chat/completions", json=body, headers=headers, timeout=model.timeout_s
        )
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise EndpointFailed(f"'{model.model}' gave no answer: {error}", refused=_refused(error)) from error


def _refused(error: Exception) -> bool:
    status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
    return 400 <= status < 500 and status not in {401, 403, 404, 408, 429}


def fence_for(*texts: str) -> str:
    """A line that none of the texts can hold, because it depends on all of them."""
    return "-" * 8 + hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def fenced(parts: Sequence[tuple[str, str]], fence: str) -> str:
    """(title, text) pairs, each text between two lines of the fence."""
    return "\n\n".join(f"{title}:\n{fence}\n{text}\n{fence}" for title, text in parts)
