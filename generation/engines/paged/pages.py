"""Keys and values in pages of fixed size, taken from one pool that is allocated once.

Sequences of any length share the pool without gaps larger than a page. A request takes all pages that it may come to
need when it is admitted, so that no running one can be starved by a later one: whoever does not fit waits in the queue.
"""

from __future__ import annotations

import torch

from generation.engines.paged.weights import Shape

PAGE = 64
"""Tokens of a page: also the columns that the attention kernel reads at a time."""


class PagePool:
    """keys, values: (layers, pages, kv_heads, PAGE, head_dim). Page 0 belongs to nobody: padding rows write there."""

    def __init__(self, shape: Shape, tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        """tokens: how many the pool holds, rounded up to pages."""
        self.count = pages_for(tokens)
        size = (shape.layers, self.count + 1, shape.kv_heads, PAGE, shape.head_dim)
        # Zeros, not whatever was there: a hidden column counts nothing times its value, and nothing times NaN is NaN.
        self.keys = torch.zeros(size, dtype=dtype, device=device)
        self.values = torch.zeros(size, dtype=dtype, device=device)
        self._free = list(range(self.count, 0, -1))

    @property
    def free(self) -> int:
        """Pages that nobody has."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Take pages; the caller has looked at `free`."""
        return [self._free.pop() for _ in range(count)]

    def give(self, pages: list[int]) -> None:
        """Give pages back."""
        self._free.extend(pages)


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE)


def bytes_per_token(shape: Shape, dtype: torch.dtype) -> int:
    """Memory of the keys and values of one token."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * dtype.itemsize
