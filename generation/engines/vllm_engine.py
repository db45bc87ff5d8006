"""Generation on one or more vLLM servers with adapters loaded at run time; see `core.ports.Engine`.

An adapter is one immutable name on every server: its serving name holds the digest of its content, so no name ever
means two contents (vLLM keys its prefix cache by name). `ensure_adapter` returns only when every replica has proven to
apply the adapter; that is what lets an alias move. A request goes to the replica with the fewest running ones. It is
sent again, elsewhere if there is an elsewhere, only while nothing of an answer has come.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
import structlog

from core.errors import AdapterRefused, InvalidInput, TooLarge, TsumugiError, Unavailable
from core.settings import GenerationSettings, GeneratorEndpointSettings
from core.types import AdapterRef, GenerationRequest, Message
from generation.adapters.manifest import Fingerprint, verify
from generation.adapters.probes import PROBES
from generation.chat import ChatFormat
from generation.engines.drain import Drain
from generation.engines.handle import StreamHandle
from generation.engines.openai_engine import body_of, events_of
from generation.engines.text import ThoughtFilter
from generation.engines.turns import FairPool
from generation.engines.vllm_replica import Replica, detail_of
from generation.models import BaseModelInfo

log = structlog.stdlib.get_logger(__name__)

BREAKER_RETRY_AFTER_S = 2
"""Told while the breakers of all replicas are open."""
TEMPLATE_TOKENS = 8
"""Tokens that a chat template puts around one message, about."""


class VllmEngine:
    """Engine over vLLM's OpenAI-compatible servers. Never imports torch."""

    def __init__(
        self,
        settings: GeneratorEndpointSettings,
        generation: GenerationSettings,
        base: BaseModelInfo,
        *,
        adapters_dir: Path,
        transport: Callable[[str], httpx.BaseTransport] | None = None,
    ) -> None:
        """Connect lazily.

        base: the model that the servers hold, as adapters were trained on it. adapters_dir: our folder of versions;
        servers find it at `settings.adapters_folder`.
        """
        from tokenizers import Tokenizer

        self._settings = settings
        self._base = base
        self._ours = adapters_dir
        self._room = generation.max_adapters
        self._chat = ChatFormat.of_folder(base.path, base.name)
        self._tokenizer = Tokenizer.from_file(str(base.path / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        probes = [list(self._tokenizer.encode(text, add_special_tokens=False).ids) for text in PROBES]
        self.replicas = tuple(
            Replica(url, settings, probes, transport(url) if transport else None) for url in settings.urls
        )
        self.base_model = base.stamp
        self._drain = Drain()
        self._pool = FairPool(settings.max_parallel, generation.max_queue, lambda: self._drain, "vllm")
        self._loads = ThreadPoolExecutor(max(4, 2 * len(self.replicas)), thread_name_prefix="vllm-load")
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._held: list[str] = []
        self._verified: dict[str, Fingerprint] = {}

    def submit(self, request: GenerationRequest) -> StreamHandle:
        """Queue a generation; what is wrong with the adapter or the servers ends the handle."""
        if self._closed.is_set():
            raise Unavailable("the generator has stopped", code="engine_stopped")
        handle = StreamHandle(request.adapter, self.count_prompt_tokens(request.messages), lambda: None)
        self._pool.submit(request.tenant_id, lambda: self._work(handle, request))
        return handle

    def ensure_adapter(self, adapter: AdapterRef) -> None:
        """Have every replica load the adapter and prove it.

        Raises:
            AdapterRefused: its files are not what its manifest says, or a replica does not serve it.
            Unavailable: a replica does not answer. Either names all replicas that stand in the way.
        """
        fingerprint = self._fingerprint(adapter)
        loads = [
            (replica, self._loads.submit(replica.ensure, adapter.serving_name, self._path(adapter), fingerprint))
            for replica in self.replicas
        ]
        troubles: list[TsumugiError] = []
        for _replica, load in loads:
            try:
                load.result()
            except TsumugiError as error:
                troubles.append(error)
        if troubles:
            first = next((error for error in troubles if isinstance(error, AdapterRefused)), troubles[0])
            detail = "; ".join(error.detail for error in troubles)
            served = f"{len(loads) - len(troubles)} of {len(loads)} replicas serve {adapter.stamp}"
            raise type(first)(f"{served}: {detail}", code=first.code, extra=first.extra)
        for replica in self.replicas:
            replica.trim(self._room, self._held_names())

    def retire_adapter(self, adapter: AdapterRef) -> None:
        """Unload it everywhere; a replica that does not answer will have forgotten it when it is back."""
        with self._lock:
            self._held = [name for name in self._held if name != adapter.serving_name]
        for replica in self.replicas:
            try:
                replica.unload(adapter.serving_name)
            except Unavailable as error:
                log.warning("vllm.not_unloaded", replica=replica.url, adapter=adapter.stamp, detail=error.detail)

    def hold_adapters(self, adapters: Sequence[AdapterRef]) -> None:
        """Do not unload these for want of room; the latest `max_adapters` of all calls count."""
        with self._lock:
            names = [adapter.serving_name for adapter in adapters]
            self._held = [*(name for name in self._held if name not in names), *names][-self._room :]

    def fingerprint_of(self, adapter: AdapterRef) -> Fingerprint:
        """Measure an adapter on the first replica that answers: for one that comes without a fingerprint."""
        return self._choose(None, set()).measure(f"measured-{adapter.digest}", self._path(adapter))

    def loaded_adapters(self) -> list[str]:
        """Names that every replica serves."""
        names = [set(replica.proven()) for replica in self.replicas]
        return sorted(set.intersection(*names)) if names else []

    def count_prompt_tokens(self, messages: Sequence[object]) -> int:
        """Tokens of the messages, and about those that the server's template adds."""
        turns = cast("Sequence[Message]", messages)
        texts = self._tokenizer.encode_batch([turn.content for turn in turns], add_special_tokens=False)
        return sum(len(text.ids) + TEMPLATE_TOKENS for text in texts)

    def ping(self) -> str:
        """The base, when a replica is healthy; says how many are when not all of them."""
        troubles = []
        for replica in self.replicas:
            try:
                replica.check()
            except Unavailable as error:
                troubles.append(error.detail)
        if len(troubles) == len(self.replicas):
            raise Unavailable("; ".join(troubles), code="generator_unreachable")
        up = len(self.replicas) - len(troubles)
        return self.base_model if not troubles else f"{self.base_model} on {up} of {len(self.replicas)} replicas"

    def close(self) -> None:
        """End what runs, close connections."""
        self._closed.set()
        for replica in self.replicas:
            replica.close()
        self._pool.close()
        self._loads.shutdown(wait=True)

    def _work(self, handle: StreamHandle, request: GenerationRequest) -> None:
        try:
            with self._drain.work():
                self._generate(handle, request)
        except TsumugiError as error:
            handle.fail(error)
        except (httpx.HTTPError, ValueError, RuntimeError) as error:
            handle.fail(Unavailable(f"the generator's connection broke: {error}", code="generator_unreachable"))

    def _generate(self, handle: StreamHandle, request: GenerationRequest) -> None:
        """Try replicas until an answer begins; from its first character on there is no second try."""
        last: TsumugiError = Unavailable("the generator has stopped", code="engine_stopped")
        tried: set[str] = set()
        for attempt in range(self._settings.attempts):
            if handle.cancelled or (attempt and self._closed.wait(0.1 * 2**attempt)):
                break
            replica = self._choose(last if tried else None, tried)
            tried.add(replica.url)
            name = request.adapter.serving_name if request.adapter else None
            try:
                with replica.using(name):
                    try:
                        self._stream(replica, handle, request, name)
                    except _Lost:  # restarted, or unloaded by another process: one more load is no second try
                        self._stream(replica, handle, request, name)
                return
            except (Unavailable, AdapterRefused) as error:
                if handle.first_token_at is not None or not _may_pass(error):
                    raise
                last = error
            except (httpx.HTTPError, ValueError) as error:
                replica.failed()
                if handle.first_token_at is not None:
                    raise
                last = Unavailable(f"{replica.url} does not answer: {error}", code="generator_unreachable")
        if handle.cancelled:
            handle.finish("cancelled", 0)
            return
        raise last

    def _stream(self, replica: Replica, handle: StreamHandle, request: GenerationRequest, name: str | None) -> None:
        if request.adapter is not None:
            replica.ensure(str(name), self._path(request.adapter), self._fingerprint(request.adapter))
        response = replica.stream(body_of(request, name or self._settings.model, self._chat))
        try:
            if response.status_code != httpx.codes.OK:
                raise self._refusal(replica, response, name)
            replica.succeeded()
            reason, pieces = "stop", 0
            thoughts = self._thoughts()
            usage: dict[str, Any] = {}
            for event in events_of(response):
                if handle.cancelled or self._closed.is_set():
                    reason = "cancelled"
                    break
                usage = event.get("usage") or usage
                for choice in event.get("choices") or ():
                    text = (choice.get("delta") or {}).get("content") or ""
                    if text:
                        pieces += 1
                        handle.push(thoughts.push(text))
                    reason = choice.get("finish_reason") or reason
            handle.push(thoughts.finish())
        finally:
            response.close()
        handle.finish(
            reason if reason in {"stop", "length", "cancelled"} else "stop",
            int(usage.get("completion_tokens") or pieces),
            prompt_tokens=usage.get("prompt_tokens"),
        )

    def _thoughts(self) -> ThoughtFilter:
        """Of one answer; the server renders the published template, which may begin inside a thought."""
        marks = self._chat.thoughts
        if marks is None:
            return ThoughtFilter(inside=False, anywhere=False)
        return ThoughtFilter(marks, inside=self._chat.opens_thought, anywhere=True)

    def _refusal(self, replica: Replica, response: httpx.Response, name: str | None) -> TsumugiError:
        status, detail = response.status_code, detail_of(response)
        if status == httpx.codes.NOT_FOUND and name is not None:
            replica.forget(name)
            return _Lost(f"{replica.url} has lost {name}", code="generator_busy")
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= 500:
            if status >= 500:
                replica.failed()
            return Unavailable(f"{replica.url} answered {status}: {detail}", code="generator_busy")
        if "context" in detail.lower() and "length" in detail.lower():
            return TooLarge(detail, code="context_length_exceeded")
        return InvalidInput(f"the generator refused the request: {detail}", code="generator_refused")

    def _choose(self, last: TsumugiError | None, tried: set[str]) -> Replica:
        """The replica with the fewest running requests, one not tried yet before others.

        Raises:
            Unavailable: every breaker is open.
        """
        usable = [replica for replica in self.replicas if not replica.open]
        if not usable:
            if last is not None:
                raise last
            raise Unavailable(
                "every replica of the generator failed just now", code="generator_unreachable",
                extra={"retry_after_s": BREAKER_RETRY_AFTER_S},
            )  # fmt: skip
        return min(usable, key=lambda replica: (replica.url in tried, replica.in_flight))

    def _fingerprint(self, adapter: AdapterRef) -> Fingerprint:
        """Of the manifest, once the files were compared with it."""
        with self._lock:
            known = self._verified.get(adapter.serving_name)
        if known is not None:
            return known
        manifest = verify(Path(adapter.path), self._base)
        if manifest.content_digest != adapter.digest:
            raise AdapterRefused(f"{adapter.stamp} has other content on disk", code="adapter_digest_mismatch")
        if manifest.fingerprint is None:
            raise AdapterRefused(f"{adapter.stamp} has no fingerprint to prove it by", code="adapter_bad_manifest")
        with self._lock:
            self._verified[adapter.serving_name] = manifest.fingerprint
        return manifest.fingerprint

    def _path(self, adapter: AdapterRef) -> str:
        theirs = self._settings.adapters_folder
        if theirs is None:
            return adapter.path
        return f"{theirs.rstrip('/')}/{Path(adapter.path).relative_to(self._ours).as_posix()}"

    def _held_names(self) -> list[str]:
        with self._lock:
            return list(self._held)


class _Lost(Unavailable):
    """The replica does not know the adapter any more."""


def _may_pass(error: TsumugiError) -> bool:
    """Whether another replica, or the same one a moment later, may do better."""
    return error.retryable or error.code == "adapter_refused_by_server"
