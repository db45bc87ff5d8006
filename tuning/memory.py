"""How much memory a training needs, estimated from file headers before anything is loaded.

What cannot be smaller is known: weights, and for every trained number its value, gradient and two moments in float32.
Activations are an estimate: what a Llama-like layer keeps for the backward pass, ten values of the hidden width and
four of the MLP's for each token, or its input alone where the rest is recomputed; and the logits of methods that
compare answers, which unembed every position (SFT unembeds the supervised ones, in pieces). A run is refused when the
first part and half of the second do not fit, so that an estimate that is off by a factor of two refuses nothing that
would have run.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InvalidInput
from core.gpu import MEMORY_SHARE_VARIABLE
from generation.adapters.checks import base_shapes
from tuning.kinds import AdapterKind, Method
from tuning.recipe import Recipe
from tuning.recipe_parts import ALL_LINEAR, MLP_ONLY, ONE_PROCESS, Targets
from tuning.spec import TrainRow
from tuning.targets import MLP_MODULES

if TYPE_CHECKING:
    import torch

_STATE_BYTES = 16
"""Of a trained number: value, gradient, two moments."""
_TEXTS_OF_A_ROW = {Method.DPO: 2, Method.ORPO: 2, Method.REWARD: 2, Method.KTO: 2}
"""Halves of a pair; of KTO, the row and another answer to its prompt."""
_UNEMBEDS_ALL = frozenset({Method.DPO, Method.ORPO, Method.KTO})
"""Methods that keep logits of all positions: as computed, in float32 after the softmax, and their gradient."""
_QUANTISABLE = frozenset({AdapterKind.LORA, AdapterKind.RSLORA, AdapterKind.DORA, AdapterKind.PISSA})
_FOUR_BIT_BYTES = 0.52
"""Of a weight in NF4 with scales in 8 bits."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes."""

    weights: int
    trained: int
    activations: int
    whole_weights: int = 0
    """Of the base as it is evaluated: never in 4 bits."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.trained + self.activations

    @property
    def least(self) -> int:
        """What it takes if activations are half of what they are estimated at."""
        return self.weights + self.trained + self.activations // 2


def estimate_memory(
    base_path: Path,
    recipe: Recipe,
    *,
    longest: int,
    value_bytes: int,
    by_tokens: bool = False,
    processes: int = 1,
    recomputed: bool | None = None,
) -> MemoryEstimate:
    """Memory of one process.

    longest: tokens of the longest row. value_bytes: of a number of the base and of the arithmetic. by_tokens: parts are
    of `batch.tokens`, where the recipe says that, and not of `batch.rows`. processes: how many share what the recipe's
    strategy spreads. recomputed: overrides the recipe, of which `auto` counts as recomputed where nothing is told.
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
    rows = recipe.batch.rows // recipe.batch.accumulation * _TEXTS_OF_A_ROW.get(recipe.method, 1)
    tokens = recipe.batch.tokens if by_tokens and recipe.batch.tokens else rows * longest
    layer = (10 * hidden + 4 * wide) * value_bytes
    again = recipe.activations != "kept" if recomputed is None else recomputed
    kept = layers * hidden * value_bytes + layer if again else layers * layer
    logits = int(config["vocab_size"]) * (value_bytes + 8) if recipe.method in _UNEMBEDS_ALL else 0
    trained = _trained_bytes(recipe, matrices, hidden, layers)
    spread = processes if recipe.devices.strategy in {"fsdp", "zero3"} else 1
    if recipe.devices.strategy == ONE_PROCESS:
        processes = 1
    elif recipe.devices.strategy != "ddp":
        trained //= processes
    return MemoryEstimate(
        weights // spread, trained, tokens * (kept + hidden * 8 + logits), whole_weights=numbers * value_bytes
    )


def recomputes(recipe: Recipe, kept: MemoryEstimate, available: int, *, on_gpu: bool) -> bool:
    """Whether layers keep their inputs alone. kept: the estimate with `recomputed` False.

    A GPU whose memory is full ends the training; a machine that swaps for a moment only slows it.
    """
    needed = kept.total if on_gpu else kept.least
    return recipe.activations == "recomputed" or (recipe.activations == "auto" and needed > available)


def longest_row(rows: Sequence[TrainRow]) -> int:
    """About how many tokens the longest row has: three bytes are a Japanese character or most of an English word."""
    return max((1 + sum(len(text.encode()) for text in _texts(row)) // 3 for row in rows), default=1)


def _texts(row: TrainRow) -> list[str]:
    return [*(turn.content for turn in row.prompt), max(row.completion, row.rejected or "", key=len)]


def what_would_fit(
    base_path: Path,
    recipe: Recipe,
    available: int,
    *,
    longest: int,
    value_bytes: int,
    by_tokens: bool,
    processes: int = 1,
) -> list[str]:
    """Changes of the recipe, the smallest first, each of which would fit by itself; empty where none does."""
    batch = recipe.batch
    tries: list[tuple[str, Recipe]] = []
    if by_tokens and batch.tokens:
        sizes = (batch.tokens // part for part in (2, 4, 8, 16, 32) if batch.tokens // part >= max(1024, longest))
        tries += [(f"batch.tokens {size}", _with_batch(recipe, tokens=size)) for size in sizes]
    else:
        parts = (parts for parts in range(batch.accumulation + 1, batch.rows + 1) if batch.rows % parts == 0)
        tries += [(f"batch.accumulation {part}", _with_batch(recipe, accumulation=part)) for part in parts]

    def fits(one: Recipe) -> bool:
        shape: dict[str, Any] = {"longest": longest, "value_bytes": value_bytes, "by_tokens": by_tokens}
        shape["processes"] = processes
        return estimate_memory(base_path, one, **shape).least <= available

    found = [name for name, one in tries if fits(one)][:1]
    if recipe.activations == "kept" and fits(recipe.model_copy(update={"activations": "recomputed"})):
        found.insert(0, "activations 'recomputed'")
    if recipe.adapter in _QUANTISABLE:
        four_bits = recipe.model_copy(update={"adapter": AdapterKind.QLORA})
        if fits(four_bits):
            found.append("adapter 'qlora'")
        elif not found and tries and fits(four_bits.model_copy(update={"batch": tries[-1][1].batch})):
            found.append(f"adapter 'qlora' with {tries[-1][0]}")
    return found


def _with_batch(recipe: Recipe, **changes: int) -> Recipe:
    return recipe.model_copy(update={"batch": recipe.batch.model_copy(update=changes)})


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
    if targets == MLP_ONLY:
        return module.split(".")[-2] in MLP_MODULES
    return targets == ALL_LINEAR or any(module.endswith(f".{target}") for target in targets)


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for part in shape:
        size *= part
    return size


def require_memory(estimate: MemoryEstimate, available: int, fitting: Sequence[str] = ()) -> None:
    """Refuse what would end in the middle of its first step. fitting: see `what_would_fit`.

    Raises:
        InvalidInput: `too_little_memory`.
    """
    if estimate.least > available:
        raise InvalidInput(
            f"training needs about {_gib(estimate.total)} (weights {_gib(estimate.weights)}, adapter and optimiser "
            f"{_gib(estimate.trained)}, activations {_gib(estimate.activations)}), {_gib(available)} are free; "
            + (
                f"would fit: {'; or '.join(fitting)}"
                if fitting
                else "neither smaller parts nor adapter 'qlora' would fit"
            ),
            code="too_little_memory",
            extra={"needed": estimate.total, "available": available, "would_fit": list(fitting)},
        )


def available_memory(device: torch.device) -> int:
    """Bytes that this process may still take: of its share of the GPU, or of the machine within its limit."""
    import torch

    if device.type == "cuda":
        left, whole = torch.cuda.mem_get_info(device)
        return int(min(left, float(os.environ.get(MEMORY_SHARE_VARIABLE, "1")) * whole))
    free = 0
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return free if limit == resource.RLIM_INFINITY else min(free, limit)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
