"""A vLLM server for tests: the routes we use, with its statuses and bodies, strictly checked.

Written from vLLM's `entrypoints/openai` (0.26): what a route of ours sends beyond the fields named here is refused with
400, where vLLM would silently ignore it. What generates is a backend: a real small model with PEFT, or an extractor
that quotes the passage (no torch). Faults are switched on per server, as a test needs them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Backend(Protocol):
    """What generates. `adapter` is a name that `load` was given, None for the base."""

    def load(self, name: str, folder: Path) -> None:
        """Raises ValueError with vLLM's words when it cannot."""
        ...

    def unload(self, name: str) -> None: ...

    def generate(self, adapter: str | None, messages: Sequence[dict[str, str]], max_tokens: int) -> Iterator[str]: ...

    def logprobs(self, adapter: str | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """For each prompt the log-probability of its tokens from the second on."""
        ...


@dataclass
class Faults:
    """What is wrong with this replica."""

    refuse_loads: bool = False
    ignore_adapters: bool = False
    """Loads, lists, and then generates with the base."""
    pretend_loads: bool = False
    """Says that it has loaded, loads nothing, and answers unknown names with the base."""
    answer_with: str | None = None
    """Generates with this adapter whatever is asked for."""
    statuses: list[int] = field(default_factory=list)
    """Next completions are refused with these before anything is done."""
    break_after: int | None = None
    """Next stream breaks off after so many pieces."""
    slow_s: float = 0.0
    no_sleep_mode: bool = False
    """Was started without --enable-sleep-mode, so it has no such routes."""


@dataclass
class Replica:
    """State of one server; `max_lora_rank` as vLLM is started with."""

    backend: Backend
    base: str = "base"
    max_lora_rank: int = 16
    api_key: str | None = None
    faults: Faults = field(default_factory=Faults)
    loaded: dict[str, str] = field(default_factory=dict)
    ever: list[str] = field(default_factory=list)
    """Every name that was ever loaded, in order."""
    served: list[str] = field(default_factory=list)
    """Model of every chat completion that began."""
    asleep: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Load(_Strict):
    lora_name: str
    lora_path: str
    load_inplace: bool = False


class _Unload(_Strict):
    lora_name: str
    lora_int_id: int | None = None


class _Turn(_Strict):
    role: str
    content: str


class _StreamOptions(_Strict):
    include_usage: bool = True


class _Chat(_Strict):
    model: str
    messages: list[_Turn] = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    stream: bool = False
    stream_options: _StreamOptions | None = None
    stop: list[str] = Field(default_factory=list)
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class _Completion(_Strict):
    model: str
    prompt: list[list[int]]
    max_tokens: int = Field(ge=1)
    temperature: float = 0.0
    prompt_logprobs: int = Field(ge=0, le=20)


def _error(message: str, kind: str, status: int, param: str | None = None) -> JSONResponse:
    body = {"error": {"message": message, "type": kind, "param": param, "code": status}}
    return JSONResponse(body, status_code=status)


def routes(replica: Replica) -> APIRouter:
    """The routes of a replica."""
    router = APIRouter()

    async def parsed(request: Request, model: type[Any]) -> Any:
        if replica.api_key is not None and request.headers.get("authorization") != f"Bearer {replica.api_key}":
            return JSONResponse({"error": "Unauthorized"}, status_code=401)
        try:
            return model.model_validate_json(await request.body())
        except (ValidationError, RequestValidationError) as error:
            return _error(str(error), "BadRequestError", 400)

    def unknown(name: str) -> JSONResponse | None:
        if name == replica.base or name in replica.loaded or replica.faults.pretend_loads:
            return None
        return _error(f"The model `{name}` does not exist.", "NotFoundError", 404, "model")

    def acting(name: str) -> str | None:
        if replica.faults.answer_with is not None:
            return replica.faults.answer_with
        known = name in replica.loaded and not replica.faults.ignore_adapters
        return name if known else None

    @router.get("/health")
    def health() -> Response:
        return Response(status_code=200)

    @router.post("/sleep")
    def sleep(level: int = 1) -> Response:
        if replica.faults.no_sleep_mode:
            return JSONResponse({"detail": "Not Found"}, status_code=404)
        replica.asleep = True
        return Response(status_code=200)

    @router.post("/wake_up")
    def wake_up() -> Response:
        if replica.faults.no_sleep_mode:
            return JSONResponse({"detail": "Not Found"}, status_code=404)
        replica.asleep = False
        return Response(status_code=200)

    @router.get("/v1/models")
    def models() -> dict[str, Any]:
        card = {"object": "model", "owned_by": "vllm", "created": int(time.time())}
        base = {**card, "id": replica.base, "root": replica.base, "parent": None, "max_model_len": 8192}
        loras = [
            {**card, "id": name, "root": path, "parent": replica.base, "max_model_len": None}
            for name, path in list(replica.loaded.items())
        ]
        return {"object": "list", "data": [base, *loras]}

    @router.post("/v1/load_lora_adapter")
    async def load(request: Request) -> Response:
        body = await parsed(request, _Load)
        if isinstance(body, Response):
            return body
        return await _in_thread(load_now, body)

    def load_now(body: _Load) -> Response:
        if not body.lora_name or not body.lora_path:
            return _error("Both 'lora_name' and 'lora_path' must be provided.", "InvalidUserInput", 400)
        with replica.lock:
            if body.lora_name in replica.loaded and not body.load_inplace:
                return _error(
                    f"The lora adapter '{body.lora_name}' has already been loaded. If you want to load the adapter in "
                    "place, set 'load_inplace' to True.",
                    "InvalidUserInput",
                    400,
                )
            if replica.faults.pretend_loads:
                return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")
            if replica.faults.refuse_loads:
                return _error("CUDA out of memory.", "InternalServerError", 500)
            folder = Path(body.lora_path)
            if not (folder / "adapter_config.json").is_file():
                return _error(
                    f"Loading lora {body.lora_name} failed: No adapter found for {folder}", "NotFoundError", 404
                )
            trouble = refused_by_vllm(json.loads((folder / "adapter_config.json").read_text("utf-8")), replica)
            if trouble is not None:
                return _error(trouble, "InternalServerError", 500)
            try:
                replica.backend.load(body.lora_name, folder)
            except ValueError as error:
                return _error(str(error), "InternalServerError", 500)
            replica.loaded[body.lora_name] = body.lora_path
            replica.ever.append(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @router.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> Response:
        body = await parsed(request, _Unload)
        if isinstance(body, Response):
            return body
        with replica.lock:
            if body.lora_name not in replica.loaded:
                return _error(f"The lora adapter '{body.lora_name}' cannot be found.", "NotFoundError", 404)
            replica.backend.unload(body.lora_name)
            del replica.loaded[body.lora_name]
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    @router.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await parsed(request, _Completion)
        if isinstance(body, Response):
            return body
        return unknown(body.model) or await _in_thread(complete, body)

    def complete(body: _Completion) -> Response:
        rows = replica.backend.logprobs(acting(body.model), body.prompt)
        choices = []
        for index, (prompt, row) in enumerate(zip(body.prompt, rows, strict=True)):
            told: list[dict[str, Any] | None] = [None]
            for token, value in zip(prompt[1:], row, strict=True):
                told.append({str(token): {"logprob": value, "rank": 1, "decoded_token": "?"}})
            choices.append(
                {"index": index, "text": "x", "logprobs": None, "finish_reason": "length", "prompt_logprobs": told}
            )
        return JSONResponse({"id": "cmpl-1", "object": "text_completion", "model": body.model, "choices": choices})

    @router.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await parsed(request, _Chat)
        if isinstance(body, Response):
            return body
        if replica.faults.statuses:
            return _error("overloaded", "ServiceUnavailable", replica.faults.statuses.pop(0))
        trouble = unknown(body.model)
        if trouble is not None:
            return trouble
        replica.served.append(body.model)
        turns = [turn.model_dump() for turn in body.messages]
        pieces = replica.backend.generate(acting(body.model), turns, body.max_tokens)
        if not body.stream:
            text = "".join(await _in_thread(list, pieces))
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return JSONResponse(
                {"id": "chatcmpl-1", "object": "chat.completion", "model": body.model, "choices": [choice]}
            )
        return StreamingResponse(stream(body, pieces), media_type="text/event-stream")

    def stream(body: _Chat, pieces: Iterator[str]) -> Iterator[str]:
        breaks, replica.faults.break_after = replica.faults.break_after, None
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": body.model}

        def event(delta: dict[str, str], reason: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"

        yield event({"role": "assistant", "content": ""})
        count = 0
        for piece in pieces:
            if breaks is not None and count >= breaks:
                raise ConnectionResetError("told to break off")
            if replica.faults.slow_s:
                time.sleep(replica.faults.slow_s)  # a model's pace
            yield event({"content": piece})
            count += 1
        yield event({}, "stop" if count < body.max_tokens else "length")
        if body.stream_options is not None and body.stream_options.include_usage:
            usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
            yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"

    return router


@contextmanager
def serve(replica: Replica) -> Iterator[str]:
    """A replica on a free port of this machine; its URL, ending with `/v1`."""
    app = FastAPI()
    app.include_router(routes(replica))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the stand-in did not start")
        time.sleep(0.01)  # uvicorn offers no event for it
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(10)


async def _in_thread(call: Any, *arguments: Any) -> Any:
    from fastapi.concurrency import run_in_threadpool

    return await run_in_threadpool(call, *arguments)


def refused_by_vllm(config: dict[str, Any], replica: Replica) -> str | None:
    """What `PEFTHelper` says of a configuration, None when it takes it."""
    if config.get("modules_to_save"):
        return "vLLM only supports modules_to_save being None."
    if config.get("use_dora"):
        return "vLLM does not yet support DoRA."
    if config.get("r", 0) > replica.max_lora_rank:
        return f"LoRA rank {config['r']} is greater than max_lora_rank {replica.max_lora_rank}."
    if config.get("bias", "none") != "none":
        return "Adapter bias is not supported."
    return None


class ExtractBackend:
    """Quotes the sentence of the passages that shares most words with the question. No model, no torch."""

    def load(self, name: str, folder: Path) -> None:
        """Anything goes."""

    def unload(self, name: str) -> None:
        """Nothing is held."""

    def generate(self, adapter: str | None, messages: Sequence[dict[str, str]], max_tokens: int) -> Iterator[str]:
        *passages, question = messages[-1]["content"].split("\n\n")
        wanted = set(_words(question))
        best, found = -1, "I could not find this in the documents."
        number = "1"
        for block in passages:
            if block.startswith("[") and "]" in block[:5]:
                number = block[1 : block.index("]")]
            text = block.partition("] ")[2]
            for sentence in text.replace("。", "。\n").replace(". ", ".\n").split("\n"):
                shared = len(wanted & set(_words(sentence)))
                if shared > best and sentence.strip():
                    best, found = shared, f"{sentence.strip().removesuffix('.')} [{number}]."
        yield from _cut(found)

    def logprobs(self, adapter: str | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[-1.0] * (len(prompt) - 1) for prompt in prompts]


def _words(text: str) -> list[str]:
    words = "".join(char.lower() if char.isalnum() else " " for char in text).split()
    return [part for word in words for part in ([word] if word.isascii() else map("".join, pairwise(word)))]


def _cut(text: str) -> Iterator[str]:
    for start in range(0, len(text), 12):
        yield text[start : start + 12]


class PeftBackend:
    """A real small model with PEFT, one request at a time, greedy."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch = torch
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._lock = threading.RLock()
        self._peft = False

    def load(self, name: str, folder: Path) -> None:
        with self._lock:
            if self._peft and _key(name) in self._model.peft_config:
                return  # kept when it was unloaded; a name holds the digest of its content
            try:
                if not self._peft:
                    from peft import PeftModel

                    self._model = PeftModel.from_pretrained(self._model, folder, adapter_name=_key(name)).eval()
                    self._peft = True
                else:
                    self._model.load_adapter(folder, adapter_name=_key(name))
            except (RuntimeError, KeyError) as error:
                raise ValueError(str(error)) from error

    def unload(self, name: str) -> None:
        with self._lock:
            others = [key for key in self._model.peft_config if key != _key(name)]
            if others:  # PEFT keeps the last one; it is not asked for any more
                self._model.delete_adapter(_key(name))

    def generate(self, adapter: str | None, messages: Sequence[dict[str, str]], max_tokens: int) -> Iterator[str]:
        ids = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
        made: list[int] = []
        shown = ""
        past = None
        tokens = self._torch.tensor([list(ids)])
        for _ in range(max_tokens):
            # The mode belongs to the thread, and a generator may go on in another: none is held over a yield.
            with self._lock, self._torch.no_grad(), self._acting(adapter):
                output = self._model(input_ids=tokens, past_key_values=past, use_cache=True)
            past = output.past_key_values
            token = int(output.logits[0, -1].argmax())
            if token in self._stops():
                break
            made.append(token)
            tokens = self._torch.tensor([[token]])
            text = self._tokenizer.decode(made, skip_special_tokens=True)
            if not text.endswith("\ufffd") and len(text) > len(shown):
                yield text[len(shown) :]
                shown = text

    def logprobs(self, adapter: str | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        rows: list[list[float]] = [[] for _ in prompts]
        by_length: dict[int, list[int]] = {}
        for at, prompt in enumerate(prompts):
            by_length.setdefault(len(prompt), []).append(at)
        with self._torch.no_grad(), self._lock, self._acting(adapter):
            for places in by_length.values():
                tokens = self._torch.tensor([list(prompts[at]) for at in places])
                told = self._model(input_ids=tokens).logits[:, :-1].float().log_softmax(-1)
                found = told.gather(2, tokens[:, 1:, None])[:, :, 0].tolist()
                for at, row in zip(places, found, strict=True):
                    rows[at] = row
        return rows

    def _stops(self) -> set[int]:
        eos = self._model.generation_config.eos_token_id
        return set(eos) if isinstance(eos, list) else {eos}

    def _acting(self, adapter: str | None) -> Any:
        from contextlib import nullcontext

        if adapter is None:
            return self._model.disable_adapter() if self._peft else nullcontext()
        self._model.set_adapter(_key(adapter))
        return nullcontext()


def _key(name: str) -> str:
    return name.replace(".", "_").replace("@", "_")
