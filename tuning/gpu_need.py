"""What a run asks the GPU lease for: refused where it can never fit, waiting where others hold the memory now.

The lease is also the bound of the training process. An estimate may be off by a factor of two, so more than it is asked
for, and evaluation has to fit as well, which loads the base whole whatever it was trained in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.gpu import GpuGrant, GpuLeases
from core.jobs import JobLease
from tuning.kinds import Method
from tuning.launching import processes_of
from tuning.memory import estimate_memory, longest_row, recomputes, require_memory, what_would_fit
from tuning.methods.work import rows_for
from tuning.recipe import MergeMethod, Recipe, stages_of
from tuning.spec import read_rows

_RESERVE = 2 * 2**30
"""Context of the driver, kernels, and what evaluation keeps beside the weights."""


@dataclass(frozen=True, slots=True)
class GpuNeed:
    """Bytes. least: refused below it. wanted: asked for; None takes what there is, where no estimate is made of it."""

    least: int
    wanted: int | None


@contextmanager
def hold_gpu(
    gpus: GpuLeases, lease: JobLease, base_path: Path, recipe: Recipe, rows_path: Path
) -> Iterator[GpuGrant | None]:
    """Hold a GPU with the memory that the run needs; None on a machine without one.

    Raises:
        InvalidInput: `too_little_memory`: it fits no GPU here; the message names the estimate and what would fit;
            `too_few_gpus`.
        Postponed: `gpu_busy`.
    """
    most = gpus.most_lendable()
    need = None
    count = processes_of(recipe, len(gpus.usable())) if most is not None else 1
    if most is not None and not isinstance(recipe, MergeMethod):
        need = gpu_need(base_path, recipe, rows_path, most, processes=count)
    estimated = need is not None and need.wanted is not None
    with gpus.held(lease, *((need.least, need.wanted) if need and estimated else ()), count=count) as grant:
        yield grant


def gpu_need(base_path: Path, recipe: Recipe, rows_path: Path, available: int, *, processes: int = 1) -> GpuNeed:
    """The largest need of the recipe's stages, on each of as many GPUs as there are processes.

    Raises:
        InvalidInput: `too_little_memory`.
    """
    rows = read_rows(rows_path)
    least = wanted = 0
    known = True
    for stage in stages_of(recipe):
        longest = min(longest_row(rows_for(stage.method, rows)), stage.batch.max_tokens)
        by_tokens = stage.method is Method.SFT
        value_bytes = 4 if stage.precision == "float32" else 2
        shape: dict[str, Any] = {"longest": longest, "value_bytes": value_bytes, "by_tokens": by_tokens}
        shape["processes"] = processes
        found = estimate_memory(base_path, stage, **shape)
        if found.least > available:
            require_memory(found, available, what_would_fit(base_path, stage, available, **shape))
        least = max(least, found.least)
        kept = estimate_memory(base_path, stage, **shape, recomputed=False)
        found = found if recomputes(stage, kept, available, on_gpu=True) else kept
        wanted = max(wanted, found.weights + found.trained + 2 * found.activations, found.whole_weights) + _RESERVE
        known = known and not stage.method.online  # what writing answers takes is not estimated
    return GpuNeed(least, max(least, wanted) if known else None)
