"""A full queue as a client meets it: each of the three engines behind the real HTTP service."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest
import torch

from core.database import Database
from core.errors import Unavailable
from core.settings import GenerationSettings, GeneratorEndpointSettings, Settings
from generation.engines.drain import LONGEST_S, Drain
from generation.engines.openai_engine import OpenAIEngine
from generation.engines.transformers_engine import TransformersEngine
from generation.engines.vllm_engine import VllmEngine
from generation.models import BaseModelInfo
from tests.api_app import build_api
from tests.api_app import serve as serve_api
from tests.tiny_adapters import ask
from tests.vllm_standin import ExtractBackend, Replica
from tests.vllm_standin import serve as serve_replica

QUEUE = 2
CHAT = {"model": "tsumugi", "messages": [{"role": "user", "content": "days of leave?"}]}
ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/ask", {"question": "days of leave?"}),
    ("/v1/ask", {"question": "days of leave?", "stream": True}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
)


class HeldBackend(ExtractBackend):
    """Begins every answer and goes on when it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def generate(self, adapter: str | None, messages: Sequence[dict[str, str]], max_tokens: int) -> Iterator[str]:
        yield "So: "
        self.go.wait(60)
        yield from super().generate(adapter, messages, max_tokens)


@pytest.fixture(params=["transformers", "openai", "vllm"])
def engine(request: pytest.FixtureRequest, base: BaseModelInfo, settings: Settings) -> Iterator[Any]:
    """One place to run in, two to wait in; all are taken until the test ends them."""
    limits = GenerationSettings(max_batch=1, max_queue=QUEUE)
    with ExitStack() as stack:
        backend = HeldBackend()
        made: Any
        if request.param == "transformers":
            made = TransformersEngine(base, limits, dtype=torch.float32)
            hold(made._batch, backend.go)
        else:
            url = stack.enter_context(serve_replica(Replica(backend)))
            if request.param == "openai":
                made = OpenAIEngine(url, "base", max_parallel=1, max_queue=QUEUE)
            else:
                endpoint = GeneratorEndpointSettings(urls=(url,), max_parallel=1)
                made = VllmEngine(endpoint, limits, base, adapters_dir=settings.adapters_dir)
        stack.callback(made.close)
        stack.callback(backend.go.set)
        made.let_go = backend.go.set
        yield made


def hold(batch: Any, go: threading.Event) -> None:
    """The same of a decode loop: the answer has begun and goes no further."""
    step = batch.step

    def held_step() -> None:
        if batch.rows and batch.rows[0].generated >= 8:
            go.wait(60)
        step()

    batch.step = held_step


def fill(engine: Any, tenant_id: str = "") -> list[Any]:
    """Take every place for one tenant; the first runs already."""
    running = engine.submit(replace(ask("hello", max_tokens=3000), tenant_id=tenant_id))
    next(iter(running))
    waiting = replace(ask("hello", max_tokens=3), tenant_id=tenant_id)
    return [running, *(engine.submit(waiting) for _ in range(QUEUE))]


def refused(answer: httpx.Response) -> int:
    """The seconds that a refusal tells, once it was looked at from all sides."""
    assert answer.status_code == 429, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body, told = answer.json(), answer.headers["retry-after"]
    assert body["code"] == "queue_full" and body["retryable"] is True
    assert told.isdigit() and 1 <= int(told) <= LONGEST_S
    assert type(body["retry_after_s"]) is int and body["retry_after_s"] == int(told)
    if answer.request.url.path == "/v1/chat/completions":
        assert (body["error"]["code"], body["error"]["type"]) == ("queue_full", "rate_limit_error")
    return int(told)


def test_a_full_queue_says_when_to_come_back(engine: Any, settings: Settings, database: Database) -> None:
    now = 1000.0
    engine._drain = Drain(clock=lambda: now)
    api = build_api(settings, database, engine=engine)
    headers = {"Authorization": f"Bearer {api.admin}"}
    with serve_api(api.app) as url, httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        held = fill(engine, api.tenant.id)
        assert [refused(client.post(path, json=body)) for path, body in ASKED] == [2, 4, 6, 6], "nothing has ended yet"

        drain = Drain(clock=lambda: now)
        for _ in range(40):  # answers of 7 s, one at a time
            with drain.work():
                now += 7.0
        drain.running(1)
        engine._drain = drain
        assert [refused(client.post(path, json=body)) for path, body in ASKED] == [7, 14, 21, 21]
        now += 50.0  # nothing ends
        assert refused(client.post("/v1/chat/completions", json=CHAT)) == 50

        held[0].cancel()
        engine.let_go()
        for handle in held:
            handle.result()
        body = {"question": "days of leave?", "max_tokens": 8}
        assert client.post("/v1/ask", json=body).status_code == 200


def test_a_queue_that_one_tenant_fills_lets_others_in(engine: Any) -> None:
    held = fill(engine, "many")
    with pytest.raises(Unavailable) as refused:
        engine.submit(replace(ask("hello"), tenant_id="many"))
    assert refused.value.code == "queue_full"
    guest = engine.submit(replace(ask("hello", max_tokens=3), tenant_id="other"))
    with pytest.raises(Unavailable):
        engine.submit(replace(ask("hello"), tenant_id="many"))
    if not isinstance(engine, TransformersEngine):  # whose one thread the fixture holds
        assert next(iter(guest)) == "So: ", "it begins beside the place that is taken"
    held[0].cancel()
    engine.let_go()
    assert guest.result().completion_tokens > 0
    for handle in held:
        handle.result()


def test_what_ran_is_counted_and_nothing_is_left_over(engine: Any) -> None:
    held = fill(engine)
    assert engine._drain._running == 1
    held[0].cancel()
    engine.let_go()
    for handle in held:
        handle.result()
    engine.close()
    assert engine._drain._running == 0 and len(engine._drain._marks) == 4, "three ended"
