"""Models whose rotation depends on the length of a sequence: what a row is answered does not depend on its company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.errors import InvalidInput
from core.settings import GenerationSettings
from generation.engines.rotation import depends_on_length
from generation.engines.transformers_engine import TransformersEngine
from generation.models import describe_base
from tests.tiny_adapters import ask
from tests.tiny_families import FAMILIES, VARIANTS, build_tiny
from tuning import evaluate as program
from tuning.items import BASE, EvaluateSpec, EvaluationItem, write_lines
from tuning.recipe import load_recipe

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


def rows_of(lengths: tuple[int, ...]) -> list[dict[str, Any]]:
    return [
        {"prompt": [{"role": "user", "content": "x" * length}], "completion": f"Indeed, {at}.", "rejected": "No."}
        for at, length in enumerate(lengths)
    ]


def build(base: Path, folder: Path, recipe: str, lengths: tuple[int, ...]) -> Any:
    from tuning.methods import build_trainer
    from tuning.methods.work import Work, rows_for
    from tuning.spec import TrainRow
    from tuning.template import load_tokenizer

    values = load_recipe(
        recipe, {"precision": "float32", "batch.rows": 4, "batch.max_tokens": 512, "batch.max_steps": 1}
    )
    rows = [TrainRow.model_validate(row) for row in rows_of(lengths)]
    if recipe == "style-cpu":
        rows = [row.model_copy(update={"rejected": None}) for row in rows]
    work = Work(
        recipe=values, base_path=base, checkpoints=folder / "checkpoints", seed=5, tokenizer=load_tokenizer(base),
        rows=rows_for(values.method, rows), eval_rows=None, dtype=torch.float32, on_gpu=False,
    )  # fmt: skip
    return build_trainer(work)


def test_rows_of_other_lengths_do_not_turn_a_row_in_training(base: Path, tmp_path: Path) -> None:
    """Every part of a step holds one row, and its loss is that of transformers on a model that saw nothing else."""
    built = build(base, tmp_path, "style-cpu", (5, 200, 12, 90))
    trainer = built.trainer
    assert trainer.args.per_device_train_batch_size == 1 and trainer.args.gradient_accumulation_steps == 4
    for row in list(trainer.train_dataset)[::-1]:
        batch = {name: torch.tensor(row[name])[None] for name in ("input_ids", "labels")}
        batch = {name: value.long() for name, value in batch.items()}
        fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        with torch.no_grad():
            found = float(trainer.compute_loss(trainer.model, trainer.data_collator([row])))
            assert found == pytest.approx(float(fresh(**batch).loss), rel=1e-4)


def test_rows_within_the_first_length_share_their_parts(base: Path, tmp_path: Path) -> None:
    built = build(base, tmp_path, "style-cpu", (1, 2, 3, 4))
    assert max(len(row["input_ids"]) for row in built.trainer.train_dataset) <= SHORT
    assert built.trainer.args.per_device_train_batch_size == 4


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_methods_that_compare_rows_in_a_pass_refuse_longer_ones(method: str, base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"batch.max_tokens to {SHORT}") as refused:
        build(base, tmp_path, method, (5, 200))
    assert refused.value.code == "rows_turn_each_other"
