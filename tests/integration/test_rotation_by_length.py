"""Models whose rotation depends on the length of a sequence: what a row is answered does not depend on its company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.settings import GenerationSettings
from generation.engines.rotation import depends_on_length
from generation.engines.transformers_engine import TransformersEngine
from generation.models import describe_base
from tests.tiny_adapters import ask
from tests.tiny_families import FAMILIES, VARIANTS, build_tiny
from tuning import evaluate as program
from tuning.items import BASE, EvaluateSpec, EvaluationItem, write_lines

SHORT = 64
"""Tokens up to which a sequence is of the length that the model was trained at."""
ROPES: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 8.0},
    "longrope": {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0, 6.0, 8.0, 9.0],
        "factor": 8.0, "original_max_position_embeddings": SHORT,
    },
}  # fmt: skip
TEXTS = ("shelf nine " * 20, "shelf", "a shelf of nine boards in a row, and one more ", "boxes on shelf nine " * 6)


@pytest.fixture(params=ROPES)
def base(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from safetensors.torch import load_file, save_file

    length = SHORT if request.param == "dynamic" else 512
    shape = {"rope_parameters": ROPES[request.param], "max_position_embeddings": length}
    monkeypatch.setitem(VARIANTS, "turned", ("Llama", shape))
    folder = tmp_path / "base"
    build_tiny("turned", folder)
    tensors = load_file(folder / "model.safetensors")
    large = {name: tensor * (1 if "norm" in name else 8) for name, tensor in tensors.items()}
    save_file(large, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def alone(base: Path, text: str, new: int) -> str:
    """By transformers, on a model that has seen nothing else."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    turns = [{"role": "user", "content": text}]
    asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**asked, max_new_tokens=new, do_sample=False)
    said = tokenizer.decode(output[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    return str(said).rstrip("\ufffd")


@pytest.mark.parametrize("base", ["longrope"], indirect=True)  # an engine takes no sequence that turns a dynamic one
def test_rows_of_other_lengths_do_not_turn_a_row(base: Path) -> None:
    settings = GenerationSettings.model_validate({"max_adapters": 1, "context_tokens": 256, "decoder": "plain"})
    engine = TransformersEngine(describe_base(base, "turned"), settings, dtype=torch.float32)
    try:
        handles = [engine.submit(ask(text, max_tokens=8)) for text in TEXTS]
        said = [handle.result().text.rstrip("\ufffd") for handle in handles]
    finally:
        engine.close()
    assert said == [alone(base, text, 8) for text in TEXTS]


def test_items_of_an_evaluation_do_not_turn_one_another(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_place", lambda _: ("cpu", torch.float32))
    items = [
        EvaluationItem.model_validate(
            {"id": f"i{at}", "source": "held_out", "prompt": [{"role": "user", "content": text}], "reference": "Nine."}
        )
        for at, text in enumerate(TEXTS)
    ]

    def evaluated(some: list[EvaluationItem]) -> dict[str, Any]:
        write_lines(tmp_path / "items.jsonl", some)
        spec = EvaluateSpec(
            base_path=base, items_path=tmp_path / "items.jsonl", adapters={}, result_path=tmp_path / "result.json",
            max_new_tokens=8, batch=8, device="cpu",
        )  # fmt: skip
        return program.evaluate(spec, lambda *_: None).systems[BASE]

    together = evaluated(items)
    for item in items:
        one = evaluated([item])[item.id]
        assert together[item.id].text == one.text
        assert together[item.id].nll == pytest.approx(one.nll, abs=1e-4)


def test_only_models_that_turn_by_length_pay_for_it(tmp_path: Path) -> None:
    from transformers import AutoConfig

    for name in FAMILIES:
        build_tiny(name, tmp_path / name)
        assert not depends_on_length(AutoConfig.from_pretrained(tmp_path / name))
