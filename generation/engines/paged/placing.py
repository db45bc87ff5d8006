"""Where the tensors of an adapter file belong in a Llama-like model, and how strongly they act, by PEFT's rules."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from core.errors import AdapterRefused
from generation.adapters.checks import MAGNITUDE, rank_of
from generation.adapters.forms import lora_config_of
from generation.adapters.patterns import value_for
from generation.engines.adapter_bank import PreparedAdapter
from generation.engines.paged.weights import GROUPS

PLACES = {part: (group, index) for group, parts in GROUPS.items() for index, part in enumerate(parts)}
"""Projection to its joined matrix and its number there."""
_NAME = re.compile(
    r"^base_model\.model\.model\.layers\.(?P<layer>\d{1,5})\.(?P<part>[^\n]{1,300})"
    r"\.lora_(?:(?P<side>[AB])\.weight|magnitude_vector(?:\.weight)?)$"
)

Placed = dict[tuple[int, str], dict[str, torch.Tensor]]
"""(layer, projection) to its tensors: A, B and, for DoRA, the magnitude."""


def place(prepared: PreparedAdapter, layers: int) -> Placed:
    """Sort the tensors of an adapter by where they act.

    Raises:
        AdapterRefused: a tensor that belongs to no projection (`adapter_wrong_base`), or projections that the
            configuration names and the file does not hold (`adapter_bad_config`).
    """
    placed: Placed = {}
    for name, tensor in prepared.tensors.items():
        match = _NAME.match(name)
        if match is None or match["part"] not in PLACES or int(match["layer"]) >= layers:
            raise AdapterRefused(
                f"{prepared.ref.stamp}: '{name}' belongs to no projection of the base", code="adapter_wrong_base"
            )
        placed.setdefault((int(match["layer"]), match["part"]), {})[match["side"] or MAGNITUDE] = tensor
    missing = _targets(prepared.config, layers) - set(placed)
    if missing:
        layer, part = min(missing)
        raise AdapterRefused(
            f"{prepared.ref.stamp}: no weights for layer {layer} '{part}', which its configuration names",
            code="adapter_bad_config",
            extra={"missing": len(missing)},
        )
    return placed


def scale_of(config: Mapping[str, Any], layer: int, part: str) -> float:
    """The factor of B A x: alpha over rank, or over its root for rsLoRA."""
    module = f"model.layers.{layer}.{part}"
    alpha = float(config.get("lora_alpha", 8))
    alpha = float(value_for(config, "alpha_pattern", module, alpha))
    rank = rank_of(config, module)
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _targets(config: Mapping[str, Any], layers: int) -> set[tuple[int, str]]:
    """Layers and projections that the configuration names."""
    from peft.tuners.tuners_utils import check_target_module_exists

    every = {(layer, part) for layer in range(layers) for part in PLACES}
    if config.get("target_modules") == "all-linear":
        return set() if config.get("exclude_modules") else every
    lora = lora_config_of(config)
    return {(n, part) for n, part in every if bool(check_target_module_exists(lora, f"model.layers.{n}.{part}"))}
