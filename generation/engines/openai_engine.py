"""A generator behind any OpenAI-compatible HTTP server, as a plain client.

Adapters are models that the server knows by name; a version without a configured name is refused, never answered by the
base. Loading adapters into a server at run time is that server's own interface and not part of this one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import httpx

from core.errors import AdapterRefused, InvalidInput, TooLarge, Unavailable
from core.types import AdapterRef, AnswerFormat, GenerationRequest, Message
from generation.chat import ChatFormat
from generation.engines.drain import Drain
from generation.engines.handle import StreamHandle
from generation.engines.text import ThoughtFilter
from generation.engines.turns import FairPool

_CHARS_PER_TOKEN = 3
"""Rough: the server's tokenizer is not ours to know. It only sizes what is counted before a request."""

_PING_TIMEOUT_S = 3.0


class OpenAIEngine:
    """Engine over `POST {base_url}/chat/completions` with streaming; see `core.ports.Engine`."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        adapter_models: Mapping[str, str] | None = None,
        max_parallel: int = 32,
        max_queue: int = 64,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 120.0,
        attempts: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connect lazily.

        adapter_models: the server's model name for a stamp (`house@v3`) or a serving name. attempts: tries of one
        request, all of them before the first byte of an answer; after it, an error ends the generation.
        """
        self.base_model = model
        self._adapter_models = dict(adapter_models or {})
        self._attempts = attempts
        self._drain = Drain()
        self._pool = FairPool(max_parallel, max_queue, lambda: self._drain, "openai-engine")
        self._closed = threading.Event()
        self._client = httpx.Client(
            base_url=base_url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(read_timeout_s, connect=connect_timeout_s),
            limits=httpx.Limits(max_connections=max_parallel + 1),
            transport=transport,
        )

    def submit(self, request: GenerationRequest) -> StreamHandle:
        """Queue a generation."""
        model = self.base_model if request.adapter is None else self._model_of(request.adapter)
        if self._closed.is_set():
            raise Unavailable("the generator has stopped", code="engine_stopped")
        handle = StreamHandle(request.adapter, self.count_prompt_tokens(request.messages), lambda: None)
        body = body_of(request, model)
        self._pool.submit(request.tenant_id, lambda: self._work(handle, body))
        return handle

    def ensure_adapter(self, adapter: AdapterRef) -> None:
        """Only configured names can be served."""
        self._model_of(adapter)

    def retire_adapter(self, adapter: AdapterRef) -> None:
        """Nothing is in memory here."""

    def loaded_adapters(self) -> list[str]:
        """Configured names."""
        return sorted(self._adapter_models)

    def count_prompt_tokens(self, messages: Sequence[object]) -> int:
        """An estimate; the count of the server comes with the result."""
        return sum(len(message.content) for message in cast("Sequence[Message]", messages)) // _CHARS_PER_TOKEN

    def ping(self) -> str:
        """The model, when the server lists models: a request that costs it no generation."""
        try:
            response = self._client.get("models", timeout=_PING_TIMEOUT_S)
        except (httpx.TransportError, RuntimeError) as error:  # RuntimeError: the client has been closed
            raise Unavailable(f"the generator does not answer: {error}", code="generator_unreachable") from error
        if response.status_code != httpx.codes.OK:
            raise Unavailable(f"the generator answered {response.status_code}", code="generator_unreachable")
        return self.base_model

    def close(self) -> None:
        """End what runs, close connections."""
        self._closed.set()
        self._client.close()
        self._pool.close()

    def _model_of(self, adapter: AdapterRef) -> str:
        name = self._adapter_models.get(adapter.serving_name) or self._adapter_models.get(adapter.stamp)
        if name is None:
            raise AdapterRefused(f"the generator has no model for {adapter.stamp}", code="adapter_not_served")
        return name

    def _work(self, handle: StreamHandle, body: dict[str, Any]) -> None:
        if handle.cancelled:  # while it waited
            handle.finish("cancelled", 0)
            return
        try:
            with self._drain.work(), self._connect(body) as response:
                reason = "stop"
                usage: dict[str, Any] = {}
                pieces = 0
                thoughts = ThoughtFilter(inside=False, anywhere=False)
                for event in events_of(response):
                    if handle.cancelled or self._closed.is_set():
                        reason = "cancelled"
                        break
                    usage = event.get("usage") or usage
                    for choice in event.get("choices") or ():
                        text = (choice.get("delta") or {}).get("content") or ""
                        pieces += bool(text)
                        handle.push(thoughts.push(text))
                        reason = choice.get("finish_reason") or reason
                handle.push(thoughts.finish())
            handle.finish(
                reason if reason in {"stop", "length", "cancelled"} else "stop",
                int(usage.get("completion_tokens") or pieces),
                prompt_tokens=usage.get("prompt_tokens"),
            )
        except (InvalidInput, Unavailable, AdapterRefused) as error:
            handle.fail(error)
        except (httpx.HTTPError, ValueError, RuntimeError) as error:
            handle.fail(Unavailable(f"the generator's connection broke: {error}", code="generator_unreachable"))

    def _connect(self, body: dict[str, Any]) -> _Response:
        """Send until an answer begins; only failures to reach the server, 429 and 5xx are tried again."""
        last: Unavailable | None = None
        for attempt in range(self._attempts):
            if attempt and self._closed.wait(0.2 * 2**attempt):
                break
            try:
                response = self._client.send(
                    self._client.build_request("POST", "chat/completions", json=body), stream=True
                )
            except httpx.TransportError as error:
                last = Unavailable(f"the generator does not answer: {error}", code="generator_unreachable")
                continue
            if response.status_code == httpx.codes.OK:
                return _Response(response)
            detail = _detail_of(response)
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.status_code >= 500:
                last = Unavailable(f"the generator answered {response.status_code}: {detail}", code="generator_busy")
                continue
            if "context" in detail.lower() and "length" in detail.lower():
                raise TooLarge(detail, code="context_length_exceeded")
            raise InvalidInput(f"the generator refused the request: {detail}", code="generator_refused")
        raise last or Unavailable("the generator has stopped", code="engine_stopped")


class _Response:
    """A streamed response that is closed at the end of the block."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    def __enter__(self) -> httpx.Response:
        return self._response

    def __exit__(self, *_: object) -> None:
        self._response.close()


def body_of(request: GenerationRequest, model: str, chat: ChatFormat | None = None) -> dict[str, Any]:
    """JSON of a streamed chat completion.

    chat: of the model, where the server is one that takes vLLM's own fields.
    """
    plain = [{"role": message.role, "content": message.content} for message in request.messages]
    body: dict[str, Any] = {
        "model": model,
        "messages": plain if chat is None else chat.turns(request.messages),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if chat is not None and chat.switches:
        body["chat_template_kwargs"] = chat.switches
    if chat is not None and chat.stop_id is not None:
        body["stop_token_ids"] = [chat.stop_id]
    if request.stop:
        body["stop"] = list(request.stop)
    if request.seed is not None:
        body["seed"] = request.seed
    if request.answer_format is not None:
        body["response_format"] = _response_format(request.answer_format)
    return body


def _response_format(answer_format: AnswerFormat) -> dict[str, Any]:
    """OpenAI's own form, which vLLM, llama.cpp, Ollama and TGI constrain decoding by."""
    if answer_format.schema is None:
        return {"type": "json_object"}
    schema = json.loads(answer_format.schema)
    return {"type": "json_schema", "json_schema": {"name": answer_format.name, "schema": schema, "strict": True}}


def events_of(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Server-sent events until `[DONE]`; a stream that ends without it broke off."""
    for line in response.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise Unavailable(f"the generator failed: {event['error']}", code="generator_failed")
        yield event
    raise Unavailable("the generator's answer broke off", code="generator_unreachable")


def _detail_of(response: httpx.Response) -> str:
    try:
        error = json.loads(response.read()).get("error", {})
        return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
    except (ValueError, AttributeError, httpx.HTTPError):
        return response.reason_phrase
    finally:
        response.close()
