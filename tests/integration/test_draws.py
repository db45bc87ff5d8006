"""Drawn text depends on the request alone: not on who else is in the batch, when they came or when they left."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from core.settings import GenerationSettings
from core.types import AdapterRef, AnswerFormat, GenerationRequest
from generation.adapters.forms import load_adapter
from generation.engines.handle import StreamHandle
from generation.engines.transformers_engine import TransformersEngine
from generation.models import BaseModelInfo
from tests.decoded import decode, forced
from tests.stepped import SteppedEngine, assert_all_is_free
from tests.tiny_adapters import PROMPTS, ask, reference, save_random_adapter

FORM = AnswerFormat(
    schema='{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "yy", "zzz"]}}, '
    '"required": ["a", "b"], "additionalProperties": false}'
)


@pytest.fixture(scope="module")
def adapters(base: BaseModelInfo, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    root = tmp_path_factory.mktemp("adapters")
    return [
        reference(
            root / f"v{seed}", save_random_adapter(base, root / f"v{seed}", seed=seed, use_dora=seed == 2), f"v{seed}"
        )
        for seed in (1, 2)
    ]


@pytest.fixture(scope="module")
def asked(adapters: list[AdapterRef]) -> list[GenerationRequest]:
    """Temperatures from nothing to far over one; with and without a bound, an adapter, a form to follow."""
    found = []
    for number, (temperature, top_p) in enumerate(
        [(0.0, 1.0), (0.2, 1.0), (0.7, 0.5), (1.0, 1.0), (1.0, 0.9), (1.5, 0.95), (2.0, 1.0), (5.0, 0.3)]
    ):
        for form in (None, FORM) if number in (0, 2, 5) else (None,):
            chosen = [None, *adapters][number % 3]
            text = PROMPTS[number % 4] * (1 + 7 * (number % 2))
            options: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "seed": 100 + number}
            found.append(ask(text, chosen, 6 + 5 * number, answer_format=form, **options))
    return found


@pytest.fixture(params=["plain", "paged"])
def decoder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(base: BaseModelInfo, decoder: str) -> Iterator[SteppedEngine]:
    values = {"decoder": decoder, "context_tokens": 1024, "max_batch": 6, "max_adapters": 2, "max_queue": 99}
    engine = SteppedEngine(base, GenerationSettings.model_validate(values), dtype=torch.float32)
    batch: Any = engine._batch
    batch._piece = batch._most_piece = 32
    yield engine
    engine.close()


def one_by_one(engine: SteppedEngine, requests: Sequence[GenerationRequest]) -> list[str]:
    texts = []
    for request in requests:
        handle = engine.submit(request)
        engine.drain()
        texts.append(handle.result().text)
    return texts


def test_company_does_not_change_a_draw(
    engine: SteppedEngine, adapters: list[AdapterRef], asked: list[GenerationRequest]
) -> None:
    """In four random orders, beside rows without a seed that come, go and are cancelled in between."""
    alone = one_by_one(engine, asked)
    assert len(set(alone)) == len(alone)
    together = 0
    for order in range(4):
        source = random.Random(order)
        numbers = source.sample(range(len(asked)), len(asked))
        handles: dict[int, StreamHandle] = {}
        others: list[StreamHandle] = []
        for number in numbers:
            for _ in range(source.randint(0, 2)):
                adapter = source.choice([None, *adapters])
                text = source.choice(PROMPTS) * source.randint(1, 5)
                others.append(engine.submit(ask(text, adapter, source.randint(1, 30), temperature=source.random() * 2)))
            handles[number] = engine.submit(asked[number])
            engine.rounds(source.randint(0, 4))
            together = max(together, len(engine._batch.rows))
            if others and source.random() < 0.4:
                source.choice(others).cancel()
        engine.drain()
        assert [handles[number].result().text for number in range(len(asked))] == alone
    assert together == 6
    assert_all_is_free(engine)


def test_the_next_step_reads_the_drawn_token(base: BaseModelInfo, decoder: str, asked: list[GenerationRequest]) -> None:
    """Each step's log-probabilities are those of PEFT's model after the tokens that were said; draws keep to top_p."""
    from transformers import AutoModelForCausalLM

    values = {"decoder": decoder, "context_tokens": 1024, "max_batch": 6}
    engine = TransformersEngine(base, GenerationSettings.model_validate(values), dtype=torch.float32)
    try:
        answers = decode(engine, asked)
    finally:
        engine.close()
    not_the_best = 0
    for request, answer in zip(asked, answers, strict=True):
        model: Any = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()
        if request.adapter is not None:
            model = load_adapter(model, Path(request.adapter.path), "one")
        wanted = forced(model, answer)
        torch.testing.assert_close(torch.stack(answer.scores), wanted, atol=1e-4, rtol=0)
        for scores, token in zip(wanted, answer.tokens, strict=True):
            not_the_best += token != int(scores.argmax())
            if request.answer_format is None and request.temperature > 0:
                shares = torch.softmax(scores / request.temperature, dim=-1)
                assert shares[shares > shares[token]].sum() < request.top_p + 1e-5
    assert not_the_best > 50


def test_twins_agree_and_others_do_not(engine: SteppedEngine) -> None:
    """One seed twice in a batch is one text; other seeds, and none, are others."""

    def wild(seed: int | None) -> StreamHandle:
        return engine.submit(ask("hello", None, 30, temperature=3.0, seed=seed))

    handles = [wild(7), wild(8), wild(7), wild(None), wild(None), wild(9)]
    engine.drain()
    first, second, twin, free, other, third = (handle.result().text for handle in handles)
    assert first == twin
    assert len({first, second, free, other, third}) == 5


def test_the_process_keeps_its_own_sources(engine: SteppedEngine, asked: list[GenerationRequest]) -> None:
    """A training or a retrieval beside it, seeded by itself, must not be moved on by a request, nor move one."""
    drawn = [request for request in asked if request.temperature > 0][:3]
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    first = one_by_one(engine, [*drawn, ask("x", None, 5, temperature=1.0)])
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    torch.manual_seed(2)
    random.seed(2)
    assert one_by_one(engine, drawn) == first[:3]
