"""What a run asks the GPU lease for: refused where it can never fit, waiting where others hold the memory now.

The lease is also the bound of the training process. An estimate may be off by a factor of two, so more than it is asked
for, and evaluation has to fit as well, which loads the base whole whatever it was trained in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.gpu import GpuGrant, GpuLeases
from core.jobs import JobLease
from tuning.kinds import Method
from tuning.memory import estimate_memory, longest_row, require_memory, what_would_fit
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
        InvalidInput: `too_little_memory`: it fits no GPU here; the message names the estimate and what would fit.
        Postponed: `gpu_busy`.
    """
    most = gpus.most_lendable()
    need = None
    if most is not None and not isinstance(recipe, MergeMethod):
        need = gpu_need(base_path, recipe, rows_path, most)
    estimated = need is not None and need.wanted is not None
    with gpus.held(lease, *((need.least, need.wanted) if need and estimated else ())) as grant:
        yield grant


def gpu_need(base_path: Path, recipe: Recipe, rows_path: Path, available: int) -> GpuNeed:
    """The largest need of the recipe's stages.

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
        found = estimate_memory(base_path, stage, longest=longest, value_bytes=value_bytes, by_tokens=by_tokens)
        if found.least > available:
            fitting = what_would_fit(
                base_path, stage, available, longest=longest, value_bytes=value_bytes, by_tokens=by_tokens
            )
            require_memory(found, available, fitting)
        least = max(least, found.least)
        wanted = max(wanted, found.weights + found.trained + 2 * found.activations, found.whole_weights) + _RESERVE
        known = known and stage.method is Method.SFT  # references, answers being written: not estimated
    return GpuNeed(least, max(least, wanted) if known else None)
