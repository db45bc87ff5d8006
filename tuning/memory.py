"""How much memory a training needs, estimated from file headers before anything is loaded.

What cannot be smaller is known: weights, and for every trained number its value, gradient and two moments in float32.
Activations are an estimate: what a Llama-like layer keeps for the backward pass, ten values of the hidden width and
four of the MLP's for each token. A run is refused when the first part and half of the second do not fit, so that an
estimate that is off by a factor of two refuses nothing that would have run.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import InvalidInput
from generation.adapters.checks import base_shapes
from tuning.kinds import AdapterKind
from tuning.recipe import Recipe
from tuning.recipe_parts import ALL_LINEAR, Targets

if TYPE_CHECKING:
    import torch

_STATE_BYTES = 16
"""Of a trained number: value, gradient, two moments."""
_FOUR_BIT_BYTES = 0.52
"""Of a weight in NF4 with scales in 8 bits."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes."""

    weights: int
    trained: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.trained + self.activations

    @property
    def least(self) -> int:
        """What it takes if activations are half of what they are estimated at."""
        return self.weights + self.trained + self.activations // 2


def estimate_memory(
    base_path: Path, recipe: Recipe, *, longest: int, value_bytes: int, by_tokens: bool = False
) -> MemoryEstimate:
    """Memory of one process.

    longest: tokens of the longest row. value_bytes: of a number of the base and of the arithmetic. by_tokens: parts are
    of `batch.tokens`, where the recipe says that, and not of `batch.rows`.
    """
    shapes = base_shapes(base_path)
    matrices = {name: shape for name, shape in shapes.items() if ".layers." in name and len(shape) == 2}
    numbers = sum(_product(shape) for shape in shapes.values())
    inside = sum(_product(shape) for shape in matrices.values())
    if recipe.adapter is AdapterKind.QLORA:
        weights = round(inside * _FOUR_BIT_BYTES) + (numbers - inside) * value_bytes
    else:
        weights = numbers * (4 if recipe.adapter is AdapterKind.FULL else value_bytes)
    config = json.loads((base_path / "config.json").read_text("utf-8"))
    hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
    wide = int(config.get("intermediate_size") or 4 * hidden)
    rows = recipe.batch.rows // recipe.batch.accumulation
    tokens = recipe.batch.tokens if by_tokens and recipe.batch.tokens else rows * longest
    activations = tokens * (layers * (10 * hidden + 4 * wide) * value_bytes + hidden * 8)
    return MemoryEstimate(weights, _trained_bytes(recipe, matrices, hidden, layers), activations)


def _trained_bytes(recipe: Recipe, matrices: Mapping[str, tuple[int, ...]], hidden: int, layers: int) -> int:
    if recipe.adapter is AdapterKind.FULL:
        return sum(_product(shape) for shape in matrices.values()) * (_STATE_BYTES - 4)  # the value is a weight already
    if recipe.virtual is not None and recipe.adapter in {AdapterKind.PREFIX, AdapterKind.PROMPT}:
        return (
            recipe.virtual.tokens * hidden * (2 * layers if recipe.adapter is AdapterKind.PREFIX else 1) * _STATE_BYTES
        )
    if recipe.bottleneck is not None and recipe.adapter is AdapterKind.BOTTLENECK:
        rank, targets = recipe.bottleneck.width, recipe.bottleneck.targets
    else:
        rank, targets = recipe.factors.rank, recipe.factors.targets
    return sum(rank * sum(shape) for name, shape in matrices.items() if _targeted(name, targets)) * _STATE_BYTES


def _targeted(name: str, targets: Targets) -> bool:
    module = name.removesuffix(".weight")
    return targets == ALL_LINEAR or any(module.endswith(f".{target}") for target in targets)


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for part in shape:
        size *= part
    return size


def require_memory(estimate: MemoryEstimate, available: int) -> None:
    """Refuse what would end in the middle of its first step.

    Raises:
        InvalidInput: `too_little_memory`.
    """
    if estimate.least > available:
        raise InvalidInput(
            f"training needs about {_gib(estimate.total)} (weights {_gib(estimate.weights)}, adapter and optimiser "
            f"{_gib(estimate.trained)}, activations {_gib(estimate.activations)}), {_gib(available)} are free; take "
            "fewer rows or tokens a part, more accumulation, or adapter 'qlora'",
            code="too_little_memory",
            extra={"needed": estimate.total, "available": available},
        )


def available_memory(device: torch.device) -> int:
    """Bytes that this process may still take: of the GPU, or of the machine within this process's limit."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = 0
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return free if limit == resource.RLIM_INFINITY else min(free, limit)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
