"""One adapter out of several: their changes to every weight, combined, and written as LoRA again.

`cat` and `svd` add the changes (exactly; exactly up to the rank). `linear` adds the factors, as PEFT does: right for
adapters that share their A, rough otherwise. `ties` keeps the largest entries of each change and settles disputes over
a sign by majority; `dare` drops entries at random and scales up the rest. Both work on the changes themselves, which
mean something, where PEFT's forms of them work on A and B, which do not alone; the result is then cut to a rank.

No base is needed: a change is B A. PEFT's own functions do the pruning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InvalidInput
from generation.adapters.header import load_tensors
from generation.adapters.manifest import WEIGHTS_FILE, read_config
from tuning.recipe_parts import MergeRecipe

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."
_PATTERNS = ("rank_pattern", "alpha_pattern")


@dataclass(frozen=True, slots=True)
class Factors:
    """An adapter as changes: by module, down (rank, in) and up (out, rank), whose product is the change."""

    rank: int
    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Merged:
    """What merging made; kept: share of the squared change that the rank keeps."""

    rank: int
    state: dict[str, torch.Tensor]
    targets: list[str]
    kept: float


def why_not_merged(config: Mapping[str, Any]) -> str | None:
    """Why an adapter's changes cannot be combined, from its `adapter_config.json`; None where they can."""
    if str(config.get("peft_type", "")).upper() != "LORA":
        return f"it is {config.get('peft_type')}, not LoRA"
    if config.get("use_dora"):
        return "it is DoRA, whose change depends on the base's weights"
    if config.get("target_parameters"):
        return "it has factors on the weights of experts"
    if any(config.get(name) for name in _PATTERNS):
        return "its layers differ in rank or scale"
    return None


def load_factors(folder: Path) -> Factors:
    """Read an adapter, its scale folded into `up`.

    Raises:
        InvalidInput: `cannot_merge`.
    """
    config = read_config(folder)
    problem = why_not_merged(config)
    if problem is not None:
        raise InvalidInput(f"{folder.name} cannot be merged: {problem}", code="cannot_merge")
    rank = int(config["r"])
    scale = float(config.get("lora_alpha", 8)) / (rank**0.5 if config.get("use_rslora") else rank)
    tensors = {name: value.float() for name, value in load_tensors(folder / WEIGHTS_FILE).items()}
    modules = {}
    for name, down in tensors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight").removeprefix(_PREFIX)
            modules[module] = (down, tensors[name.replace(".lora_A.", ".lora_B.")] * scale)
    return Factors(rank, modules)


def merge_adapters(sources: Sequence[Factors], weights: Sequence[float], how: MergeRecipe, *, seed: int) -> Merged:
    """Combine adapters of one base.

    Raises:
        InvalidInput: `cannot_merge`, shapes or ranks do not fit the combination.
    """
    import torch

    torch.manual_seed(seed)
    if how.combination == "linear" and len({source.rank for source in sources}) > 1:
        raise InvalidInput("'linear' adds the factors: all adapters must have one rank", code="cannot_merge")
    names = sorted({name for source in sources for name in source.modules})
    state: dict[str, torch.Tensor] = {}
    total = left = 0.0
    rank = sum(source.rank for source in sources) if how.combination == "cat" else how.rank or sources[0].rank
    for name in names:
        found = [
            (source.modules.get(name), source.rank, weight) for source, weight in zip(sources, weights, strict=True)
        ]
        down, up, before = _COMBINE[how.combination](_filled(name, found), how, rank)
        state[f"{_PREFIX}{name}.lora_A.weight"], state[f"{_PREFIX}{name}.lora_B.weight"] = down, up
        total += float((before**2).sum())
        left += float(((before - up @ down) ** 2).sum())
    targets = sorted({name.rpartition(".")[2] for name in names})
    return Merged(rank, state, targets, 1 - left / total if total else 1.0)


Part = tuple[Any, Any, float]
"""down, up, weight"""


def _filled(name: str, found: Sequence[tuple[tuple[Any, Any] | None, int, float]]) -> list[Part]:
    """The parts of a module; zeros for an adapter that leaves it alone."""
    down, up = next(part for part, _, _ in found if part is not None)
    shape = (up.shape[0], down.shape[1])
    parts: list[Part] = []
    for part, rank, weight in found:
        one = part or (down.new_zeros(rank, shape[1]), up.new_zeros(shape[0], rank))
        if (one[1].shape[0], one[0].shape[1]) != shape:
            raise InvalidInput(f"'{name}' has another size in one of the adapters", code="cannot_merge")
        parts.append((*one, weight))
    return parts


def _added(parts: Sequence[Part]) -> Any:
    return sum(weight * (up @ down) for down, up, weight in parts)


def _cat(parts: Sequence[Part], how: MergeRecipe, rank: int) -> tuple[Any, Any, Any]:
    import torch

    down = torch.cat([down for down, _, _ in parts], dim=0)
    up = torch.cat([weight * up for _, up, weight in parts], dim=1)
    return down, up, up @ down


def _linear(parts: Sequence[Part], how: MergeRecipe, rank: int) -> tuple[Any, Any, Any]:
    import math

    down = sum(math.sqrt(abs(weight)) * down for down, _, weight in parts)
    up = sum(math.copysign(math.sqrt(abs(weight)), weight) * up for _, up, weight in parts)
    return down, up, up @ down


def _svd(parts: Sequence[Part], how: MergeRecipe, rank: int) -> tuple[Any, Any, Any]:
    return _cut(_added(parts), rank)


def _ties(parts: Sequence[Part], how: MergeRecipe, rank: int) -> tuple[Any, Any, Any]:
    import torch
    from peft.utils.merge_utils import ties

    weights = torch.tensor([weight for _, _, weight in parts])
    return _cut(ties([up @ down for down, up, _ in parts], weights, how.density), rank)


def _dare(parts: Sequence[Part], how: MergeRecipe, rank: int) -> tuple[Any, Any, Any]:
    import torch
    from peft.utils.merge_utils import dare_linear

    weights = torch.tensor([weight for _, _, weight in parts])
    return _cut(dare_linear([up @ down for down, up, _ in parts], weights, how.density), rank)


def _cut(change: Any, rank: int) -> tuple[Any, Any, Any]:
    from tuning.export import factors_of

    down, up = factors_of(change, rank)
    return down, up, change


_COMBINE: Mapping[str, Callable[[Sequence[Part], MergeRecipe, int], tuple[Any, Any, Any]]] = {
    "cat": _cat,
    "linear": _linear,
    "svd": _svd,
    "ties": _ties,
    "dare": _dare,
}
