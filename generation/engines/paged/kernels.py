"""Triton kernels of a decode step: what would otherwise be many small launches, and attention over pages.

Importing this module needs Triton, which comes with torch for CUDA. `operations` says the same in plain torch; the
tests hold one against the other through Triton's interpreter.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from generation.engines.paged.pages import PAGE

_PROGRAMS = 512
"""Programs wanted on the card at least: a row's columns are split when there are fewer rows times heads."""
_MOST_SPLITS = 32


@triton.jit
def _add_norm(x_ptr, add_ptr, weight_ptr, out_ptr, size, epsilon, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    x = tl.load(x_ptr + row * size + columns, mask=inside, other=0.0)
    if ADD:
        add = tl.load(add_ptr + row * size + columns, mask=inside, other=0.0)
        x = (x.to(tl.float32) + add.to(tl.float32)).to(x.dtype)
        tl.store(x_ptr + row * size + columns, x, mask=inside)
    wide = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=0) / size + epsilon)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    # Rounded before the weight comes in, as transformers does.
    result = ((wide * scale).to(x.dtype).to(tl.float32) * weight).to(x.dtype)
    tl.store(out_ptr + row * size + columns, result, mask=inside)


@triton.jit
def _rotate_store(
    qkv_ptr, cos_ptr, sin_ptr, place_ptr, keys_ptr, values_ptr, stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK heads of one token: queries, keys and values lie one behind the other."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    half = tl.arange(0, HALF)
    turned = (head < HEADS + KV_HEADS)[:, None]
    inside = (head < HEADS + 2 * KV_HEADS)[:, None]
    base = qkv_ptr + token * stride + head[:, None] * (2 * HALF) + half[None, :]
    low = tl.load(base, mask=inside, other=0.0)
    high = tl.load(base + HALF, mask=inside, other=0.0)
    cosine = tl.load(cos_ptr + token * (2 * HALF) + half).to(tl.float32)[None, :]
    sine = tl.load(sin_ptr + token * (2 * HALF) + half).to(tl.float32)[None, :]
    wide_low, wide_high = low.to(tl.float32), high.to(tl.float32)
    low = tl.where(turned, (wide_low * cosine - wide_high * sine).to(low.dtype), low)
    high = tl.where(turned, (wide_high * cosine + wide_low * sine).to(high.dtype), high)
    tl.store(base, low, mask=turned)
    tl.store(base + HALF, high, mask=turned)
    place = tl.load(place_ptr + token)
    kv = tl.where(head < HEADS + KV_HEADS, head - HEADS, head - HEADS - KV_HEADS)
    target = (((place // PAGE) * KV_HEADS + kv) * PAGE + place % PAGE)[:, None] * (2 * HALF) + half[None, :]
    key = turned & (head >= HEADS)[:, None]
    tl.store(keys_ptr + target, low, mask=key)
    tl.store(keys_ptr + target + HALF, high, mask=key)
    value = inside & (head >= HEADS + KV_HEADS)[:, None]
    tl.store(values_ptr + target, low, mask=value)
    tl.store(values_ptr + target + HALF, high, mask=value)


@triton.jit
def _silu_multiply(x_ptr, out_ptr, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    gate = tl.load(x_ptr + row * 2 * size + columns, mask=inside, other=0.0)
    up = tl.load(x_ptr + row * 2 * size + size + columns, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    active = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype).to(tl.float32)
    tl.store(out_ptr + row * size + columns, (active * up.to(tl.float32)).to(gate.dtype), mask=inside)


@triton.jit
def _attend(
    q_ptr, keys_ptr, values_ptr, table_ptr, seats_ptr, position_ptr, out_ptr, most_ptr, total_ptr,
    q_stride, table_stride, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, SIZE: tl.constexpr, PAGE: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """One row, one key head with its group of query heads, one split of the row's pages."""
    row, kv, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    seat = tl.load(seats_ptr + row)
    length = tl.load(position_ptr + seat) + 1
    pages = (length + PAGE - 1) // PAGE
    share = (pages + SPLITS - 1) // SPLITS
    first = split * share
    last = tl.minimum(first + share, pages)
    group, size, column = tl.arange(0, GROUP_PAD), tl.arange(0, SIZE), tl.arange(0, PAGE)
    heads = kv * GROUP + group
    inside = (group < GROUP)[:, None]
    query = tl.load(q_ptr + row.to(tl.int64) * q_stride + heads[:, None] * SIZE + size[None, :], mask=inside, other=0.0)
    most = tl.full((GROUP_PAD,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP_PAD,), tl.float32)
    result = tl.zeros((GROUP_PAD, SIZE), tl.float32)
    for index in range(first, last):
        page = tl.load(table_ptr + seat * table_stride + index).to(tl.int64)
        places = (page * KV_HEADS + kv) * PAGE * SIZE + column[:, None] * SIZE + size[None, :]
        keys = tl.load(keys_ptr + places)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where((index * PAGE + column < length)[None, :], scores, float("-inf"))
        highest = tl.maximum(most, tl.max(scores, axis=1))
        weights = tl.exp(scores - highest[:, None])
        kept = tl.exp(most - highest)
        total = total * kept + tl.sum(weights, axis=1)
        values = tl.load(values_ptr + places)
        result = result * kept[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        most = highest
    place = (row * KV_HEADS * GROUP + heads) * SPLITS + split
    if SPLITS == 1:
        result = result / total[:, None]
    else:
        tl.store(most_ptr + place, most, mask=group < GROUP)
        tl.store(total_ptr + place, total, mask=group < GROUP)
    target = out_ptr + place.to(tl.int64)[:, None] * SIZE + size[None, :]
    tl.store(target, result.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _join_splits(part_ptr, most_ptr, total_ptr, out_ptr, SIZE: tl.constexpr, SPLITS: tl.constexpr):
    head = tl.program_id(0).to(tl.int64)
    split, size = tl.arange(0, SPLITS), tl.arange(0, SIZE)
    most = tl.load(most_ptr + head * SPLITS + split)
    share = tl.exp(most - tl.max(most, axis=0))
    total = tl.sum(tl.load(total_ptr + head * SPLITS + split) * share, axis=0)
    parts = tl.load(part_ptr + (head * SPLITS + split)[:, None] * SIZE + size[None, :])
    result = tl.sum(parts * share[:, None], axis=0) / total
    tl.store(out_ptr + head * SIZE + size, result.to(out_ptr.dtype.element_ty))


def add_norm(x: torch.Tensor, add: torch.Tensor | None, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """See `operations.add_norm`."""
    out = torch.empty_like(x)
    rows, size = x.shape
    block = triton.next_power_of_2(size)
    _add_norm[(rows,)](
        x, x if add is None else add, weight, out, size, epsilon, ADD=add is not None, BLOCK=block, num_warps=8
    )
    return out


def rotate_store(
    qkv: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    places: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    heads: int,
) -> None:
    """See `operations.rotate_store`."""
    _, kv_heads, _, size = keys.shape
    _rotate_store[(qkv.shape[0], triton.cdiv(heads + 2 * kv_heads, 16))](
        qkv, cosines, sines, places, keys, values, qkv.stride(0),
        HEADS=heads, KV_HEADS=kv_heads, HALF=size // 2, PAGE=PAGE, BLOCK=16, num_warps=4,
    )  # fmt: skip


def silu_multiply(x: torch.Tensor) -> torch.Tensor:
    """See `operations.silu_multiply`."""
    rows, size = x.shape[0], x.shape[1] // 2
    out = x.new_empty((rows, size))
    _silu_multiply[(rows, triton.cdiv(size, 1024))](x, out, size, BLOCK=1024, num_warps=4)
    return out


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
    """See `operations.attend`."""
    rows = query.shape[0]
    _, kv_heads, _, size = keys.shape
    group = heads // kv_heads
    splits = choose_splits(rows * kv_heads)
    out = query.new_empty((rows, heads * size))
    parts: Any = out
    most = total = out
    if splits > 1:
        parts = query.new_empty((rows, heads, splits, size), dtype=torch.float32)
        most, total = query.new_empty((2, rows, heads, splits), dtype=torch.float32)
    _attend[(rows, kv_heads, splits)](
        query, keys, values, table, seats, positions, parts, most, total,
        query.stride(0), table.stride(0), scale,
        KV_HEADS=kv_heads, GROUP=group, GROUP_PAD=max(16, triton.next_power_of_2(group)), SIZE=size, PAGE=PAGE,
        SPLITS=splits, num_warps=4, num_stages=3,
    )  # fmt: skip
    if splits > 1:
        _join_splits[(rows * heads,)](parts, most, total, out, SIZE=size, SPLITS=splits, num_warps=4)
    return out


def choose_splits(programs: int) -> int:
    """Splits of a row's columns, a power of two."""
    wanted = min(_MOST_SPLITS, max(1, _PROGRAMS // programs))
    return 1 << (wanted.bit_length() - 1)
