"""What no engine here would serve is refused at the request, by the configuration that the recipe will write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidInput
from core.settings import Settings
from generation.engines.capability import refusal_of
from tests.toy_training import answers, build_toy_base, train_toy
from tuning.recipe import Recipe, load_recipe
from tuning.requirements import require_served, written_config

VIRTUAL = ("style-prefix", "style-prompt")


def settings_of(tmp_path: Path, engine: str, **endpoint: Any) -> Settings:
    return Settings.model_validate(
        {"data_dir": tmp_path, "generation": {"engine": engine}, "endpoint": {"urls": ["http://g"], **endpoint}}
    )


def refusal(recipe: Recipe, settings: Settings) -> str | None:
    try:
        require_served(None, settings, "t", recipe)  # type: ignore[arg-type]  # asks for versions of a merge alone
    except InvalidInput as error:
        assert error.code == "adapter_kind_not_served"
        assert set(error.extra) == {"adapter", "engine", "reason"}
        return str(error.extra["reason"])
    return None


@pytest.mark.parametrize(
    "recipe", ["style-cpu", "style-rslora", "style-pissa", "style-qlora", "style-full", "dpo", "grpo"]
)
def test_lora_and_what_is_written_as_such_serves_everywhere_within_the_rank(recipe: str, tmp_path: Path) -> None:
    values = load_recipe(recipe)
    assert refusal(values, settings_of(tmp_path, "transformers")) is None
    assert refusal(values, settings_of(tmp_path, "vllm", max_lora_rank=64)) is None


@pytest.mark.parametrize(
    ("recipe", "overrides", "word"),
    [
        ("style-cpu", {"lora.rank": 64}, "rank 64 is over vLLM's --max-lora-rank 16"),
        ("style-pissa", {"lora.rank": 16}, "rank 32 is over"),
        ("style-full", {"full.rank": 32}, "rank 32 is over"),
        ("style-dora", {}, "DoRA"),
        ("style-bottleneck", {}, "activation"),
        ("style-prefix", {"export": False}, "LoRA only"),
        ("style-cpu", {"lora.experts": True}, "experts"),
    ],
)
def test_vllm_is_asked_with_what_will_be_written(
    recipe: str, overrides: dict[str, Any], word: str, tmp_path: Path
) -> None:
    values = load_recipe(recipe, overrides)
    assert word in str(refusal(values, settings_of(tmp_path, "vllm")))
    assert refusal(load_recipe(recipe, {**overrides, "export": True}), settings_of(tmp_path, "vllm")) is None


@pytest.mark.parametrize("recipe", VIRTUAL)
def test_the_engine_in_this_process_mixes_no_virtual_tokens(recipe: str, tmp_path: Path) -> None:
    assert "cache" in str(refusal(load_recipe(recipe, {"export": False}), settings_of(tmp_path, "transformers")))


@pytest.mark.parametrize("recipe", ["style-cpu", "dpo", "style-bottleneck"])
def test_a_server_that_loads_no_adapters_gets_none_trained(recipe: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "openai")
    assert "loads no adapters" in str(refusal(load_recipe(recipe), settings))
    assert refusal(load_recipe("reward"), settings) is None
    assert refusal(load_recipe(recipe, {"export": True}), settings) is None


def test_a_merge_is_asked_with_the_rank_that_it_will_have(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "vllm")
    cat = load_recipe("merge", {"merge.combination": "cat"})
    for recipe, ranks, rank in (
        (cat, [8, 8], 16), (cat, [8, 16], 24), (load_recipe("merge"), [8, 32], 8),
        (load_recipe("merge", {"merge.rank": 32}), [8, 8], 32),
    ):  # fmt: skip
        config = written_config(recipe, source_ranks=ranks)
        assert config["r"] == rank
        assert (refusal_of(settings, config) is not None) == (rank > 16)


@pytest.mark.parametrize(
    "recipe", ["style-cpu", "style-dora", "style-pissa", "style-bottleneck", "style-full", *VIRTUAL]
)
def test_what_engines_are_asked_is_what_stands_in_the_file(recipe: str, tmp_path: Path) -> None:
    toy = train_toy(tmp_path, build_toy_base(tmp_path / "base"), answers(), recipe, batch__max_steps=1)
    written = json.loads((toy.adapter / "adapter_config.json").read_text("utf-8"))
    asked = written_config(load_recipe(recipe))
    for name in ("peft_type", "r", "use_dora", "init_lora_weights", "bias"):
        if asked.get(name) is not None:
            assert written[name] == asked[name], name
    assert bool(written.get("target_parameters")) == bool(asked.get("target_parameters"))
