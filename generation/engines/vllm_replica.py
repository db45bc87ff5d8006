"""One vLLM server: its routes, its health, and which adapters it has proven to apply.

Loading is not proof: a server may list an adapter and answer with the base. So a name counts as served here only after
the fingerprint of its version was found in the log-probabilities that this server tells under that name.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import structlog

from core.errors import AdapterRefused, TsumugiError, Unavailable
from core.settings import GeneratorEndpointSettings
from generation.adapters import remote_fingerprint
from generation.adapters.manifest import Fingerprint

log = structlog.stdlib.get_logger(__name__)

PROBE_BATCH = 32
"""Prompts of one request for log-probabilities; each has some twenty tokens."""
HEALTH_TIMEOUT_S = 3.0


class Replica:
    """Thread-safe. Failures to reach it open its breaker; the next success closes it."""

    def __init__(
        self, url: str, settings: GeneratorEndpointSettings, probes: Sequence[Sequence[int]],
        transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        """url: ends with `/v1`. probes: token ids of the probe texts."""
        self.url = url.rstrip("/")
        self._model = settings.model
        self._settings = settings
        self._probes = probes
        key = settings.api_key.get_secret_value() if settings.api_key else None
        self._client = httpx.Client(
            base_url=self.url + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s, pool=None),
            limits=httpx.Limits(max_connections=settings.max_parallel + 8),
            transport=transport,
            trust_env=False,
        )
        self._lock = threading.Lock()
        self._names: dict[str, threading.Lock] = {}
        self._proven: OrderedDict[str, None] = OrderedDict()
        self._base_told: dict[tuple[int, ...], float] = {}
        self._failures = 0
        self._closed_until = 0.0
        self._in_use: dict[str, int] = {}
        self.in_flight = 0

    # -- health

    @property
    def open(self) -> bool:
        """Whether the breaker keeps requests away now."""
        with self._lock:
            return time.monotonic() < self._closed_until

    def check(self) -> None:
        """Raise Unavailable unless the server says that it is healthy."""
        try:
            response = self._client.get(self.url.removesuffix("/v1") + "/health", timeout=HEALTH_TIMEOUT_S)
        except (httpx.TransportError, RuntimeError) as error:
            raise Unavailable(f"{self.url} does not answer: {error}", code="generator_unreachable") from error
        if response.status_code != httpx.codes.OK:
            raise Unavailable(f"{self.url} answered {response.status_code}", code="generator_unreachable")

    def failed(self) -> None:
        """Count a failure to get an answer; enough in a row open the breaker, after which one request tries again."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._settings.breaker_failures:
                self._closed_until = time.monotonic() + self._settings.breaker_s
                log.warning("vllm.breaker_open", replica=self.url, failures=self._failures)

    def succeeded(self) -> None:
        """An answer began: whatever was wrong is over."""
        with self._lock:
            self._failures, self._closed_until = 0, 0.0

    # -- adapters

    def proven(self) -> list[str]:
        """Names that this server has proven to serve, least recently used first."""
        with self._lock:
            return list(self._proven)

    def ensure(self, name: str, path: str, fingerprint: Fingerprint) -> None:
        """Load an adapter and prove it; at once when that was done before.

        path: where the server finds the folder.

        Raises:
            AdapterRefused: the server refuses it (`adapter_refused_by_server`), has another one under this name
                (`adapter_name_taken`), or does not apply it (`adapter_no_effect`, `adapter_fingerprint_mismatch`).
            Unavailable: the server does not answer.
        """
        with self._lock:
            if name in self._proven:
                self._proven.move_to_end(name)
                return
            turn = self._names.setdefault(name, threading.Lock())
        with turn:
            if name in self.proven():
                return
            self._load(name, path)
            try:
                self._prove(name, fingerprint)
            except AdapterRefused:
                self._unload_quietly(name)
                raise
            with self._lock:
                self._proven[name] = None
            log.info("vllm.adapter_proven", replica=self.url, adapter=name)

    def measure(self, name: str, path: str) -> Fingerprint:
        """Fingerprint an adapter that has none yet: loaded under `name`, measured, unloaded again."""
        self._load(name, path)
        try:
            likeliest = [
                sorted(set(before) | set(after))
                for before, after in zip(self._likeliest(self._model), self._likeliest(name), strict=True)
            ]
            base, adapted = partial(self._told, self._model), partial(self._told, name)
            return remote_fingerprint.measure(self._probes, likeliest, base, adapted)
        finally:
            self._unload_quietly(name)

    def forget(self, name: str) -> None:
        """The server does not know the name any more (it was restarted, say)."""
        with self._lock:
            self._proven.pop(name, None)
            self._base_told.clear()  # its base may be another one, too

    def unload(self, name: str) -> None:
        """Take an adapter from the server; one that is not there is fine."""
        with self._lock:
            self._proven.pop(name, None)
        response = self._post("unload_lora_adapter", {"lora_name": name}, HEALTH_TIMEOUT_S * 3)
        if response.status_code not in {httpx.codes.OK, httpx.codes.NOT_FOUND}:
            raise Unavailable(f"{self.url} did not unload {name}: {detail_of(response)}", code="generator_failed")

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Count a generation, so that its adapter is not unloaded under it."""
        with self._lock:
            self.in_flight += 1
            if name is not None:
                self._in_use[name] = self._in_use.get(name, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1
                if name is not None:
                    self._in_use[name] -= 1
                    if not self._in_use[name]:
                        del self._in_use[name]

    def trim(self, room: int, held: Sequence[str]) -> None:
        """Unload the least recently used adapters over `room`, but none that is held or in use."""
        with self._lock:
            over = len(self._proven) - room
            idle = [name for name in self._proven if name not in held and name not in self._in_use][: max(0, over)]
            turns = [(name, self._names.setdefault(name, threading.Lock())) for name in idle]
        for name, turn in turns:
            with turn:  # nobody loads it meanwhile
                with self._lock:
                    if name in self._in_use or name not in self._proven:
                        continue
                    del self._proven[name]
                self._unload_quietly(name)

    # -- requests

    def stream(self, body: Mapping[str, Any]) -> httpx.Response:
        """Send a chat completion; the response is open and must be closed."""
        return self._client.send(self._client.build_request("POST", "chat/completions", json=dict(body)), stream=True)

    def close(self) -> None:
        """Close connections; what runs on them breaks."""
        self._client.close()

    def _load(self, name: str, path: str) -> None:
        response = self._post(
            "load_lora_adapter", {"lora_name": name, "lora_path": path}, self._settings.load_timeout_s
        )
        if response.status_code == httpx.codes.OK:
            return
        detail = detail_of(response)
        if response.status_code == httpx.codes.BAD_REQUEST and "already been loaded" in detail:
            root = self._roots().get(name)
            if root in {path, None}:  # another process of ours was first
                return
            raise AdapterRefused(f"{self.url} serves another adapter as {name}, from {root}", code="adapter_name_taken")
        if response.status_code in {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}:
            raise Unavailable(f"{self.url} is busy: {detail}", code="generator_busy")
        raise AdapterRefused(
            f"{self.url} refuses the adapter: {detail}", code="adapter_refused_by_server",
            extra={"replica": self.url, "status": response.status_code},
        )  # fmt: skip

    def _prove(self, name: str, fingerprint: Fingerprint) -> None:
        asked = remote_fingerprint.questions(self._probes, fingerprint)
        keys = [tuple(prompt) for prompt in asked]
        unknown = [list(key) for key in keys if key not in self._base_told]
        if unknown:
            for key, value in zip(map(tuple, unknown), self._told(self._model, unknown), strict=True):
                self._base_told[key] = value
        try:
            remote_fingerprint.compare(fingerprint, [self._base_told[key] for key in keys], self._told(name, asked))
        except AdapterRefused as error:
            detail = f"{self.url}: {error.detail}"
            raise AdapterRefused(detail, code=error.code, extra={**error.extra, "replica": self.url}) from error

    def _told(self, model: str, prompts: Sequence[Sequence[int]]) -> list[float]:
        """Log-probability of the last token of each prompt."""
        found: list[float] = []
        for start in range(0, len(prompts), PROBE_BATCH):
            batch = [list(prompt) for prompt in prompts[start : start + PROBE_BATCH]]
            choices = self._complete({"model": model, "prompt": batch, "prompt_logprobs": 0})
            try:
                found += [
                    float(choice["prompt_logprobs"][-1][str(prompt[-1])]["logprob"])
                    for choice, prompt in zip(choices, batch, strict=True)
                ]
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise AdapterRefused(
                    f"{self.url} tells no log-probabilities of prompts", code="adapter_not_provable"
                ) from error
        return found

    def _likeliest(self, model: str) -> list[list[int]]:
        """The likeliest tokens at the end of each probe: those told for one more token, whichever it is."""
        asked = [[*probe, probe[-1]] for probe in self._probes]
        choices = self._complete({"model": model, "prompt": asked, "prompt_logprobs": 20})
        return [[int(token) for token in choice["prompt_logprobs"][-1]] for choice in choices]

    def _complete(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        body |= {"max_tokens": 1, "temperature": 0.0}
        response = self._post("completions", body, self._settings.load_timeout_s)
        if response.status_code != httpx.codes.OK:
            refused = response.status_code in {400, 404}
            kind: type[TsumugiError] = AdapterRefused if refused else Unavailable
            code = "adapter_not_provable" if refused else "generator_busy"
            raise kind(f"{self.url} answered {response.status_code}: {detail_of(response)}", code=code)
        try:
            return sorted(response.json()["choices"], key=lambda choice: choice["index"])
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"{self.url} sent no usable answer", code="generator_failed") from error

    def _roots(self) -> dict[str, str | None]:
        try:
            listed = self._client.get("models", timeout=HEALTH_TIMEOUT_S).json()["data"]
            return {card["id"]: card.get("root") for card in listed}
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"{self.url} lists no models: {error}", code="generator_unreachable") from error

    def _post(self, route: str, body: Mapping[str, Any], timeout_s: float) -> httpx.Response:
        timeout = httpx.Timeout(timeout_s, connect=self._settings.connect_timeout_s)
        try:
            return self._client.post(route, json=dict(body), timeout=timeout)
        except (httpx.TransportError, RuntimeError) as error:
            raise Unavailable(f"{self.url} does not answer: {error}", code="generator_unreachable") from error

    def _unload_quietly(self, name: str) -> None:
        try:
            self.unload(name)
        except Unavailable as error:
            log.warning("vllm.not_unloaded", replica=self.url, adapter=name, detail=error.detail)


def detail_of(response: httpx.Response) -> str:
    """What an error response says, at most 500 characters; reads and closes it."""
    try:
        error = json.loads(response.read()).get("error", {})
        return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
    except (ValueError, AttributeError, httpx.HTTPError):
        return response.reason_phrase
    finally:
        response.close()
