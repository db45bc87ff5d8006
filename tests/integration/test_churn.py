"""Both loops under random joins, cancels and failures; the paged one in a pool so small that rows wait for pages.

Whatever happens: no page or seat is lost or held twice, every handle ends once, and what a row says is what it says
alone.
"""

from __future__ import annotations

import random
import shutil
import string
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import AdapterRefused, InvalidInput, TooLarge, TsumugiError, Unavailable
from core.settings import GenerationSettings
from core.types import AdapterRef, AnswerFormat, GenerationRequest
from generation.engines.grammar import TokenGrammar
from generation.engines.handle import StreamHandle
from generation.engines.paged.batch import PagedBatch
from generation.engines.paged.pages import PAGE
from generation.engines.transformers_engine import TransformersEngine
from generation.models import BaseModelInfo
from tests.stepped import Ends, SteppedEngine, assert_all_is_free, assert_nothing_is_held_twice
from tests.tiny_adapters import ask, reference, save_random_adapter

FAILING = {
    "plain": ["_prefill", "_decode", "_choose", "_move", "_probe", "mask"],
    "paged": ["prefill", "_start_decode", "_launch", "slot_of", "_probe", "mask"],
}
"""Where a round of either loop is made to fail."""
PAGES = 10
SEATS = 5
YES_OR_NO = AnswerFormat(schema='{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}')


@pytest.fixture(scope="module")
def adapters(base: BaseModelInfo, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    root = tmp_path_factory.mktemp("adapters")
    kinds: list[dict[str, Any]] = [{"r": 3}, {"use_dora": True}, {"r": 20}, {"target_modules": ["q_proj", "up_proj"]}]
    return [
        reference(root / f"v{seed}", save_random_adapter(base, root / f"v{seed}", seed=seed, **config), f"v{seed}")
        for seed, config in enumerate(kinds)
    ]


@pytest.fixture(scope="module")
def asked(adapters: list[AdapterRef]) -> list[GenerationRequest]:
    """Forty requests of all sorts, from one page to seven; the longest prompts are read in several pieces."""
    source = random.Random(17)
    found = []
    for number in range(40):
        text = "".join(source.choices(string.ascii_letters + " ,.", k=source.choice([1, 9, 40, 120, 250])))
        options: dict[str, Any] = {}
        if number % 4 == 1:
            options = {"temperature": source.choice([0.3, 1.0, 2.0]), "top_p": 0.9, "seed": number}
        elif number % 13 == 2:
            options = {"answer_format": YES_OR_NO}
        found.append(ask(text, source.choice([None, *adapters]), source.randint(1, 90), **options))
    return found


@pytest.fixture(scope="module")
def alone(base: BaseModelInfo, asked: list[GenerationRequest]) -> dict[str, list[str]]:
    """What each says with the whole of either loop to itself."""
    said: dict[str, list[str]] = {}
    for decoder in FAILING:
        engine = build(base, SteppedEngine, kv_cache_tokens=None, max_batch=1, decoder=decoder)
        said[decoder] = []
        for request in asked:
            handle = engine.submit(request)
            engine.drain()
            said[decoder].append(handle.result().text)
        engine.close()
        assert len(set(said[decoder])) > 30
    drawn = {number for number, request in enumerate(asked) if request.temperature > 0}
    for number, texts in enumerate(zip(*said.values(), strict=True)):
        assert number in drawn or len(set(texts)) == 1, "the loops draw from other sources, and agree otherwise"
    return said


def build(base: BaseModelInfo, kind: type[Any] = TransformersEngine, **more: Any) -> Any:
    values = {
        "decoder": "paged", "context_tokens": 512, "kv_cache_tokens": PAGES * PAGE, "max_batch": SEATS,
        "max_adapters": 2, "max_queue": 1000, **more,
    }  # fmt: skip
    engine = kind(base, GenerationSettings.model_validate(values), dtype=torch.float32)
    engine._batch._piece = engine._batch._most_piece = 48  # prompts are read in up to six pieces
    return engine


class Failures:
    """Ways for a round to go wrong, one at a time, when a test says so."""

    def __init__(self, engine: SteppedEngine, names: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.next = ""
        self.happened: set[str] = set()
        batch: Any = engine._batch
        for name in names:
            if name == "mask":
                self._around(monkeypatch, TokenGrammar, name, InvalidInput("too costly"))
                continue
            places = [batch, engine._bank, getattr(batch, "_decoder", None), getattr(batch, "_slots", None)]
            owner = next(place for place in places if hasattr(place, name))
            self._around(monkeypatch, owner, name, RuntimeError("device"))

    def _around(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception) -> None:
        inner = getattr(owner, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            if self.next == name:
                self.next = ""
                self.happened.add(name)
                raise error
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, outer)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("decoder", FAILING)
def test_two_hundred_random_events_lose_nothing(
    base: BaseModelInfo,
    adapters: list[AdapterRef],
    asked: list[GenerationRequest],
    alone: dict[str, list[str]],
    decoder: str,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    source = random.Random(seed)
    ends = Ends(monkeypatch)
    engine = build(base, SteppedEngine, decoder=decoder)
    batch: Any = engine._batch
    failures = Failures(engine, FAILING[decoder], monkeypatch)
    shutil.copytree(adapters[0].path, tmp_path / "gone")
    (tmp_path / "gone" / "adapter_model.safetensors").unlink()
    broken = AdapterRef("house", "v9", "0" * 64, str(tmp_path / "gone"))
    handles: list[tuple[int, StreamHandle]] = []
    refused: list[StreamHandle] = []
    waited_for: set[str] = set()
    try:
        for _ in range(200):
            event = source.choices(["join", "cancel", "broken adapter", "failure"], [12, 4, 1, 2])[0]
            try:
                if event == "join":
                    number = source.randrange(len(asked))
                    handles.append((number, engine.submit(asked[number])))
                elif event == "broken adapter":
                    refused.append(engine.submit(ask("x", broken)))
                elif event == "cancel" and handles:
                    source.choice(handles[-12:])[1].cancel()
                elif event == "failure":
                    failures.next = source.choice(FAILING[decoder])
            except RuntimeError as error:  # a failure planned for a round met the loading of an adapter
                assert "device" in str(error)
            for _ in range(source.randint(0, 7)):
                engine.rounds(1)
                if decoder == "paged":
                    assert_nothing_is_held_twice(batch)
                if engine._queue:
                    waited_for.add("a seat" if len(batch.rows) == SEATS else "room")
        failures.next = ""
        engine.drain()
        assert_all_is_free(engine)
        assert len(engine.loaded_adapters()) <= 2
    finally:
        engine.close()

    outcomes = {"stop": 0, "length": 0, "cancelled": 0, "generation_failed": 0, "other": 0}
    for number, handle in handles:
        assert handle.done and ends.of[handle] == 1
        try:
            result = handle.result()
        except Unavailable as error:
            outcomes[error.code] += 1
            continue
        except InvalidInput:
            outcomes["other"] += 1
            continue
        outcomes[result.finish_reason] += 1
        if result.finish_reason == "cancelled":
            assert alone[decoder][number].startswith(result.text.rstrip("\ufffd"))
        else:
            assert result.text == alone[decoder][number]
            assert result.adapter == asked[number].adapter
    for handle in refused:
        assert ends.of[handle] == 1
        with pytest.raises(AdapterRefused):
            handle.result()
    assert waited_for == {"a seat", "room"}
    assert outcomes["length"] > 30 and outcomes["cancelled"] > 3 and outcomes["generation_failed"] > 3, outcomes
    assert len(failures.happened) >= 4, failures.happened


@pytest.mark.parametrize("decoder", FAILING)
def test_clients_that_give_up_at_any_time(
    base: BaseModelInfo,
    asked: list[GenerationRequest],
    alone: dict[str, list[str]],
    decoder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Six threads against the engine's own: some read to the end, some cancel before, between or after two pieces."""
    ends = Ends(monkeypatch)
    engine = build(base, decoder=decoder)
    batch: Any = engine._batch
    wanted = alone[decoder]
    trim, wrong = engine._trim, []

    def watched() -> None:
        trim()
        try:
            if decoder == "paged":
                assert_nothing_is_held_twice(batch)
        except AssertionError as error:
            wrong.append(error)

    engine._trim = watched
    handles: list[StreamHandle] = []

    def client(seed: int) -> None:
        source = random.Random(seed)
        for _ in range(15):
            number = source.randrange(len(asked))
            handle = engine.submit(asked[number])
            handles.append(handle)
            patience = source.choice([None, None, 0, 1, 5])
            if patience is None:
                if handle.result().text != wanted[number]:
                    wrong.append(number)
                continue
            for at, _ in enumerate(handle):
                if at >= patience:
                    break
            handle.cancel()
            if not wanted[number].startswith(handle.result().text.rstrip("\ufffd")):
                wrong.append(number)

    try:
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        engine._call(lambda: None)
        engine._call(lambda: None)
        assert wrong == []
        assert len(handles) == 90 and all(ends.of[handle] == 1 for handle in handles)
        assert_all_is_free(engine)
    finally:
        engine.close()


def test_what_can_never_fit_is_refused_to_the_token(base: BaseModelInfo) -> None:
    """The whole pool is one row's; one token more is refused at once, though the context that is set would allow it."""
    engine = build(base, SteppedEngine, context_tokens=2048)
    try:
        room = PAGES * PAGE - len(engine._chat.encode(ask("hello").messages))
        with pytest.raises(TooLarge) as refused:
            engine.submit(ask("hello", max_tokens=room + 1))
        assert refused.value.code == "context_length_exceeded"
        assert refused.value.extra == {"limit": PAGES * PAGE, "actual": PAGES * PAGE + 1}
        assert_all_is_free(engine)
        whole = engine.submit(ask("hello", max_tokens=room))
        engine.rounds(1)
        assert engine._batch._decoder.pool.free == 0
        engine.drain()
        assert whole.result().completion_tokens == room
        assert_all_is_free(engine)
    finally:
        engine.close()


def test_what_fits_later_waits_until_pages_come_back(base: BaseModelInfo) -> None:
    engine = build(base, SteppedEngine)
    batch: PagedBatch = engine._batch
    try:
        room = 8 * PAGE - len(engine._chat.encode(ask("hello").messages))
        small = [engine.submit(ask("hello", max_tokens=10)) for _ in range(3)]
        engine.rounds(1)
        large = engine.submit(ask("hello", max_tokens=room))
        while not any(handle.done for handle in small):
            assert len(batch.rows) == 3 and len(engine._queue) == 1, "two seats are free, and seven pages of eight"
            engine.rounds(1)
        engine.drain()
        assert large.result().completion_tokens == room
        assert [handle.result().completion_tokens for handle in small] == [10, 10, 10]
        assert_all_is_free(engine)
    finally:
        engine.close()


def test_a_large_row_is_not_overtaken_for_ever(base: BaseModelInfo) -> None:
    """Small ones keep coming; whoever was there first goes first."""
    engine = build(base, SteppedEngine)
    started: list[int] = []
    add = engine._batch.add
    engine._batch.add = lambda row: (started.append(row.request.max_tokens), add(row))
    try:
        sizes = [20, 20, 440, 21, 22]
        handles = [engine.submit(ask("hello", max_tokens=size)) for size in sizes]
        for extra in range(23, 63):
            engine.rounds(3)
            sizes.append(extra)
            handles.append(engine.submit(ask("hello", max_tokens=extra)))
        engine.drain()
        assert started == sizes
        assert all(handle.done for handle in handles)
        assert_all_is_free(engine)
    finally:
        engine.close()


def test_an_adapter_that_cannot_be_brought_back_ends_its_own_row(
    base: BaseModelInfo, adapters: list[AdapterRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was evicted while its request waited; loading it again fails in a way that nobody foresaw."""
    engine = build(base, SteppedEngine, max_adapters=1, max_batch=2)
    try:
        first = engine.submit(ask("hello", adapters[0], 30))
        second = engine.submit(ask("hello", None, 30))
        engine.rounds(2)
        third = engine.submit(ask("hello", adapters[1], 5))
        engine.rounds(1)
        assert adapters[1].serving_name not in engine.loaded_adapters(), "it had to go"
        monkeypatch.setattr(engine._bank, "insert", lambda prepared: 1 / 0)
        engine.drain()
        with pytest.raises(TsumugiError) as failed:
            third.result()
        assert failed.value.code == "generation_failed"
        assert first.result().text and second.result().text
        assert_all_is_free(engine)
    finally:
        engine.close()
