"""Keys and values of a running batch: one slot per sequence, every sequence from column 0 of its slot.

Sequences of different lengths decode together without padding each other: each writes at its own column, and a mask
hides what lies beyond. A newcomer is prefilled straight into a free slot while the others go on, and a leaver's slot is
filled with the last one, so that the running slots are always the first n. Compared with `DynamicCache`, a step copies
one column instead of the whole cache.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_GROWTH = 256
"""Columns are added in multiples of this."""


class _Window:
    """Where the forward pass in progress writes, and how far it reads. Shared by all layers."""

    def __init__(self) -> None:
        self.first = 0
        self.rows = 0
        self.columns: torch.Tensor | int = 0
        """Column written by each row (decode), or the first column written (prefill, or all rows alike)."""
        self.length = 0


class _SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    is_sliding = False

    def __init__(self, window: _Window, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.is_initialized = True
        self.window = window
        heads, size = shape
        self.keys = torch.zeros((0, heads, 0, size), dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: storage grows by `resize`."""

    def resize(self, slots: int, columns: int, used: int) -> None:
        """New storage with the first `used` slots copied."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = torch.zeros((slots, old.shape[1], columns, old.shape[3]), dtype=old.dtype, device=old.device)
            kept, width = min(old.shape[0], used), min(old.shape[2], columns)
            new[:kept, :, :width] = old[:kept, :, :width]
            setattr(self, name, new)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Write new columns; return what the rows in progress may read."""
        self._fit(key_states, value_states)
        window = self.window
        last = window.first + window.rows
        if isinstance(window.columns, int):
            stop = window.columns + key_states.shape[2]
            self.keys[window.first : last, :, window.columns : stop] = key_states
            self.values[window.first : last, :, window.columns : stop] = value_states
        else:
            rows = torch.arange(window.first, last, device=self.keys.device)
            self.keys[rows, :, window.columns] = key_states[:, :, 0]
            self.values[rows, :, window.columns] = value_states[:, :, 0]
        view = (slice(window.first, last), slice(None), slice(0, window.length))
        return self.keys[view], self.values[view]

    def _fit(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take over heads and sizes, which no configuration tells for sure, from the first states of a model."""
        for name, states in (("keys", key_states), ("values", value_states)):
            held = getattr(self, name)
            if held.shape[1::2] != states.shape[1::2]:
                size = (held.shape[0], states.shape[1], held.shape[2], states.shape[3])
                setattr(self, name, torch.zeros(size, dtype=held.dtype, device=held.device))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a query sees, and the offset of the first."""
        return self.window.length, 0

    def get_seq_length(self) -> int:
        """Columns before the ones being written."""
        return self.window.columns if isinstance(self.window.columns, int) else self.window.length - 1

    def get_max_length(self) -> int:
        """No bound of its own."""
        return -1


class SlotCache(Cache):  # type: ignore[misc]
    """The cache of a batch; see the module docstring."""

    def __init__(self, config: Any, dtype: torch.dtype, device: torch.device) -> None:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._window = _Window()
        layers = [_SlotLayer(self._window, (heads, size), dtype, device) for _ in range(config.num_hidden_layers)]
        super().__init__(layers=layers)

    @property
    def slots(self) -> int:
        """Slots allocated."""
        return int(self.layers[0].keys.shape[0])

    @property
    def columns(self) -> int:
        """Columns allocated in each slot."""
        return int(self.layers[0].keys.shape[2])

    def reserve(self, slots: int, columns: int, used: int) -> None:
        """Make room for so many sequences of so many tokens; the first `used` slots keep their content."""
        if slots <= self.slots and columns <= self.columns:
            return
        columns = max(self.columns, -(-columns // _GROWTH) * _GROWTH)
        for layer in self.layers:
            layer.resize(max(slots, self.slots), columns, used)

    def release(self) -> None:
        """Give the memory back; only between batches."""
        for layer in self.layers:
            layer.resize(0, 0, 0)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a sequence into another slot."""
        for layer in self.layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def aim_prefill(self, slot: int, start: int, count: int) -> None:
        """The next forward pass writes `count` tokens of one sequence from column `start`."""
        self._aim(slot, 1, start, start + count)

    def aim_decode(self, columns: list[int]) -> torch.Tensor | None:
        """The next forward pass writes one token of each of the first len(columns) slots.

        Returns the columns on the device, (rows,); None means that all rows are of one length.
        """
        length = max(columns) + 1
        if min(columns) == max(columns):
            self._aim(0, len(columns), columns[0], length)
            return None
        places = torch.tensor(columns, device=self.layers[0].keys.device)
        self._aim(0, len(columns), places, length)
        return places

    def _aim(self, first: int, rows: int, columns: torch.Tensor | int, length: int) -> None:
        window = self._window
        window.first, window.rows, window.columns, window.length = first, rows, columns, length
