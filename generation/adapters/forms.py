"""Written forms of adapters that PEFT does not read by itself, and how they are put on a model.

A bottleneck adapter, up(relu(down(x))) beside a linear layer, has the tensors of a LoRA and one activation between
them. Its file says `peft_type: BOTTLENECK`, which PEFT refuses: read as LoRA it would be another function, silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generation.adapters.header import load_tensors
from generation.adapters.manifest import WEIGHTS_FILE, read_config
from generation.adapters.patterns import without_patterns

BOTTLENECK = "BOTTLENECK"
"""`peft_type` of a bottleneck adapter; everything else in its `adapter_config.json` is that of a LoRA."""


def is_bottleneck(config: Mapping[str, Any]) -> bool:
    """Whether an `adapter_config.json` is of a bottleneck adapter."""
    return str(config.get("peft_type", "")).upper() == BOTTLENECK


def lora_config_of(config: Mapping[str, Any], **overrides: Any) -> Any:
    """PEFT's configuration of a LoRA or a bottleneck, from `adapter_config.json`; keys that PEFT lacks are left out."""
    from peft import LoraConfig

    known = {name: value for name, value in config.items() if name in LoraConfig.__dataclass_fields__}
    return LoraConfig(**{**known, "peft_type": "LORA", **overrides})


def load_adapter(model: Any, folder: Path, name: str) -> Any:
    """Put the adapter in `folder` on a model, which may carry others; returns the model that carries it.

    model: a transformers model, or what an earlier call returned.
    """
    from peft import PeftModel, set_peft_model_state_dict

    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    config = read_config(folder)
    modules = {module.replace(".base_layer", "") for module, _ in plain.named_modules()}
    config = without_patterns(config, modules)
    lora = lora_config_of(config, inference_mode=True)
    if isinstance(model, PeftModel):
        model.add_adapter(name, lora)
        adapted = model
    else:
        adapted = PeftModel(model, lora, adapter_name=name)
    set_peft_model_state_dict(adapted, load_tensors(folder / WEIGHTS_FILE), adapter_name=name)
    if is_bottleneck(config):
        add_activation(adapted, name)
    return adapted


def add_activation(model: Any, name: str) -> int:
    """Put the activation between the factors of adapter `name`; returns how many layers have it."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and name in module.lora_A]
    for layer in layers:
        layer.lora_A[name].register_forward_hook(_activate)
    return len(layers)


def _activate(module: Any, inputs: Any, output: Any) -> Any:
    return output.relu()
