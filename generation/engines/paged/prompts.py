"""Attention of prompts read together: stretches of several sequences in one packed pass, without padding.

On a GPU one launch serves all of them (torch's variable-length flash attention), however many and however short they
are. Its signature differs from one torch to the next, so it is tried once against plain attention before it is trusted.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch

from generation.engines.paged import operations
from generation.engines.paged.pages import PAGE
from generation.engines.paged.transfer import upload

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive tokens of one prompt inside a packed pass: `count` of them after `before` earlier ones."""

    seat: int
    before: int
    count: int
    slot: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where the queries and the keys of each stretch begin in their packed tensors, and where the last ends."""

    queries: list[int]
    keys: list[int]
    on_device: torch.Tensor
    """Both, int32 (2, stretches + 1)."""

    @property
    def longest(self) -> tuple[int, int]:
        """Queries and keys of the longest stretch."""
        return tuple(max(stop - start for start, stop in pairwise(starts)) for starts in (self.queries, self.keys))  # type: ignore[return-value]


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Bounds], torch.Tensor]
"""Queries (tokens, heads, size), keys and values (the same tokens and earlier ones, kv_heads, size): the results
(tokens, heads * size)."""


def bounds_of(stretches: Sequence[Stretch], device: torch.device) -> Bounds:
    """Bounds of stretches whose keys are packed with those of the tokens before them."""
    queries = list(accumulate((part.count for part in stretches), initial=0))
    keys = list(accumulate((part.before + part.count for part in stretches), initial=0))
    return Bounds(queries, keys, upload([queries, keys], device, torch.int32))


def places_of(stretches: Sequence[Stretch], table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Page and column of every key that the stretches read, their own included: two of (keys,)."""
    pages, columns = [], []
    for part in stretches:
        positions = torch.arange(part.before + part.count, device=table.device)
        pages.append(table[part.seat, positions // PAGE].long())
        columns.append(positions % PAGE)
    return torch.cat(pages), torch.cat(columns)


def attend_each(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: Bounds) -> torch.Tensor:
    """One stretch after the other; any device, any number type."""
    scale = query.shape[-1] ** -0.5
    results = []
    for (first, last), (start, stop) in zip(pairwise(bounds.queries), pairwise(bounds.keys), strict=True):
        before = (stop - start) - (last - first)
        results.append(operations.attend_causal(query[first:last], key[start:stop], value[start:stop], before, scale))
    return torch.cat(results)


def choose_attend(heads: int, kv_heads: int, size: int, dtype: torch.dtype, device: torch.device) -> Attend:
    """One launch for all stretches where the device and the number type have it, else `attend_each`."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return attend_each
    try:
        attend = _flash(heads, kv_heads)
        _try(attend, heads, kv_heads, size, dtype, device)
    except (ImportError, TypeError, ValueError, RuntimeError) as error:
        _log.warning("prompts are read one attention each, which short ones feel: %s", error)
        return attend_each
    return attend


def _flash(heads: int, kv_heads: int) -> Attend:
    """Torch's variable-length attention; keys end where queries end, so earlier tokens come first."""
    from torch.nn.attention.varlen import varlen_attn

    call: Any = varlen_attn
    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "enable_gqa" in known:
        options["enable_gqa"] = heads != kv_heads

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: Bounds) -> torch.Tensor:
        found = call(query, key, value, bounds.on_device[0], bounds.on_device[1], *bounds.longest, **options)
        return found.reshape(query.shape[0], -1)  # type: ignore[no-any-return]

    return attend


@torch.inference_mode()
def _try(attend: Attend, heads: int, kv_heads: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Hold `attend` against `attend_each` on noise: a first stretch, a later one, one token.

    Raises:
        RuntimeError: they differ by more than rounding.
    """
    parts = [Stretch(0, 0, 70, -1), Stretch(0, 33, 40, -1), Stretch(0, 5, 1, -1)]
    bounds = bounds_of(parts, device)
    source = torch.Generator().manual_seed(0)
    query = torch.randn((bounds.queries[-1], heads, size), generator=source)
    key, value = torch.randn((2, bounds.keys[-1], kv_heads, size), generator=source)
    query, key, value = (part.to(device, dtype) for part in (query, key, value))
    difference = (attend(query, key, value, bounds).float() - attend_each(query, key, value, bounds).float()).abs()
    if not difference.max() < 0.05:
        raise RuntimeError(f"variable-length attention differs by {float(difference.max()):.3g}")
