"""LoRA as one product gives PEFT's outputs and PEFT's gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.tiny_llama import build_tiny_llama
from tuning.merged_forward import use_merged_forward


def test_outputs_and_gradients_are_those_of_peft(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    build_tiny_llama(tmp_path)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32),
        LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=targets),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)  # PEFT starts B at zero, where the test would see nothing
    ids = torch.randint(0, 250, (3, 20), generator=torch.Generator().manual_seed(1))

    def run() -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    loss, gradients = run()
    assert use_merged_forward(model) == 14
    merged_loss, merged = run()
    assert abs(loss - merged_loss) < 1e-5
    assert merged.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.norm() > 0
        assert (merged[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
