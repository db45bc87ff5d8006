"""A trained adapter written in the form in which it is served or handed out: safetensors and `adapter_config.json`.

The folder appears whole or not at all. Tensors are bfloat16, the precision of serving.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import TsumugiError
from generation.adapters.forms import BOTTLENECK
from generation.adapters.manifest import CONFIG_FILE, WEIGHTS_FILE
from tuning.attach import ADAPTER, Attached
from tuning.kinds import AdapterKind
from tuning.recipe import Recipe
from tuning.targets import linear_layers

if TYPE_CHECKING:
    import torch

_SPARE = 8
"""Columns of the random sketch beyond the rank: the error of the cut is then within a percent of the best one."""


def write_adapter(trainer: Any, attached: Attached, recipe: Recipe, base_path: Path, output_dir: Path) -> float | None:
    """Write the adapter; returns the share of a full fine-tuning's change that its rank kept, else None.

    All processes of a distributed run must call this; the first one writes.

    Raises:
        TsumugiError: `training_diverged`, a value is not finite.
    """
    import torch

    model = trainer.accelerator.unwrap_model(trainer.model)
    whole = None
    if trainer.is_deepspeed_enabled:  # its engine gathers what ZeRO 3 has spread; the model inside cannot
        whole = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    elif trainer.is_fsdp_enabled:
        whole = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.is_world_process_zero():
        return None
    kept = None
    if recipe.adapter is AdapterKind.FULL:
        config, state, kept = _cut_to_rank(model, recipe, base_path)
    else:
        config, state = _trained(model, recipe, attached, whole)
    if any(not torch.isfinite(value).all() for value in state.values()):
        raise TsumugiError("Training diverged: the adapter holds values that are no numbers", code="training_diverged")
    _write(config, state, output_dir, bottleneck=recipe.adapter is AdapterKind.BOTTLENECK)
    return kept


def write_merged(rank: int, targets: list[str], state: dict[str, torch.Tensor], output_dir: Path) -> None:
    """Write factors whose product is the change itself: scale 1."""
    from peft import LoraConfig

    _write(LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=rank, target_modules=targets), state, output_dir)


def _write(config: Any, state: dict[str, torch.Tensor], output_dir: Path, *, bottleneck: bool = False) -> None:
    from safetensors.torch import save_file

    staging = output_dir.with_name(output_dir.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    config.inference_mode = True
    # A path of this machine means nothing elsewhere; the manifest binds the base by digest.
    config.base_model_name_or_path = None
    config.save_pretrained(staging)
    if bottleneck:
        values = json.loads((staging / CONFIG_FILE).read_text("utf-8"))
        (staging / CONFIG_FILE).write_text(json.dumps({**values, "peft_type": BOTTLENECK}, indent=2), "utf-8")
    save_file({name: _as_written(name, value) for name, value in state.items()}, staging / WEIGHTS_FILE)
    shutil.rmtree(output_dir, ignore_errors=True)
    for path in staging.iterdir():
        path.chmod(0o644)
    staging.rename(output_dir)


def _as_written(name: str, value: torch.Tensor) -> torch.Tensor:
    import torch

    # A magnitude scales a whole row of the base: rounded to bfloat16 it would be off by up to 0.2 percent in all of it.
    dtype = torch.float32 if "magnitude" in name else torch.bfloat16
    return value.detach().to("cpu", dtype).contiguous()


def _trained(
    model: Any, recipe: Recipe, attached: Attached, whole: dict[str, Any] | None
) -> tuple[Any, dict[str, torch.Tensor]]:
    from copy import deepcopy

    from peft import get_peft_model_state_dict

    config = deepcopy(model.peft_config[ADAPTER])
    state = get_peft_model_state_dict(model, state_dict=whole, adapter_name=ADAPTER)
    if recipe.adapter is not AdapterKind.PISSA:
        return config, state
    config.init_lora_weights = True
    config.r = 2 * recipe.factors.rank
    # The scale stays what it was: alpha/r, or alpha/sqrt(r).
    config.lora_alpha = recipe.factors.alpha * (2**0.5 if config.use_rslora else 2)
    return config, _as_change(state, attached.initial)


def _as_change(state: dict[str, torch.Tensor], initial: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """PiSSA's factors, which stand for part of the weight, as the change that training made to it.

    B A - B0 A0 = B (A - A0) + (B - B0) A0: in this order bfloat16 rounds the change, not the large parts it is the
    difference of.
    """
    import torch

    written = {}
    for name, value in state.items():
        start = initial[name].to(value.device)
        if ".lora_A." in name:
            written[name] = torch.cat([value - start, start], dim=0)
        else:
            written[name] = torch.cat([value, value - start], dim=1)
    return written


def _cut_to_rank(model: Any, recipe: Recipe, base_path: Path) -> tuple[Any, dict[str, torch.Tensor], float]:
    """The change of every trained matrix as LoRA of the recipe's rank, and the share of its squares that this keeps."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    rank = recipe.full.rank if recipe.full is not None else 1
    before = linear_layers(AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32))
    state: dict[str, torch.Tensor] = {}
    total = left = 0.0
    trained = linear_layers(model)
    for name, layer in trained.items():
        change = layer.weight.detach().float().cpu() - before[name].weight.detach()
        down, up = factors_of(change, rank)
        total += float((change**2).sum())
        left += float(((change - up @ down) ** 2).sum())
        state[f"base_model.model.{name}.lora_A.weight"] = down
        state[f"base_model.model.{name}.lora_B.weight"] = up
    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=rank, target_modules=sorted({n.rpartition(".")[2] for n in trained})
    )
    return config, state, 1 - left / total if total else 1.0


def factors_of(change: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rank, in) and (out, rank) whose product is nearest to `change`; rows beyond its own rank are zero."""
    import torch

    if min(change.shape) > 4 * rank:
        left, sizes, right = torch.svd_lowrank(change, q=rank + _SPARE, niter=4)
        right = right.T
    else:
        left, sizes, right = torch.linalg.svd(change, full_matrices=False)
    count = min(rank, len(sizes))
    root = sizes[:count].sqrt()
    down, up = change.new_zeros(rank, change.shape[1]), change.new_zeros(change.shape[0], rank)
    down[:count] = root[:, None] * right[:count]
    up[:, :count] = left[:, :count] * root
    return down, up
