"""Each model family on the loops that serve it: the log-probabilities are those of transformers' own forward pass."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.errors import Unavailable
from core.settings import GenerationSettings
from generation.adapters.forms import load_adapter
from generation.engines.transformers_engine import TransformersEngine, choose_decoder
from generation.models import BaseModelInfo, describe_base
from tests.decoded import assert_follows, decode
from tests.tiny_adapters import PROMPTS, ask, reference, save_random_adapter
from tests.tiny_families import FAMILIES, VARIANTS, build_tiny

PAGED = {"llama", "llama3-rope", "mistral-full", "mistral-wide", "qwen2", "qwen3", "qwen3-wide"}
CONTEXT = 500


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseModelInfo]:
    root = tmp_path_factory.mktemp("families")
    for name in (*FAMILIES, *VARIANTS):
        build_tiny(name, root / name)
    return {name: describe_base(root / name, name) for name in (*FAMILIES, *VARIANTS)}


def build(base: BaseModelInfo, decoder: str) -> TransformersEngine:
    settings = GenerationSettings.model_validate({"decoder": decoder, "context_tokens": CONTEXT})
    return TransformersEngine(base, settings, dtype=torch.float32)


def load(base: BaseModelInfo) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()


@pytest.mark.parametrize("decoder", ["plain", "paged"])
@pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS])
def test_log_probabilities_are_those_of_transformers(
    name: str, decoder: str, bases: dict[str, BaseModelInfo], tmp_path: Path
) -> None:
    """Rows of four lengths, the longest read in pieces and past every sliding window; DoRA on those with biases."""
    base = bases[name]
    if decoder == "paged" and name not in PAGED:
        with pytest.raises(Unavailable, match="are not written down here"):
            build(base, decoder)
        return
    adapter = None
    if name in PAGED:
        adapter = reference(tmp_path, save_random_adapter(base, tmp_path, seed=1, use_dora=True), "v1")
    engine = build(base, decoder)
    try:
        batch: Any = engine._batch
        batch._piece = 24
        texts = [text * times for text, times in zip(PROMPTS, (1, 4, 3, 90), strict=True)]
        chosen = [None] if adapter is None else [None, adapter]
        answers = decode(engine, [ask(text, one, max_tokens=20) for one in chosen for text in texts])
    finally:
        engine.close()
    model = load(base)
    for answer in answers[:4]:
        assert_follows(model, answer)
    if adapter is not None:
        model = load_adapter(model, tmp_path, "one")
        for answer in answers[4:]:
            assert_follows(model, answer)


@pytest.mark.parametrize("name", ["gemma", "phi", "mistral", "qwen2-mixed", "llama"])
def test_on_a_gpu_what_the_paged_loop_lacks_goes_to_the_plain_one_with_a_reason(
    name: str, bases: dict[str, BaseModelInfo], caplog: pytest.LogCaptureFixture
) -> None:
    model = load(bases[name])
    elsewhere = SimpleNamespace(
        config=model.config, device=torch.device("cuda"), model=model.model, parameters=model.parameters
    )
    model.config.head_dim = 16  # what the kernel takes
    with caplog.at_level(logging.WARNING):
        chosen = choose_decoder("auto", elsewhere, CONTEXT)
    assert chosen == ("paged" if name == "llama" else "plain")
    assert ("several times slower" in caplog.text) == (name != "llama")
    word = {"mistral": "64 tokens", "qwen2-mixed": "64 tokens", "llama": ""}.get(name, f"'{name}'")
    assert word in caplog.text
    assert choose_decoder("plain", elsewhere, CONTEXT) == "plain"
    assert choose_decoder("auto", model, CONTEXT) == "plain", "on a CPU the plain loop is the faster one"


def test_layers_without_columns_are_refused_at_the_start(bases: dict[str, BaseModelInfo]) -> None:
    """A recurrent state would be read as something else."""
    model = load(bases["qwen2"])
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(Unavailable, match="linear_attention") as refused:
        TransformersEngine(bases["qwen2"], GenerationSettings(), model=model)
    assert refused.value.code == "generator_misconfigured"
