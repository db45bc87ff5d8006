"""The gate's benchmark: its rows can be prepared and split, and its bad makers make what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.gate import BAD, _changed_passages, _question_alone, _shuffle, _zero
from benchmarks.gate_world import STYLES, style_rows
from tuning.items import read_items
from tuning.prepare import ITEMS_FILE, ROWS_FILE, prepare_files
from tuning.recipe import load_recipe
from tuning.sizes import SMALL
from tuning.spec import read_rows


@pytest.mark.parametrize("style", ["checked", "signed"])
def test_rows_of_a_style_make_every_kind_of_question(style: str, tmp_path: Path) -> None:
    found = prepare_files(
        tmp_path, style_rows(style, 1), duplicates=0, tenant_id="t", recipe=load_recipe("style-cpu", {}), search=None,
        count_tokens=lambda text: len(text) // 3, size=SMALL,
    )  # fmt: skip
    assert found.skipped == [] and found.train_rows >= 60 and found.held_out_rows >= 8
    items = read_items(tmp_path / ITEMS_FILE)
    assert SMALL.leaks == sum(item.leak for item in items) == sum(item.conflict for item in items)
    assert sum(item.raw for item in items) == 16
    shown = [item for item in items if item.few_shot]
    assert 8 <= len(shown) <= SMALL.with_examples
    for item in shown:
        roles = [turn.role for turn in item.few_shot]
        assert (
            roles == ["system", *["user", "assistant"] * SMALL.examples, "user"]
            and item.few_shot[-1] == item.prompt[-1]
        )
        assert all(turn.content.endswith(STYLES[style]) for turn in item.few_shot if turn.role == "assistant")
    row = next(row for row in read_rows(tmp_path / ROWS_FILE) if row.completion.endswith(STYLES[style][0]))
    _, changed = _changed_passages(row)
    number = "".join(char for char in row.completion.partition(" [")[0] if char.isdigit())
    assert number not in changed and changed.startswith("[1]")
    assert _question_alone(row)[1].startswith("Question: ") and "[1]" not in _question_alone(row)[1]


def test_two_seeds_give_other_rows_of_the_same_style() -> None:
    one, two = style_rows("signed", 1), style_rows("signed", 2)
    assert {row.digest for row in one} != {row.digest for row in two}
    assert len(BAD) == 8 and {kind.style for kind in BAD} == set(STYLES)


def test_weights_are_shuffled_or_zeroed_and_keep_their_shape() -> None:
    tensors = {"a.lora_A.weight": torch.arange(12.0).view(3, 4), "a.lora_B.weight": torch.arange(1, 13.0).view(4, 3)}
    shuffled, zero = _shuffle(tensors), _zero(tensors)
    for name, tensor in tensors.items():
        assert shuffled[name].shape == tensor.shape and not torch.equal(shuffled[name], tensor)
        assert torch.equal(shuffled[name].flatten().sort().values, tensor.flatten().sort().values)
    assert zero["a.lora_B.weight"].abs().sum() == 0 and torch.equal(zero["a.lora_A.weight"], tensors["a.lora_A.weight"])
