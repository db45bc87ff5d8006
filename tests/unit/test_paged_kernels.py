"""The GPU kernels against the same operations in plain torch, through Triton's interpreter: no GPU needed."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="Triton comes with torch for CUDA; this torch is for the CPU")

from generation.engines.paged import kernels, operations
from generation.engines.paged.pages import PAGE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEADS, KV_HEADS, SIZE = 6, 2, 16


def noise(*size, seed=0, dtype=torch.float32):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_and_activation(dtype):
    x, add, weight = noise(3, 40, dtype=dtype), noise(3, 40, seed=1, dtype=dtype), noise(40, seed=2, dtype=dtype)
    ours, theirs = x.clone(), x.clone()
    exact = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    for other in (add, None):
        found = kernels.add_norm(ours, other, weight, 1e-5)
        torch.testing.assert_close(found, operations.add_norm(theirs, other, weight, 1e-5), **exact)
        torch.testing.assert_close(ours, theirs, **exact)
    wide = noise(3, 2 * 1500, dtype=dtype)
    torch.testing.assert_close(kernels.silu_multiply(wide), operations.silu_multiply(wide), **exact)


@pytest.mark.parametrize("rows", [1, 5, 300])
def test_attention_over_pages_of_rows_of_any_length(rows, monkeypatch):
    """One row is split among programs, many are not; lengths lie on and beside the ends of pages."""
    monkeypatch.setattr(kernels, "_PROGRAMS", 32)
    count = min(rows, 7)
    lengths = [1, PAGE, PAGE + 1, 3 * PAGE - 1, 2, 4 * PAGE, 77][:count]
    seats = torch.arange(count, device=DEVICE).flip(0)
    pages = torch.randperm(40, generator=torch.Generator().manual_seed(3))[: 4 * count].view(count, 4).to(torch.int32)
    table = pages.to(DEVICE)
    positions = torch.tensor(lengths, device=DEVICE) - 1
    keys, values = noise(40, KV_HEADS, PAGE, SIZE, seed=4), noise(40, KV_HEADS, PAGE, SIZE, seed=5)
    qkv = noise(count, (HEADS + 2 * KV_HEADS) * SIZE, seed=6)
    if rows == 300:
        monkeypatch.setattr(kernels, "_PROGRAMS", 1)
    arguments = (keys, values, table, seats, positions, HEADS, SIZE**-0.5)
    torch.testing.assert_close(
        kernels.attend(qkv, *arguments), operations.attend(qkv, *arguments), rtol=1e-4, atol=1e-5
    )


def test_rotation_and_store():
    tokens = 4
    qkv = noise(tokens, (HEADS + 2 * KV_HEADS) * SIZE)
    cosines, sines = noise(1, tokens, SIZE // 2, seed=1)[0].repeat(1, 2), noise(tokens, SIZE // 2, seed=2).repeat(1, 2)
    places = torch.tensor([PAGE * 3 + 5, PAGE - 1, PAGE, 0], device=DEVICE)
    results = []
    for module in (kernels, operations):
        own = qkv.clone()
        keys, values = (torch.zeros(5, KV_HEADS, PAGE, SIZE, device=DEVICE) for _ in range(2))
        module.rotate_store(own, cosines, sines, places, keys, values, HEADS)
        results.append((own, keys, values))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
