"""Shifting the first token's logit moves that decision and leaves every other position alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.tiny_llama import build_tiny_llama
from tuning.spec import TrainMessage, TrainRow
from tuning.starter.first_token import collect_positions, shift_first_token

TOKEN = 70


def test_only_the_first_position_moves(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    build_tiny_llama(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rows = [
        TrainRow(prompt=(TrainMessage(role="user", content=f"Which {n}? " * (n % 5 + 1)),), completion=f"It is {n}.")
        for n in range(16)
    ]

    def adapted() -> Any:
        torch.manual_seed(3)
        model: Any = get_peft_model(
            AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32),
            LoraConfig(r=6, lora_alpha=6, target_modules=["down_proj"]),
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        return model

    model = adapted()
    layer = model.base_model.model.model.layers[-1].mlp.down_proj
    factors = {"A": layer.lora_A["default"].weight.data.clone(), "B": layer.lora_B["default"].weight.data.clone()}
    before = adapted().merge_and_unload()
    positions = collect_positions(before, tokenizer, rows)
    assert int(positions.first.sum()) == len(rows)
    changed = shift_first_token(factors, 1.0, positions, before, {TOKEN: -1.5})
    assert changed["A"].shape == factors["A"].shape and changed["B"].shape == factors["B"].shape
    layer.lora_A["default"].weight.data.copy_(changed["A"])
    layer.lora_B["default"].weight.data.copy_(changed["B"])
    after = collect_positions(model.merge_and_unload(), tokenizer, rows)

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return before.lm_head(before.model.norm(hidden))

    moved = logits(after.hidden) - logits(positions.hidden)
    assert moved[after.first, TOKEN].mean() < -0.5
    assert moved[~after.first, TOKEN].abs().mean() < 0.25 * moved[after.first, TOKEN].abs().mean()
    others = torch.arange(moved.shape[1]) != TOKEN
    assert moved[after.first][:, others].abs().mean() < 0.35 * moved[after.first, TOKEN].abs().mean()
