"""Which recipe a machine and a base get, and what their memory is estimated at: from file headers, nothing loaded."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from core.gpu import Gpu
from core.settings import Settings
from tuning.machines import choose_recipe
from tuning.memory import estimate_memory, recomputes, what_would_fit
from tuning.recipe import load_recipe

GIB = 2**30
SIZES = {"1b": (2048, 8192, 16, 32_000), "8b": (4096, 14_336, 32, 128_256), "70b": (8192, 28_672, 80, 128_256)}


def headers_of(folder: Path, size: str) -> Path:
    """A base of that shape as its files' headers describe it, without the weights."""
    hidden, wide, layers, vocabulary = SIZES[size]
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden)}
    for layer in range(layers):
        for name, shape in (
            ("self_attn.q_proj", (hidden, hidden)), ("self_attn.k_proj", (hidden // 4, hidden)),
            ("self_attn.v_proj", (hidden // 4, hidden)), ("self_attn.o_proj", (hidden, hidden)),
            ("mlp.gate_proj", (wide, hidden)), ("mlp.up_proj", (wide, hidden)), ("mlp.down_proj", (hidden, wide)),
        ):  # fmt: skip
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    header, at = {}, 0
    for name, (rows, columns) in shapes.items():
        header[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [at, at + 2 * rows * columns]}
        at += 2 * rows * columns
    text = json.dumps(header).encode()
    folder.mkdir(exist_ok=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)  # a hole: no block of the disk is taken
    config = {"hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers, "vocab_size": vocabulary}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def settings_of(base: Path | None, device: str = "cuda", share: float = 0.0) -> Settings:
    generation = {"device": device, "base_folder": base}
    return Settings.model_validate({"generation": generation, "gpu": {"serving_share": share}})


@pytest.mark.parametrize(
    ("size", "gpus", "gib", "name", "word"),
    [
        ("1b", 1, 24, "style-gpu", "one GPU holds it whole"),
        ("8b", 1, 80, "style-8b", "one GPU holds it whole"),
        ("8b", 4, 80, "style-8b", "one GPU holds it whole"),
        ("8b", 1, 16, "style-8b-4bit", "in 4 bits"),
        ("8b", 2, 16, "style-fsdp", "together"),
        ("70b", 4, 80, "style-fsdp", "together"),
        ("70b", 1, 80, "style-8b-4bit", "in 4 bits"),
        ("70b", 1, 24, "style-8b-4bit", "too large even in 4 bits"),
    ],
)
def test_a_machine_and_a_base_get_the_recipe_that_fits(
    size: str, gpus: int, gib: int, name: str, word: str, tmp_path: Path
) -> None:
    base = headers_of(tmp_path / size, size)
    choice = choose_recipe(settings_of(base), [Gpu(index, gib * GIB) for index in range(gpus)])
    assert choice.name == name and word in choice.why
    assert f"{gpus} GPU(s) lending {gib} GiB" in choice.why
    assert load_recipe(choice.name).method == "sft"


def test_what_serving_keeps_and_what_training_may_not_use_counts(tmp_path: Path) -> None:
    base = headers_of(tmp_path / "8b", "8b")
    card = [Gpu(0, 40 * GIB), Gpu(1, 40 * GIB)]
    assert choose_recipe(settings_of(base), card).name == "style-8b"
    assert choose_recipe(settings_of(base, share=0.6), card).name == "style-fsdp"
    one = settings_of(base, share=0.6).model_copy(update={"gpu": {"devices": (1,), "serving_share": 0.6}})
    one = Settings.model_validate(one.model_dump(mode="python"))
    assert choose_recipe(one, card).name == "style-8b-4bit"


def test_without_a_gpu_or_with_the_embedded_base_the_small_recipes_are_taken() -> None:
    assert choose_recipe(settings_of(None, "cpu")).name == "style-cpu"
    assert choose_recipe(settings_of(None), [Gpu(0, 24 * GIB)]).name == "style-gpu"
    assert choose_recipe(settings_of(None), []).name == "style-gpu"


def test_methods_that_compare_answers_count_two_texts_and_their_logits(tmp_path: Path) -> None:
    base = headers_of(tmp_path / "1b", "1b")
    size = {"longest": 512, "value_bytes": 2, "recomputed": False}
    plain, dpo = (estimate_memory(base, load_recipe(name), **size) for name in ("style-cpu", "dpo"))
    logits = 2 * 4 * 512 * 32_000 * (2 + 8)
    assert dpo.activations == 2 * plain.activations + logits
    reward = estimate_memory(base, load_recipe("reward"), **size)
    assert reward.activations == 2 * plain.activations


def test_layers_recompute_where_what_they_keep_would_not_fit(tmp_path: Path) -> None:
    base = headers_of(tmp_path / "8b", "8b")
    recipe = load_recipe("style-8b")
    size = {"longest": 1024, "value_bytes": 2, "by_tokens": True}
    kept = estimate_memory(base, recipe, **size, recomputed=False)
    again = estimate_memory(base, recipe, **size, recomputed=True)
    assert again.activations < kept.activations / 10 and again.weights == kept.weights
    assert not recomputes(recipe, kept, 80 * GIB, on_gpu=True)
    assert recomputes(recipe, kept, 40 * GIB, on_gpu=True)
    always, never = (recipe.model_copy(update={"activations": one}) for one in ("recomputed", "kept"))
    assert recomputes(always, kept, 800 * GIB, on_gpu=True) and not recomputes(never, kept, GIB, on_gpu=True)
    assert "activations 'recomputed'" in what_would_fit(base, never, 30 * GIB, **size)


def test_what_is_spread_is_divided(tmp_path: Path) -> None:
    base = headers_of(tmp_path / "8b", "8b")
    size = {"longest": 1024, "value_bytes": 2, "by_tokens": True, "processes": 4}
    whole = estimate_memory(base, load_recipe("style-ddp"), **size)
    for name in ("style-fsdp", "style-zero3"):
        part = estimate_memory(base, load_recipe(name), **size)
        assert part.weights == whole.weights // 4 and part.trained == whole.trained // 4
    second = estimate_memory(base, load_recipe("style-ddp", {"devices.strategy": "zero2"}), **size)
    assert second.weights == whole.weights and second.trained == whole.trained // 4


def test_factors_on_mlps_alone_are_counted_there(tmp_path: Path) -> None:
    base = headers_of(tmp_path / "1b", "1b")
    size = {"longest": 64, "value_bytes": 2}
    mlp, all_linear = (
        estimate_memory(base, load_recipe("style-gpu", {"lora.targets": one}), **size) for one in ("mlp", "all-linear")
    )
    assert mlp.trained == 16 * 16 * 3 * (2048 + 8192) * 16
    assert mlp.trained < all_linear.trained
