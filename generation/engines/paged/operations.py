"""The operations of a layer that are no matrix products, in plain torch; `kernels` says the same in fewer launches."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import torch
from torch.nn import functional

from generation.engines.paged.pages import PAGE


def choose_operations(device: torch.device) -> ModuleType:
    """The kernels on a GPU with Triton, else this module."""
    import sys

    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        from generation.engines.paged import kernels

        return kernels
    return sys.modules[__name__]


def add_norm(x: torch.Tensor, add: torch.Tensor | None, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Add `add` to `x` in place, then its root-mean-square norm: (rows, hidden). None adds nothing."""
    if add is not None:
        x += add
    return norm(x, weight, epsilon)


def norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Root-mean-square norm over the last dimension, rounded where transformers rounds."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return scaled.to(x.dtype) * weight


def rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of (rows, heads, size) with tables (rows, size)."""
    low, high = x.chunk(2, dim=-1)
    return x * cosines[:, None] + torch.cat((-high, low), dim=-1) * sines[:, None]


def rotate_store(
    qkv: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    places: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    heads: int,
) -> None:
    """Rotate queries and keys inside `qkv` (rows, all heads * size), and write keys and values to their places.

    places: page * PAGE + column of each row. keys, values: (pages, kv_heads, PAGE, size).
    """
    size, kv_heads = keys.shape[3], keys.shape[1]
    every = qkv.view(qkv.shape[0], -1, size)
    every[:, : heads + kv_heads] = rotate(every[:, : heads + kv_heads], cosines, sines)
    pages, columns = places // PAGE, places % PAGE
    keys[pages, :, columns] = every[:, heads : heads + kv_heads]
    values[pages, :, columns] = every[:, heads + kv_heads :]


def silu_multiply(x: torch.Tensor) -> torch.Tensor:
    """Gated activation silu(gate) * up of (rows, gate and up)."""
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate) * up


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: torch.Tensor,
    seats: torch.Tensor,
    positions: torch.Tensor,
    heads: int,
    scale: float,
) -> torch.Tensor:
    """Attention of one new token per row over the row's pages: (rows, heads * size).

    query: (rows, at least heads * size). table: (seats, pages). seats: (rows,). positions: (seats,), column of the
    new token of each seat, whose key is written already.
    """
    kv_heads, size = keys.shape[1], keys.shape[3]
    places = positions[seats]
    # Without a GPU the longest row bounds what is read; a recorded step could not ask.
    pages = table[seats] if keys.is_cuda else table[seats][:, : int(places.max()) // PAGE + 1]
    rows, count = pages.shape

    def gather(cache: torch.Tensor) -> torch.Tensor:
        return cache[pages.long()].transpose(1, 2).reshape(rows, kv_heads, count * PAGE, size)

    mask = torch.arange(count * PAGE, device=keys.device)[None] <= places[:, None]
    grouped = query[:, : heads * size].reshape(rows, kv_heads, heads // kv_heads, size)
    result = functional.scaled_dot_product_attention(
        grouped, gather(keys), gather(values), attn_mask=mask[:, None, None], scale=scale
    )
    return result.reshape(rows, heads * size)


def attend_causal(query: Any, key: Any, value: Any, before: int, scale: float) -> torch.Tensor:
    """Attention of `n` tokens that follow `before` others of their sequence: (n, heads * size).

    query: (n, heads, size). key, value: (before + n, kv_heads, size).
    """
    count, heads, size = query.shape
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    mask = None
    if before:
        places = torch.arange(before, before + count, device=query.device)
        mask = (torch.arange(before + count, device=query.device)[None] <= places[:, None])[None, None]
        # The kernel that takes a mask takes no groups of heads.
        key, value = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
    result = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=not before, enable_gqa=not before, scale=scale
    )
    return result[0].transpose(0, 1).reshape(count, heads * size)
