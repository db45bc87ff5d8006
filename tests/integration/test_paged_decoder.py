"""The paged decode loop beyond what it shares with the plain one: model families, pages, slots, the step behind."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from core.errors import TooLarge, Unavailable
from core.settings import GenerationSettings
from generation.engines.paged.pages import PAGE
from generation.engines.paged.sampling import draw
from generation.engines.paged.weights import why_unsupported
from generation.engines.transformers_engine import TransformersEngine
from generation.models import describe_base
from tests.tiny_adapters import PROMPTS, ask, reference, save_random_adapter

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return [
        reference(root / f"v{n}", save_random_adapter(base, root / f"v{n}", seed=n, r=2 + n), f"v{n}")
        for n in range(12)
    ]


def build(base, **settings):
    defaults = {"decoder": "paged", "context_tokens": 1024}
    return TransformersEngine(base, GenerationSettings(**{**defaults, **settings}), dtype=torch.float32)


def family(kind: str, folder: Path, source: Path):
    """A tiny random model of another family with the tokenizer of the tiny Llama."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    extra = {"qwen3": {"head_dim": 16}, "mistral": {"sliding_window": None}}.get(kind, {})
    if kind == "llama3-rope":
        kind, extra = (
            "llama",
            {
                "attention_bias": True,
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 10000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                },
            },
        )
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **SIZES, **ids, **extra)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "_norm" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return describe_base(folder, kind)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "mistral", "llama3-rope"])
def test_families_say_what_the_plain_loop_says(kind, base, tmp_path):
    """Biases, norms of queries and keys, wider heads, stretched rotation; with and without an adapter."""
    other = family(kind, tmp_path / "base", base.path)
    adapter = reference(tmp_path / "a", save_random_adapter(other, tmp_path / "a", seed=1), "v1")
    said = []
    for decoder in ("plain", "paged"):
        engine = TransformersEngine(other, GenerationSettings(decoder=decoder), dtype=torch.float32)
        try:
            handles = [engine.submit(ask(text, chosen, 16)) for text in PROMPTS for chosen in (None, adapter)]
            said.append([handle.result().text for handle in handles])
        finally:
            engine.close()
    assert said[0] == said[1]


def test_unknown_families_fall_back_and_are_refused_when_asked_for(base, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.path)
    assert why_unsupported(model, 1024) is None
    for change, word in (
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"layer_types": ["sliding_attention"], "sliding_window": 64}, "sliding"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "dynamic"),
    ):
        before = {name: getattr(model.config, name, None) for name in change}
        for name, value in change.items():
            setattr(model.config, name, value)
        assert word in str(why_unsupported(model, 1024))
        with pytest.raises(Unavailable, match=word):
            TransformersEngine(base, GenerationSettings(decoder="paged"), model=model)
        for name, value in before.items():
            setattr(model.config, name, value)
    model.model.layers[0].mlp.up_proj = torch.nn.Sequential(torch.nn.Linear(32, 64))
    assert why_unsupported(model, 1024) is not None


def test_pages_bound_the_memory_and_whoever_does_not_fit_waits(base):
    """A pool of eight pages: requests of four pages run in twos; all pages and seats come back."""
    engine = build(base, kv_cache_tokens=8 * PAGE, context_tokens=8 * PAGE, max_batch=6, max_queue=6)
    try:
        batch = engine._batch
        with pytest.raises(TooLarge):
            engine.submit(ask("x", max_tokens=8 * PAGE))
        most = 0
        step = batch.step

        def watched():
            nonlocal most
            most = max(most, len(batch.rows))
            step()

        batch.step = watched
        handles = [engine.submit(ask("hello", max_tokens=3 * PAGE)) for _ in range(6)]
        results = [handle.result() for handle in handles]
        assert len({result.text for result in results}) == 1
        assert most == 2
        first = engine.submit(ask("hello", max_tokens=7 * PAGE))
        next(iter(first))
        waiting = [engine.submit(ask("hello", max_tokens=3)) for _ in range(6)]
        with pytest.raises(Unavailable) as refused:
            engine.submit(ask("hello", max_tokens=3))
        assert refused.value.code == "queue_full"
        first.cancel()
        assert all(handle.result().completion_tokens == 3 for handle in waiting)
        engine._call(lambda: None)
        engine._call(lambda: None)
        assert batch._decoder.pool.free == 8 and len(batch._free_seats) == 6
    finally:
        engine.close()


def test_slots_change_hands_under_load(base, adapters):
    """Twelve adapters through a memory of three, while others decode: each answer is that of its own adapter."""
    engine = build(base, max_adapters=3, max_batch=8)
    try:
        alone = {}
        for adapter in (None, *adapters):
            alone[adapter] = engine.submit(ask("hello", adapter, 40)).result().text
        assert len(set(alone.values())) > 10
        layouts = engine._batch._slots.layout
        wrong, errors = [], []

        def client(start):
            for number in range(8):
                adapter = (None, *adapters)[(start + 5 * number) % 13]
                try:
                    result = engine.submit(ask("hello", adapter, 40)).result()
                except Exception as error:  # noqa: BLE001 - reported below
                    errors.append(error)
                    continue
                if result.text != alone[adapter] or result.adapter != adapter:
                    wrong.append(adapter)

        threads = [threading.Thread(target=client, args=(start,)) for start in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (wrong, errors) == ([], [])
        assert len(engine.loaded_adapters()) <= 6
        assert engine._batch._slots.layout - layouts <= 2, "slots are reused, the stacks hardly grow"
    finally:
        engine.close()


def test_a_draw_follows_its_number_and_keeps_to_top_p():
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.15, 0.25]])).repeat(5, 1)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.76, 0.999])
    ones = torch.ones(5)
    assert draw(logits, ones, ones, uniform).tolist() == [1, 1, 3, 2, 0]
    assert draw(logits, ones, ones * 0.7, uniform).tolist() == [1, 1, 1, 3, 3]
    assert draw(logits, ones, ones * 1e-9, uniform).tolist() == [1] * 5
    many = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    tokens = draw(logits[:1].repeat(20000, 1), torch.full((20000,), 2.0), torch.ones(20000), many)
    shares = torch.bincount(tokens, minlength=4) / 20000
    expected = torch.tensor([0.1, 0.5, 0.15, 0.25]).sqrt()
    torch.testing.assert_close(shares, expected / expected.sum(), atol=0.01, rtol=0)
