"""A full queue refuses with `queue_full` whatever it waits for, keeps nothing of who was refused, and opens again."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from core.errors import Unavailable
from core.settings import GenerationSettings
from core.types import AdapterRef
from generation.engines.handle import StreamHandle
from generation.engines.paged.pages import PAGE
from generation.engines.transformers_engine import TransformersEngine
from generation.models import BaseModelInfo
from tests.stepped import SteppedEngine, assert_all_is_free
from tests.tiny_adapters import ask, reference, save_random_adapter

RUN, WAIT = 2, 3
BOUNDS: dict[str, tuple[dict[str, Any], int]] = {
    "plain, rows": ({"decoder": "plain", "max_batch": RUN}, 20),
    "plain, memory": ({"decoder": "plain", "max_batch": 3, "context_tokens": 4096}, 2100),
    "paged, seats": ({"decoder": "paged", "max_batch": RUN}, 20),
    "paged, pages": ({"decoder": "paged", "max_batch": 8, "kv_cache_tokens": 5 * PAGE}, 2 * PAGE - 40),
}
"""What keeps a third row out, and the tokens that each row asks for."""


@pytest.fixture(scope="module")
def adapters(base: BaseModelInfo, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    root = tmp_path_factory.mktemp("adapters")
    return [
        reference(root / f"v{seed}", save_random_adapter(base, root / f"v{seed}", seed=seed), f"v{seed}")
        for seed in range(3)
    ]


def build(base: BaseModelInfo, kind: type[Any], **more: Any) -> Any:
    values = {"context_tokens": 1024, "max_queue": WAIT, "max_adapters": 4, **more}
    return kind(base, GenerationSettings.model_validate(values), dtype=torch.float32)


@pytest.mark.parametrize(("decoder", "beside"), [("plain", 1), ("paged", 0)])
def test_one_tenant_does_not_keep_the_others_out(base: BaseModelInfo, decoder: str, beside: int) -> None:
    """Who has nothing running goes first, on the CPU beside a full batch, and into a queue that others fill."""
    engine: SteppedEngine = build(base, SteppedEngine, decoder=decoder, max_batch=RUN)
    try:
        many = []
        for _ in range(RUN + WAIT):
            many.append(engine.submit(ask("hello", None, 40, tenant_id="many")))
            engine.rounds(1)
        with pytest.raises(Unavailable):
            engine.submit(ask("hello", None, 4, tenant_id="many"))
        guests = [engine.submit(ask("hello", None, 4, tenant_id=name)) for name in ("other", "third")]
        with pytest.raises(Unavailable):
            engine.submit(ask("hello", None, 4, tenant_id="third"))
        engine.rounds(2)
        assert len(engine._batch.rows) == RUN + beside
        many[0].cancel()
        many[1].cancel()
        engine.rounds(20)
        assert [handle.result().finish_reason for handle in guests] == ["length", "length"]
        running = [row.request.tenant_id for row in engine._batch.rows]
        assert running == ["many"] * RUN, "then the others go on"
    finally:
        engine.close()


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_full_queue_refuses_and_opens_again(base: BaseModelInfo, adapters: list[AdapterRef], bound: str) -> None:
    settings, tokens = BOUNDS[bound]
    engine: SteppedEngine = build(base, SteppedEngine, **settings)
    first, second, third = adapters
    try:
        said = set()
        for _ in range(3):
            handles: list[StreamHandle] = []
            for number in range(RUN + WAIT):
                handles.append(engine.submit(ask("hello", [None, first, second][number % 3], tokens)))
                engine.rounds(1)
            assert len(engine._batch.rows) == RUN and len(engine._queue) == WAIT
            waiting = dict(engine._waiting)
            for number in range(30):
                with pytest.raises(Unavailable) as refused:
                    engine.submit(ask("one too many", [None, second, third][number % 3], 5))
                assert refused.value.code == "queue_full" and refused.value.retryable
            assert dict(engine._waiting) == waiting and len(engine._queue) == WAIT
            assert third.serving_name not in engine.loaded_adapters(), "a refused request loads nothing"
            handles[-1].cancel()
            engine.rounds(1)
            assert handles[-1].result().finish_reason == "cancelled"
            late = engine.submit(ask("hello", None, 4))
            with pytest.raises(Unavailable):
                engine.submit(ask("hello", None, 4))
            for handle in handles[:RUN]:
                handle.cancel()
            engine.rounds(8)
            for handle in handles[RUN:]:
                handle.cancel()
            engine.drain()
            assert all(handle.done for handle in handles)
            said.add(late.result().text)
            assert_all_is_free(engine)
        assert len(said) == 1
        engine.retire_adapter(second)
        engine.submit(ask("x", None, 1))
        engine.drain()
        assert engine.loaded_adapters() == [first.serving_name], "nothing of the refused requests holds it"
    finally:
        engine.close()


@pytest.mark.parametrize("decoder", ["plain", "paged"])
def test_who_waits_for_a_load_waits(
    base: BaseModelInfo, adapters: list[AdapterRef], decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests in the middle of loading their adapters are in no queue yet; many at once would overfill it."""
    engine: TransformersEngine = build(base, TransformersEngine, decoder=decoder, max_queue=2)
    may_go, arrived = threading.Event(), threading.Semaphore(0)
    insert, ensure = engine._bank.insert, engine.ensure_adapter

    def slow(prepared: Any) -> None:
        may_go.wait()
        insert(prepared)

    def noticed(adapter: AdapterRef) -> None:
        arrived.release()
        ensure(adapter)

    monkeypatch.setattr(engine._bank, "insert", slow)
    monkeypatch.setattr(engine, "ensure_adapter", noticed)
    texts: list[str] = []

    def client(adapter: AdapterRef) -> None:
        texts.append(engine.submit(ask("hello", adapter, 6)).result().text)

    threads = [threading.Thread(target=client, args=(adapter,)) for adapter in adapters[:2]]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            arrived.acquire()
        for adapter in (None, adapters[2], adapters[0]):
            with pytest.raises(Unavailable) as refused:
                engine.submit(ask("hello", adapter, 6))
            assert refused.value.code == "queue_full"
    finally:
        may_go.set()
        for thread in threads:
            thread.join()
    try:
        assert len(texts) == 2
        assert engine.submit(ask("hello", adapters[2], 6)).result().text
        engine._call(lambda: None)
        engine._call(lambda: None)
        assert_all_is_free(engine)
    finally:
        engine.close()


@pytest.mark.parametrize("decoder", ["plain", "paged"])
def test_a_load_that_breaks_without_a_code_is_not_waited_for(
    base: BaseModelInfo, adapters: list[AdapterRef], decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: SteppedEngine = build(base, SteppedEngine, decoder=decoder)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(engine._bank, "insert", lambda prepared: 1 / 0)
            for _ in range(WAIT + 2):
                with pytest.raises(ZeroDivisionError):
                    engine.submit(ask("hello", adapters[0], 6))
        assert_all_is_free(engine)
        handle = engine.submit(ask("hello", adapters[0], 6))
        engine.drain()
        assert handle.result().adapter == adapters[0]
    finally:
        engine.close()


@pytest.mark.parametrize(("decoder", "place"), [("plain", "inject"), ("plain", "probe"), ("paged", "probe")])
def test_a_device_without_memory_is_not_the_adapters_fault(
    base: BaseModelInfo, adapters: list[AdapterRef], decoder: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as such, to be tried again; what had been put into the model is out again."""

    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine: SteppedEngine = build(base, SteppedEngine, decoder=decoder)
    try:
        before = engine.submit(ask("hello", None, 12))
        engine.drain()
        with monkeypatch.context() as patched:
            if place == "inject":
                patched.setattr("peft.utils.set_peft_model_state_dict", full)
            else:
                patched.setattr(engine._bank, "_probe", full)
            with pytest.raises(Unavailable) as refused:
                engine.submit(ask("hello", adapters[0], 6)).result()
            assert refused.value.code == "adapter_no_memory" and refused.value.retryable
        assert engine.loaded_adapters() == []
        handles = [engine.submit(ask("hello", adapter, 12)) for adapter in (None, adapters[0])]
        engine.drain()
        assert handles[0].result().text == before.result().text != handles[1].result().text
        assert_all_is_free(engine)
    finally:
        engine.close()
