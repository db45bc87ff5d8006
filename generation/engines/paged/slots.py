"""Adapters in numbered slots of stacked factors, so that rows of any mix share two small products per projection.

All adapters' A factors of a projection are one matrix (slots * rank, inputs). A row's product with it holds one
stretch per slot; a mask keeps the stretch of the row's own slot, and the product with the stacked B factors then adds
that adapter alone. Each adapter's weights are read once per step however its rows lie in the batch, and a recorded step
stays valid when a slot changes hands. Work grows with the number of slots: 16 of rank 16 are 256 columns beside the
4,096 of an 8B model.

A bottleneck's activation is a lower bound on its stretch; DoRA is a factor on each output, m / |W + B A|.
"""

from __future__ import annotations

import torch

from core.errors import Unavailable
from generation.adapters.checks import MAGNITUDE
from generation.adapters.forms import is_bottleneck
from generation.engines.adapter_bank import BASE, PreparedAdapter
from generation.engines.paged.placing import PLACES, place, scale_of
from generation.engines.paged.weights import GROUPS, Weights

_FIRST_SLOTS = 4
_RANK_STEP = 16
_Stacks = list[dict[str, torch.Tensor]]


class AdapterSlots:
    """By layer and joined matrix: down (slots, projections, rank, inputs), each up (slots * rank, outputs)."""

    def __init__(self, weights: Weights, *, limit: int) -> None:
        """limit: slots that are wanted at most; more are made when more adapters run at once."""
        self._weights = weights
        self._shape = weights.shape
        self._dtype, self._device = weights.embedding.dtype, weights.embedding.device
        self._limit = max(1, limit)
        self.slots = 0
        self.rank = 0
        self.layout = 0
        """Changes when the stacks move in memory or are read in another way: steps recorded before are void."""
        self._down: _Stacks = []
        self._up: list[dict[str, list[torch.Tensor]]] = []
        self.own = self._zeros(1, 0)
        """(slots + 1, slots * rank): ones where a slot's own stretch is; the last row is of the base, all zeros."""
        self._floor: torch.Tensor | None = None
        """(slots, 1): 0 under a bottleneck's stretch, else the lowest number; None while there is no bottleneck."""
        self._factors: _Stacks | None = None
        """(slots + 1, outputs of the joined matrix): DoRA's factors, else ones; None while there is no DoRA."""
        self._of: dict[str, int] = {}
        self._activated: set[int] = set()
        self._scaled: set[int] = set()

    def slot_of(self, key: str) -> int:
        """Row of `own` for an adapter; the base's is the last, -1."""
        return -1 if key == BASE else self._of[key]

    def fill(self, key: str, prepared: PreparedAdapter) -> int:
        """Write an adapter into a free slot and return it; the stacks grow when none is free or the rank is larger.

        Raises:
            AdapterRefused: see `placing.place`.
            Unavailable: `adapter_no_memory`: larger stacks do not fit the device.
        """
        placed = place(prepared, self._shape.layers)
        slot = self._free_slot(max(tensors["A"].shape[0] for tensors in placed.values()))
        self._clear(slot)
        for (layer, part), tensors in placed.items():
            group, index = PLACES[part]
            down, up = (tensors[side].to(self._device, self._dtype) for side in "AB")
            rank = down.shape[0]
            self._down[layer][group][slot, index, :rank] = down
            scaled = up * scale_of(prepared.config, layer, part)
            self._up[layer][group][index][slot * self.rank : slot * self.rank + rank] = scaled.t()
            if MAGNITUDE in tensors:
                self._scale(layer, part, slot, tensors[MAGNITUDE], scaled, down)
        if is_bottleneck(prepared.config):
            self._activate(slot)
        self._of[key] = slot
        return slot

    def empty(self, key: str) -> None:
        """Free a slot. Its weights stay until the next one comes: no row is routed to it."""
        self._of.pop(key, None)

    def add_mixed(self, out: torch.Tensor, x: torch.Tensor, layer: int, group: str, rows: torch.Tensor) -> torch.Tensor:
        """Apply each row's own adapter to the joined product `out` of `x`. rows: (rows,), as `slot_of` says."""
        down = self._down[layer][group]
        slots, parts, rank, inputs = down.shape
        count = x.shape[0]
        hidden = (x @ down.view(-1, inputs).t()).view(count, slots, parts, rank).transpose(1, 2)
        if self._floor is not None:
            hidden = torch.maximum(hidden, self._floor)
        own = self.own[rows].view(count, 1, slots, rank)
        hidden = torch.mul(hidden, own, out=x.new_empty((count, parts, slots, rank))).view(count, parts, -1)
        self._add(out, hidden.unbind(1), self._up[layer][group])
        if self._factors is None:
            return out
        return _scaled(out, self._factors[layer][group][rows], self._weights.layers[layer].biases[group])

    def add_one(self, out: torch.Tensor, x: torch.Tensor, layer: int, group: str, slot: int) -> None:
        """Apply the adapter in `slot` to all rows, in place and in the number type of `x`."""
        down = self._down[layer][group][slot].flatten(0, 1)
        ups = [up[slot * self.rank : (slot + 1) * self.rank] for up in self._up[layer][group]]
        if x.dtype != self._dtype:
            down, ups = down.to(x.dtype), [up.to(x.dtype) for up in ups]
        hidden = x @ down.t()
        if slot in self._activated:
            hidden = hidden.relu()
        self._add(out, hidden.split(self.rank, dim=1), ups)  # type: ignore[no-untyped-call]
        if slot in self._scaled and self._factors is not None:
            bias = self._weights.layers[layer].biases[group]
            out.copy_(_scaled(out, self._factors[layer][group][slot], bias))

    @staticmethod
    def _add(out: torch.Tensor, hidden: tuple[torch.Tensor, ...], ups: list[torch.Tensor]) -> None:
        start = 0
        for part, up in zip(hidden, ups, strict=True):
            out[:, start : start + up.shape[1]].addmm_(part, up)
            start += up.shape[1]

    def _free_slot(self, rank: int) -> int:
        used = set(self._of.values())
        free = [slot for slot in range(self.slots) if slot not in used]
        if not free or rank > self.rank:
            slots = self.slots if free else self._more_slots()
            self._resize(slots, max(self.rank, -(-rank // _RANK_STEP) * _RANK_STEP))
            free = [slot for slot in range(self.slots) if slot not in used]
        return free[0]

    def _more_slots(self) -> int:
        """Twice as many, and one more than the limit when that is reached: the next is loaded before one goes."""
        doubled = max(_FIRST_SLOTS, 2 * self.slots)
        return self._limit + 1 if self.slots <= self._limit <= doubled else doubled

    def _clear(self, slot: int) -> None:
        self._activated.discard(slot)
        self._scaled.discard(slot)
        if self._floor is not None:
            self._floor[slot] = torch.finfo(self._dtype).min
        for layer in range(self._shape.layers):
            for group in GROUPS:
                self._down[layer][group][slot] = 0
                for up in self._up[layer][group]:
                    up[slot * self.rank : (slot + 1) * self.rank] = 0
                if self._factors is not None:
                    self._factors[layer][group][slot] = 1

    def _activate(self, slot: int) -> None:
        self._activated.add(slot)
        if self._floor is None:
            self._floor = self._zeros(self.slots, 1).fill_(torch.finfo(self._dtype).min)
            self.layout += 1
        self._floor[slot] = 0

    def _scale(
        self, layer: int, part: str, slot: int, magnitude: torch.Tensor, up: torch.Tensor, down: torch.Tensor
    ) -> None:
        self._scaled.add(slot)
        if self._factors is None:
            self._factors = self._ones_of(self.slots)
            self.layout += 1
        group, index = PLACES[part]
        sizes = self._shape.outputs(group)
        start = sum(sizes[:index])
        rows = slice(start, start + sizes[index])
        weight = self._weights.layers[layer].matrices[group][rows].float() + up.float() @ down.float()
        self._factors[layer][group][slot, rows] = (magnitude.to(self._device).float() / weight.norm(dim=1)).to(
            self._dtype
        )

    def _resize(self, slots: int, rank: int) -> None:
        """Move to larger stacks; on failure the present ones stay."""
        downs: _Stacks = []
        ups: list[dict[str, list[torch.Tensor]]] = []
        try:
            for layer in range(self._shape.layers):
                downs.append({})
                ups.append({})
                for group, parts in GROUPS.items():
                    down = self._zeros(slots, len(parts), rank, self._shape.inputs(group))
                    up = [self._zeros(slots * rank, outputs) for outputs in self._shape.outputs(group)]
                    if self.slots:
                        down[: self.slots, :, : self.rank] = self._down[layer][group]
                        for old, new in zip(self._up[layer][group], up, strict=True):
                            kept = new.view(slots, rank, -1)[: self.slots, : self.rank]
                            kept.copy_(old.view(self.slots, self.rank, -1))
                    downs[-1][group], ups[-1][group] = down, up
            factors = self._ones_of(slots) if self._factors is not None else None
        except torch.OutOfMemoryError as error:
            raise Unavailable(
                f"no memory for {slots} adapters of rank {rank}; lower generation.gpu_memory_fraction, max_adapters "
                "or kv_cache_tokens",
                code="adapter_no_memory",
            ) from error
        if factors is not None and self._factors is not None:
            for old_layer, new_layer in zip(self._factors, factors, strict=True):
                for group in GROUPS:
                    new_layer[group][: self.slots] = old_layer[group][: self.slots]
        if self._floor is not None:
            floor = self._zeros(slots, 1).fill_(torch.finfo(self._dtype).min)
            floor[: self.slots] = self._floor
            self._floor = floor
        self._down, self._up, self._factors = downs, ups, factors
        self.slots, self.rank = slots, rank
        self.own = self._zeros(slots + 1, slots * rank)
        for slot in range(slots):
            self.own[slot, slot * rank : (slot + 1) * rank] = 1
        self.layout += 1

    def _ones_of(self, slots: int) -> _Stacks:
        size = self._shape
        return [
            {group: self._zeros(slots + 1, sum(size.outputs(group))).fill_(1) for group in GROUPS}
            for _ in range(size.layers)
        ]

    def _zeros(self, *size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=self._dtype, device=self._device)


def bytes_of_slot(weights: Weights, rank: int) -> int:
    """Memory of one adapter on all projections."""
    shape = weights.shape
    numbers = sum(len(parts) * shape.inputs(group) + sum(shape.outputs(group)) for group, parts in GROUPS.items())
    return shape.layers * rank * numbers * weights.embedding.dtype.itemsize


def _scaled(out: torch.Tensor, factor: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return out * factor if bias is None else (out - bias) * factor + bias
