"""Rows packed into one sequence train what rows apart train, in every family that packs; others say why they pad."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import TsumugiError
from tests.tiny_families import FAMILIES, build_tiny
from tuning import packing
from tuning.kinds import AdapterKind
from tuning.lean_forward import use_lean_forward
from tuning.methods.sft import build
from tuning.methods.work import Built, Work
from tuning.packing import pack_batch
from tuning.recipe import load_recipe
from tuning.spec import TrainRow

PADDED = {"gemma2": "mask over the whole pack"}
"""Families that pad by themselves, and a part of the reason."""


def rows() -> list[TrainRow]:
    """Of one to sixty tokens more than the shortest; some longer than a sliding window of 64."""
    return [
        TrainRow.model_validate(
            {"prompt": [{"role": "user", "content": f"棚{n} {'x' * (9 * n)}"}], "completion": f"Indeed, {n}{'o' * n}."}
        )
        for n in range(7)
    ]


def build_for(base: Path, folder: Path, recipe: str = "style-cpu", **overrides: Any) -> Built:
    from transformers import AutoTokenizer

    targets = {"lora.targets": "all-linear"} if recipe == "style-cpu" else {}
    values = {"precision": "float32", "batch.rows": 4, "batch.max_tokens": 512, **targets, **overrides}
    work = Work(
        recipe=load_recipe(recipe, values), base_path=base, checkpoints=folder / "checkpoints", seed=5,
        tokenizer=AutoTokenizer.from_pretrained(base), rows=rows(), eval_rows=None, dtype=torch.float32, on_gpu=False,
    )  # fmt: skip
    built = build(work)
    torch.manual_seed(3)
    for name, parameter in built.trainer.model.named_parameters():
        if "lora_B" in name:  # at zero, half of the gradients would be
            parameter.data.normal_(0, 0.05)
        elif not parameter.requires_grad and parameter.ndim > 1:
            parameter.data.mul_(6)  # so that attention looks at something
    return built


def loss_and_gradients(built: Built, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    model = built.trainer.model
    model.zero_grad()
    loss = built.trainer.compute_loss(model, batch)
    loss.backward()
    return float(loss.detach()), {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def assert_same(found: tuple[float, dict[str, torch.Tensor]], expected: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys() and found[1]
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-7, name


def padded_batch(built: Built, chosen: Sequence[Any]) -> dict[str, Any]:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    return dict(DataCollatorForLanguageModeling(pad_token_id=built.trainer.processing_class.pad_token_id)(chosen))


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_have_the_loss_and_gradients_of_rows_apart(family: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    build_tiny(family, base)
    built = build_for(base, tmp_path)
    if family in PADDED:
        assert built.padded is not None and PADDED[family] in built.padded
        built = build_for(base, tmp_path, **{"batch.packing": "packed"})
    assert built.padded is None and built.trainer.data_collator is pack_batch
    chosen = [built.trainer.train_dataset[at] for at in (6, 0, 3, 5)]
    packed = loss_and_gradients(built, pack_batch(chosen))

    counts = [int((row["labels"][1:] != -100).sum()) for row in chosen]
    total, summed = 0.0, dict[str, torch.Tensor]()
    for row, count in zip(chosen, counts, strict=True):
        loss, gradients = loss_and_gradients(built, padded_batch(built, [row]))
        total += loss * count / sum(counts)
        for name, gradient in gradients.items():
            summed[name] = summed.get(name, 0) + gradient * count / sum(counts)
    assert_same(packed, (total, summed))


def test_the_lean_form_of_lora_is_the_same_function(tmp_path: Path) -> None:
    base = tmp_path / "base"
    build_tiny("llama", base)
    built = build_for(base, tmp_path)
    model = built.trainer.model
    batch = pack_batch([built.trainer.train_dataset[at] for at in (6, 0, 3)])
    expected = loss_and_gradients(built, batch)
    with torch.no_grad(), model.disable_adapter():
        reference = float(built.trainer.compute_loss(model, batch))
    assert use_lean_forward(model) == 14
    assert_same(loss_and_gradients(built, batch), expected)
    with torch.no_grad(), model.disable_adapter():  # the reference of a preference method is the base alone
        assert float(built.trainer.compute_loss(model, batch)) == pytest.approx(reference, rel=1e-6)
    assert abs(reference - expected[0]) > 1e-3


def test_attention_that_leaks_is_found_and_rows_are_padded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    from tuning import trainers

    base = tmp_path / "base"
    build_tiny("llama", base)
    monkeypatch.setattr(trainers, "rows_of", lambda _lengths: nullcontext())  # one causal sequence for all rows
    built = build_for(base, tmp_path)
    assert built.padded is not None and "packed row" in built.padded
    assert built.trainer.data_collator is not pack_batch
    assert built.trainer.model.config._attn_implementation == "sdpa"
    with pytest.raises(TsumugiError) as refused:
        build_for(base, tmp_path, **{"batch.packing": "packed"})
    assert refused.value.code == "packed_loss_differs"


def test_virtual_tokens_and_a_recipe_that_says_so_pad(tmp_path: Path) -> None:
    base = tmp_path / "base"
    build_tiny("llama", base)
    built = build_for(base, tmp_path, recipe="style-prefix")
    assert built.padded is not None and AdapterKind.PREFIX.value in built.padded
    built = build_for(base, tmp_path, **{"batch.packing": "padded"})
    assert built.padded == "the recipe says so"


def test_the_share_of_a_step_is_that_of_its_rows(tmp_path: Path) -> None:
    """Size and tokens of a batch are counted from rows, whichever way they lie."""
    from transformers.trainer_pt_utils import find_batch_size

    base = tmp_path / "base"
    build_tiny("llama", base)
    built = build_for(base, tmp_path)
    chosen = [built.trainer.train_dataset[at] for at in (2, 4)]
    batch = pack_batch(chosen)
    assert find_batch_size(batch) == 2
    lengths = [len(row["input_ids"]) for row in chosen]
    assert batch["position_ids"][0].tolist() == [*range(lengths[0]), *range(lengths[1])]
    assert batch["labels"][0, lengths[0]] == packing.IGNORED
    built.trainer.model.train()
    for made, seen in ((batch, sum(lengths)), (padded_batch(built, chosen), 2 * sum(lengths))):
        built.trainer.compute_loss(built.trainer.model, made)
        assert built.trainer._total_train_tokens == seen
