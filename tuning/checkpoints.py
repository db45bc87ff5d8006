"""Checkpoints of a training: which one to go on from, and weights put back. A save cut short is never continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.errors import InvalidInput

COMPLETE = "complete"
"""Written last into a checkpoint folder; without it the save was cut short and the folder is passed over."""


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose save finished, or None."""
    found = [path for path in folder.glob("checkpoint-*") if (path / COMPLETE).exists()]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The optimiser step after which it was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def load_weights(model: Any, folder: Path) -> None:
    """Put the weights in `folder` into the model; every one of them must find its place.

    model: one with an adapter (`adapter_model.safetensors`), or trained whole (`model.safetensors`).

    Raises:
        InvalidInput: `invalid_train_spec`, the weights are of another adapter.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    if not hasattr(model, "peft_config"):
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)  # tied weights are saved once
        return
    weights = load_file(folder / "adapter_model.safetensors")
    own = {name: value.shape for name, value in get_peft_model_state_dict(model).items()}
    if own != {name: value.shape for name, value in weights.items()}:
        raise InvalidInput(f"The adapter in {folder} has other layers or another rank", code="invalid_train_spec")
    set_peft_model_state_dict(model, weights)
