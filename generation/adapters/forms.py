"""Written forms of adapters that PEFT does not read by itself, and how they are put on a model.

A bottleneck adapter, up(relu(down(x))) beside a linear layer, has the tensors of a LoRA and one activation between
them. Its file says `peft_type: BOTTLENECK`, which PEFT refuses: read as LoRA it would be another function, silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import AdapterRefused
from generation.adapters.header import load_tensors
from generation.adapters.manifest import WEIGHTS_FILE, read_config
from generation.adapters.patterns import without_patterns

BOTTLENECK = "BOTTLENECK"
"""`peft_type` of a bottleneck adapter; everything else in its `adapter_config.json` is that of a LoRA."""

_VIRTUAL = frozenset({"PREFIX_TUNING", "PROMPT_TUNING"})
_VIRTUAL_KEYS = (
    "task_type", "num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers",
    "encoder_hidden_size", "prefix_projection",
)  # fmt: skip
"""What shapes virtual tokens. What else a file may say, such as a tokenizer to load, only matters before training."""


def is_bottleneck(config: Mapping[str, Any]) -> bool:
    """Whether an `adapter_config.json` is of a bottleneck adapter."""
    return str(config.get("peft_type", "")).upper() == BOTTLENECK


def lora_config_of(config: Mapping[str, Any], **overrides: Any) -> Any:
    """PEFT's configuration of a LoRA or a bottleneck, from `adapter_config.json`; keys that PEFT lacks are left out."""
    from peft import LoraConfig

    known = {name: value for name, value in config.items() if name in LoraConfig.__dataclass_fields__}
    return LoraConfig(**{**known, "peft_type": "LORA", **overrides})


def load_adapter(model: Any, folder: Path, name: str) -> Any:
    """Put the adapter in `folder` on a model, which may carry others of its kind; returns the model that carries it.

    model: a transformers model, or what an earlier call returned.

    Raises:
        AdapterRefused: `adapter_unsupported`, neither LoRA, bottleneck nor virtual tokens; `adapter_bad_weights`,
            tensors that belong nowhere in what the configuration describes.
    """
    from peft import PeftModel, get_peft_model, set_peft_model_state_dict

    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    config = read_config(folder)
    described = _described(config, {module.replace(".base_layer", "") for module, _ in plain.named_modules()})
    tensors = load_tensors(folder / WEIGHTS_FILE)
    if isinstance(model, PeftModel):
        model.add_adapter(name, described)
        adapted = model
    elif described.is_prompt_learning:
        adapted = get_peft_model(model, described, adapter_name=name)  # the class of the task puts the tokens in front
    else:
        adapted = PeftModel(model, described, adapter_name=name)
    unknown = set_peft_model_state_dict(adapted, tensors, adapter_name=name).unexpected_keys
    if unknown and not described.is_prompt_learning:  # PEFT puts those of virtual tokens in place by itself, or fails
        raise AdapterRefused(f"'{unknown[0]}' belongs to no layer of the adapter", code="adapter_bad_weights")
    if is_bottleneck(config):
        add_activation(adapted, name)
    return adapted


def _described(config: Mapping[str, Any], modules: set[str]) -> Any:
    """PEFT's configuration of an adapter, without what only a trainer needs."""
    from peft import PrefixTuningConfig, PromptTuningConfig

    kind = str(config.get("peft_type", "")).upper()
    if kind in _VIRTUAL:
        known = {key: config[key] for key in _VIRTUAL_KEYS if config.get(key) is not None}
        made = PrefixTuningConfig if kind == "PREFIX_TUNING" else PromptTuningConfig
        return made(inference_mode=True, **known)
    if kind != "LORA" and not is_bottleneck(config):
        raise AdapterRefused(f"adapters of kind '{kind}' cannot be loaded", code="adapter_unsupported")
    return lora_config_of(without_patterns(config, modules), inference_mode=True)


def add_activation(model: Any, name: str) -> int:
    """Put the activation between the factors of adapter `name`; returns how many layers have it."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and name in module.lora_A]
    for layer in layers:
        layer.lora_A[name].register_forward_hook(_activate)
    return len(layers)


def _activate(module: Any, inputs: Any, output: Any) -> Any:
    return output.relu()
