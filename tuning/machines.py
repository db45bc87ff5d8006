"""Which recipe a machine and a base ask for, and why: what `default_recipe` says where a request names none.

Chosen from file headers and the driver's list; nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.gpu import Gpu, gpus_of_this_machine
from core.settings import Settings
from generation.adapters.checks import base_shapes
from tuning.memory import estimate_memory
from tuning.recipe import load_recipe

CPU_RECIPE = "style-cpu"
_SMALL = 3_000_000_000
"""Parameters up to which a base is small: its parts of a step are large and its learning rate higher."""
_ROW_TOKENS = 1024
"""Tokens of a long row, for what is not known at the request."""


@dataclass(frozen=True, slots=True)
class RecipeChoice:
    """A recipe's name, and why it was chosen, in words."""

    name: str
    why: str

    def to_json(self) -> dict[str, str]:
        """As shown with a run."""
        return {"name": self.name, "why": self.why}


def has_gpu(settings: Settings) -> bool:
    """Whether training will find a GPU, asked without importing torch."""
    if settings.generation.device == "auto":
        return Path("/dev/nvidiactl").exists()
    return settings.generation.device == "cuda"


def choose_recipe(settings: Settings, gpus: Sequence[Gpu] | None = None) -> RecipeChoice:
    """The recipe for supervised rows on this machine.

    gpus: of this machine; asked of the driver where nothing is given.
    """
    if not has_gpu(settings):
        return RecipeChoice(CPU_RECIPE, "this machine has no GPU")
    found = gpus_of_this_machine() if gpus is None else gpus
    usable = [gpu for gpu in found if not settings.gpu.devices or gpu.index in settings.gpu.devices]
    if not usable:
        return RecipeChoice("style-gpu", "there is a GPU, of which the driver says nothing here")
    lent = min(gpu.memory_bytes for gpu in usable)
    if settings.gpu.while_training != "sleep":
        lent = int(lent * (1 - settings.gpu.serving_share))
    base = settings.generation.base_folder
    if base is None:
        return RecipeChoice("style-gpu", "the embedded base is small, and one GPU holds it")
    return _for_base(base, lent, len(usable))


def _for_base(base: Path, lent: int, gpus: int) -> RecipeChoice:
    billions = sum(_product(shape) for shape in base_shapes(base).values()) / 1e9
    told = f"a base of {billions:.1f} billion parameters, {gpus} GPU(s) lending {lent / 2**30:.0f} GiB each"
    whole = "style-gpu" if billions * 1e9 <= _SMALL else "style-8b"
    if _fits(base, whole, lent):
        return RecipeChoice(whole, f"{told}: one GPU holds it whole")
    if gpus > 1 and _fits(base, "style-fsdp", lent, processes=gpus):
        return RecipeChoice("style-fsdp", f"{told}: only all of them together hold it")
    if _fits(base, "style-8b-4bit", lent):
        return RecipeChoice("style-8b-4bit", f"{told}: one GPU holds it in 4 bits")
    return RecipeChoice("style-8b-4bit", f"{told}: too large even in 4 bits, which the run will say with an estimate")


def _fits(base: Path, name: str, lent: int, *, processes: int = 1) -> bool:
    recipe = load_recipe(name)
    found = estimate_memory(base, recipe, longest=_ROW_TOKENS, value_bytes=2, by_tokens=True, processes=processes)
    return found.total <= lent


def _product(shape: Sequence[int]) -> int:
    size = 1
    for part in shape:
        size *= part
    return size
