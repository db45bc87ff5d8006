"""The generator of the embedded topology: continuous batching over transformers, adapters of several versions mixed.

One thread owns the model. Between two decode steps it takes up newcomers (prefill in pieces, so that the others do not
stall), drops what was cancelled, loads and evicts adapters. A request's adapter is pinned when it is submitted.

Greedy results do not depend on who shares the batch in float32; in bfloat16 a matrix product may round otherwise for
another number of rows, which can flip a near-tie between two tokens.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

import torch

from core.errors import TooLarge, TsumugiError, Unavailable
from core.inference_imports import load
from core.settings import GenerationSettings
from core.types import AdapterRef, GenerationRequest, Message
from generation.adapters.manifest import Fingerprint
from generation.chat import ChatFormat
from generation.engines.adapter_bank import BASE, AdapterBank, PreparedAdapter, key_of, prepare_adapter
from generation.engines.batch import Batch, Row
from generation.engines.drain import Drain
from generation.engines.grammar import GrammarCompiler
from generation.engines.handle import StreamHandle
from generation.engines.paged.weights import why_unsupported
from generation.engines.text import Detokenizer, ShownText, stop_ids_of
from generation.engines.turns import is_guest, next_in_turn
from generation.models import BaseModelInfo, quiet_transformers

if TYPE_CHECKING:
    from generation.engines.paged.slot_bank import SlotBank

_log = logging.getLogger(__name__)


def choose_device(setting: str) -> tuple[torch.device, torch.dtype]:
    """CUDA where there is one; bfloat16 there and on CPUs that multiply it in hardware, else float32."""
    if setting == "cuda" or (setting == "auto" and torch.cuda.is_available()):
        return torch.device("cuda"), torch.bfloat16
    fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    fast = fast or getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return torch.device("cpu"), torch.bfloat16 if fast else torch.float32


def choose_decoder(setting: str, model: Any, context: int) -> str:
    """'paged' on a GPU for the models it knows, else 'plain'; what is set goes first.

    Raises:
        Unavailable: 'paged' is set and cannot run `model`; the message says why.
    """
    obstacle = why_unsupported(model, context)
    if setting == "paged" and obstacle:
        raise Unavailable(f"generation.decoder = 'paged': {obstacle}", retryable=False)
    if setting == "plain" or (setting == "auto" and model.device.type != "cuda"):
        return "plain"
    if obstacle:
        _log.warning("the plain decode loop serves this model on the GPU, several times slower: %s", obstacle)
        return "plain"
    return "paged"


class TransformersEngine:
    """Engine over one model in this process; see `core.ports.Engine` for the contract of its methods."""

    def __init__(
        self,
        base: BaseModelInfo,
        settings: GenerationSettings,
        *,
        dtype: torch.dtype | None = None,
        model: Any = None,
        tokenizer: Any = None,
    ) -> None:
        """Load the base.

        dtype: overrides the choice by hardware; float32 gives results independent of batching.
        model, tokenizer: the base itself where it is in memory already.
        """
        quiet_transformers()
        if settings.torch_threads is not None:
            torch.set_num_threads(settings.torch_threads)
        self._base = base
        self._settings = settings
        self._tokenizer = tokenizer or _load_tokenizer(base)
        self._chat = ChatFormat.of(self._tokenizer, base.name)
        self._model = model or _load_model(base, settings, dtype)
        self._stop_ids = stop_ids_of(self._model, self._tokenizer, template=self._chat.stop_id)
        self._context = min(settings.context_tokens, int(self._model.config.max_position_embeddings))
        self._grammars = GrammarCompiler(self._tokenizer, int(self._model.config.vocab_size), self._stop_ids)
        self._max_batch = settings.max_batch or (128 if self._model.device.type == "cuda" else 8)
        self._bank: AdapterBank | SlotBank
        self._batch: Batch
        self._build_batch()
        self.base_model = base.stamp

        self._lock = threading.Condition()
        self._queue: deque[Row] = deque()
        self._drain = Drain()
        self._commands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._loads: dict[str, Future[None]] = {}
        self._loaded: dict[str, AdapterRef] = {}
        self._held: OrderedDict[str, None] = OrderedDict()
        self._retired: set[str] = set()
        self._waiting: Counter[str] = Counter()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="generator", daemon=True)
        self._thread.start()

    def _build_batch(self) -> None:
        """The decode loop that the setting, the device and the model allow."""
        settings, model = self._settings, self._model
        if choose_decoder(settings.decoder, model, self._context) == "paged":
            from generation.engines.paged.batch import PagedBatch

            batch = PagedBatch(model, self._tokenizer, settings, rows=self._max_batch, context=self._context)
            self._batch, self._bank = batch, batch.bank
            self._context = min(self._context, batch.capacity)
            self._prepare = batch.prepare
            self._guest_places = 0  # its seats are counted out
            return
        bank = AdapterBank(model, self._tokenizer)
        self._batch, self._bank = Batch(model, bank, token_budget=max(self._context, 2048 * self._max_batch)), bank
        self._prepare = lambda: None
        self._guest_places = 1

    def submit(self, request: GenerationRequest) -> StreamHandle:
        """Queue a generation; an adapter that is not in memory is loaded first, in the caller's thread."""
        ids = self._chat.encode(request.messages)
        if request.max_tokens < 1 or len(ids) + request.max_tokens > self._context:
            raise TooLarge(
                f"{len(ids)} prompt tokens and {request.max_tokens} new ones do not fit {self._context}",
                code="context_length_exceeded",
                extra={"limit": self._context, "actual": len(ids) + request.max_tokens},
            )
        handle = StreamHandle(request.adapter, len(ids), self._wake)
        key = key_of(request.adapter) if request.adapter else BASE
        row = Row(
            request=request,
            handle=handle,
            key=key,
            prompt=ids,
            stop_ids=self._stop_ids,
            detokenizer=Detokenizer(self._decode),
            stops=ShownText(request.stop, self._chat.thought_filter(), trim=bool(self._chat.lead)),
            grammar=None if request.answer_format is None else self._grammars.compile(request.answer_format),
        )
        with self._lock:
            self._require_running()
            waiting = self._waiting.total()  # in the queue, or for the load of an adapter
            full = waiting >= self._settings.max_queue
            if full and not is_guest(request.tenant_id, self._waiting_tenants(), self._settings.max_queue):
                raise self._drain.queue_full(waiting)
            self._waiting[key] += 1  # from here on the adapter is not evicted
        try:
            if request.adapter is not None:
                self.ensure_adapter(request.adapter)
        except BaseException as error:
            with self._lock:
                self._count_off(key)
            if not isinstance(error, TsumugiError):
                raise
            handle.fail(error)
            return handle
        with self._lock:
            if self._stopping:
                handle.fail(Unavailable("the generator has stopped", code="engine_stopped"))
                return handle
            self._queue.append(row)
            self._lock.notify_all()
        return handle

    def ensure_adapter(self, adapter: AdapterRef) -> None:
        """Load and verify; several callers of one adapter share the load."""
        key = key_of(adapter)
        with self._lock:
            self._require_running()
            self._retired.discard(key)
            if key in self._loaded:
                return
            load = self._loads.get(key)
            mine = load is None
            if load is None:
                load = self._loads[key] = Future()
        if mine:
            try:
                prepared = prepare_adapter(adapter, self._base)
                self._call(lambda: self._insert(prepared))
                load.set_result(None)
            except BaseException as error:
                load.set_exception(error)
                raise
            finally:
                with self._lock:
                    self._loads.pop(key, None)
        else:
            load.result()

    def retire_adapter(self, adapter: AdapterRef) -> None:
        """Unload once no request uses it; asking for it again brings it back."""
        with self._lock:
            self._retired.add(key_of(adapter))
            self._held.pop(key_of(adapter), None)
        self._wake()

    def hold_adapters(self, adapters: Sequence[AdapterRef]) -> None:
        """Prefer to keep these when memory is short: the last adapters to be evicted among the idle ones."""
        with self._lock:
            for adapter in adapters:
                self._held.pop(key_of(adapter), None)
                self._held[key_of(adapter)] = None
            while len(self._held) > self._settings.max_adapters:
                self._held.popitem(last=False)

    def fingerprint_of(self, adapter: AdapterRef) -> Fingerprint:
        """Fingerprint measured when the adapter was loaded; loads it if need be."""
        self.ensure_adapter(adapter)
        return self._bank.fingerprints[key_of(adapter)]

    def loaded_adapters(self) -> list[str]:
        """Serving names in memory now."""
        with self._lock:
            return sorted(adapter.serving_name for adapter in self._loaded.values())

    def count_prompt_tokens(self, messages: Sequence[object]) -> int:
        """Tokens of the rendered prompt."""
        return len(self._chat.encode(cast("Sequence[Message]", messages)))

    def ping(self) -> str:
        """The base, while the thread that generates is alive."""
        self._require_running()
        return self.base_model

    def load(self) -> dict[str, int]:
        """Rows running and requests waiting, for metrics."""
        with self._lock:
            return {"running": len(self._batch.rows), "waiting": len(self._queue), "adapters": len(self._loaded)}

    def close(self) -> None:
        """Refuse new work, end what runs with an error, free memory."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        self._thread.join()

    def _decode(self, ids: Sequence[int]) -> str:
        return self._chat.decode(self._tokenizer, ids)

    def _require_running(self) -> None:
        if self._stopping or not self._thread.is_alive():
            raise Unavailable("the generator has stopped", code="engine_stopped")

    def _wake(self) -> None:
        with self._lock:
            self._lock.notify_all()

    def _call(self, action: Callable[[], None]) -> None:
        """Run something on the engine's thread, between two steps."""
        done: Future[None] = Future()
        with self._lock:
            self._require_running()
            self._commands.append((action, done))
            self._lock.notify_all()
        done.result()

    # Everything below runs on the engine's thread.

    def _run(self) -> None:
        try:
            self._prepare()
            while self._round():
                pass
        except BaseException:
            _log.exception("the generator's thread ends")
            raise
        finally:
            self._stop()  # whatever ended it, nobody is left waiting for a result

    def _round(self) -> bool:
        """Wait for work and do one round of it; False when the engine is to stop."""
        with self._lock:
            while not (self._stopping or self._commands or self._queue or self._batch.rows or self._retired):
                self._lock.wait()
            if self._stopping:
                return False
            command = self._commands.popleft() if self._commands else None
        if command is not None:
            _settle(*command)
        try:
            self._drop_cancelled()
            self._drain.running(len(self._batch.rows))
            while self._admit():
                pass
            self._drain.running(len(self._batch.rows))
            self._batch.step()
        except Exception as error:  # noqa: BLE001 - logged; the rows end with it, the engine goes on
            _log.exception("generation step failed")
            self._batch.fail(Unavailable(f"generation failed: {error}", code="generation_failed"))
        self._drain.running(len(self._batch.rows))
        self._trim()
        return True

    def _admit(self) -> bool:
        """Take a waiting request into the batch if there is room; it is prefilled by the following steps.

        The oldest of the tenant of whose requests the fewest run; one of whose none run has a place beside the others.
        False: nobody waits, or there is no room.
        """
        with self._lock:
            if not self._queue:
                return False
            running = Counter(row.request.tenant_id for row in self._batch.rows)
            at = next_in_turn(self._waiting_tenants(), running)
            row = self._queue[at]
            places = self._max_batch + (0 if running[row.request.tenant_id] else self._guest_places)
            if len(self._batch.rows) >= places or not self._batch.fits(row):
                return False
            del self._queue[at]
        try:
            if row.request.adapter is not None and row.key not in self._bank.loaded:
                self._insert(prepare_adapter(row.request.adapter, self._base))
            self._batch.add(row)
        except TsumugiError as error:
            row.handle.fail(error)
        except Exception as error:  # noqa: BLE001 - logged; it is in no batch yet, so nobody else would end it
            _log.exception("a waiting generation could not be started")
            row.handle.fail(Unavailable(f"generation failed: {error}", code="generation_failed"))
        finally:
            with self._lock:
                self._count_off(row.key)
        return True

    def _waiting_tenants(self) -> list[str]:
        """Tenants of the queue, oldest first; the caller holds the lock."""
        return [row.request.tenant_id for row in self._queue]

    def _count_off(self, key: str) -> None:
        """One fewer waits for an adapter; the caller holds the lock."""
        self._waiting[key] -= 1
        if not self._waiting[key]:
            del self._waiting[key]

    def _insert(self, prepared: PreparedAdapter) -> None:
        key = key_of(prepared.ref)
        try:
            self._bank.insert(prepared)
        except torch.OutOfMemoryError as error:
            raise Unavailable(f"no memory to load {prepared.ref.stamp}", code="adapter_no_memory") from error
        with self._lock:
            self._loaded[key] = prepared.ref

    def _drop_cancelled(self) -> None:
        with self._lock:
            gone = [row for row in self._queue if row.handle.cancelled]
            for row in gone:
                self._queue.remove(row)
                self._count_off(row.key)
        for row in gone:
            row.handle.finish("cancelled", 0)
        self._batch.drop_cancelled()

    def _trim(self) -> None:
        """Unload retired adapters, then the least recently used ones over the bound; never one that a row uses."""
        running = {row.key for row in self._batch.rows}
        with self._lock:
            idle = [key for key in self._loaded if key not in running]
            gone = [key for key in idle if key in self._retired and not self._waiting[key]]
            self._retired &= set(self._loaded) - set(gone)
            excess = len(self._loaded) - len(gone) - self._settings.max_adapters
            if excess > 0:
                order = sorted(
                    (key for key in idle if key not in gone),
                    key=lambda key: (self._waiting[key] > 0, key in self._held, self._bank.last_used.get(key, 0.0)),
                )
                gone += order[:excess]
            for key in gone:
                del self._loaded[key]
        for key in gone:
            self._bank.remove(key)

    def _stop(self) -> None:
        error = Unavailable("the generator has stopped", code="engine_stopped")
        with self._lock:
            self._stopping = True
            waiting, self._queue = list(self._queue), deque()
            commands, self._commands = list(self._commands), deque()
        self._batch.fail(error)
        for row in waiting:
            row.handle.fail(error)
        for _, done in commands:
            done.set_exception(error)


def _load_tokenizer(base: BaseModelInfo) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base.path)


def _load_model(base: BaseModelInfo, settings: GenerationSettings, dtype: torch.dtype | None) -> Any:
    from transformers import AutoModelForCausalLM

    device, chosen = choose_device(settings.device)
    model = load(lambda: AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype or chosen))
    return cast("Any", model).to(device).eval()


def _settle(action: Callable[[], None], done: Future[None]) -> None:
    try:
        action()
    except BaseException as error:  # noqa: BLE001 - handed to the caller, who waits for it
        done.set_exception(error)
    else:
        done.set_result(None)
