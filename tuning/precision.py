"""In which precision a machine trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuning.recipe import Recipe

if TYPE_CHECKING:
    import torch


def choose_dtype(recipe: Recipe, *, on_gpu: bool) -> torch.dtype:
    """Precision of base and arithmetic. bfloat16 only where it is computed natively: emulated it is slower."""
    import torch

    if recipe.precision == "float32":
        return torch.float32
    if recipe.precision == "bfloat16":
        return torch.bfloat16
    if on_gpu:
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if _cpu_computes_bfloat16() else torch.float32


def _cpu_computes_bfloat16() -> bool:
    """Whether this CPU has bfloat16 dot products (AVX512-BF16 or AMX)."""
    import torch

    probes = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(bool(probe()) for probe in probes if probe is not None)
