"""The forward pass of a Llama-like model over paged keys and values: one token of many rows, or stretches of prompts.

State lives on the device by *seat*, a number that a row keeps while it runs: its last token, its position, its pages,
its adapter. A decode step reads the seats it is given, writes each one's next token and moves its position on, so that
the next step can start before the host has seen the tokens of this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from generation.engines.paged import operations
from generation.engines.paged.pages import PAGE, PagePool, pages_for
from generation.engines.paged.prompts import Stretch, attend_each, bounds_of, choose_attend, places_of
from generation.engines.paged.slots import AdapterSlots
from generation.engines.paged.transfer import upload
from generation.engines.paged.weights import Weights, rotation_table


class PagedDecoder:
    """Weights, pages, slots and seats; what runs on them."""

    def __init__(self, model: Any, weights: Weights, slots: AdapterSlots, *, seats: int, context: int, tokens: int):
        """seats: rows that can run at once. context: longest sequence. tokens: size of the page pool."""
        device, dtype = model.device, model.dtype
        self.device, self.dtype, self.weights, self.slots = device, dtype, weights, slots
        shape = weights.shape
        self._scale = shape.head_dim**-0.5
        self._operations: Any = operations.choose_operations(device)
        self._attend_prompts = choose_attend(shape.heads, shape.kv_heads, shape.head_dim, dtype, device)
        self._cosines, self._sines = rotation_table(model, context)
        self.pool = PagePool(shape, tokens, dtype, device)
        self.padding = seats
        """A seat for rows that only fill a recorded step up: it writes to page 0."""
        self.last = torch.zeros(seats + 1, dtype=torch.long, device=device)
        self.positions = torch.zeros(seats + 1, dtype=torch.long, device=device)
        self.table = torch.zeros((seats + 1, pages_for(context)), dtype=torch.int32, device=device)
        self.slot = torch.full((seats + 1,), -1, dtype=torch.long, device=device)

    def decode(self, seats: torch.Tensor, *, adapted: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of the seats: the best next tokens (rows,), and logits (rows, vocabulary). Records in a graph.

        The best tokens become the seats' last ones; a caller that draws otherwise writes `last` afterwards.
        """
        positions = self.positions[seats]
        places = self.table[seats, positions // PAGE].long() * PAGE + positions % PAGE
        cosines, sines = self._cosines[positions].to(self.dtype), self._sines[positions].to(self.dtype)
        rows = self.slot[seats]
        x = functional.embedding(self.last[seats], self.weights.embedding)

        def project(y: torch.Tensor, layer: int, group: str) -> torch.Tensor:
            weights = self.weights.layers[layer]
            out = functional.linear(y, weights.matrices[group], weights.biases[group])
            return self.slots.add_mixed(out, y, layer, group, rows) if adapted else out

        heads = self.weights.shape.heads

        def attend(qkv: torch.Tensor, layer: int) -> torch.Tensor:
            self._store(qkv, layer, cosines, sines, places)
            keys, values = self.pool.keys[layer], self.pool.values[layer]
            return self._operations.attend(  # type: ignore[no-any-return]
                qkv, keys, values, self.table, seats, self.positions, heads, self._scale
            )

        hidden = self._layers(x, project, attend)
        logits = functional.linear(hidden, self.weights.head)
        best = logits.argmax(dim=-1)
        self.last[seats] = best
        self.positions.index_add_(0, seats, torch.ones_like(seats))
        self.positions[self.padding :].zero_()
        return best, logits

    def prefill(self, tokens: torch.Tensor, seats: torch.Tensor, stretches: Sequence[Stretch]) -> torch.Tensor:
        """Read stretches of prompts, packed; returns the logits after the last token of each (stretches, vocabulary).

        tokens, seats: (all tokens,), in the order of `stretches`.
        """
        positions = torch.cat(
            [torch.arange(part.before, part.before + part.count, device=self.device) for part in stretches]
        )
        places = self.table[seats, positions // PAGE].long() * PAGE + positions % PAGE
        cosines, sines = self._cosines[positions].to(self.dtype), self._sines[positions].to(self.dtype)
        bounds = bounds_of(stretches, self.device)
        # Keys of earlier pieces lie in the pages alone; where there are none, nothing is read back.
        earlier = places_of(stretches, self.table) if any(part.before for part in stretches) else None
        joined = _by_slot(stretches)
        x = functional.embedding(tokens, self.weights.embedding)

        def project(y: torch.Tensor, layer: int, group: str) -> torch.Tensor:
            weights = self.weights.layers[layer]
            out = functional.linear(y, weights.matrices[group], weights.biases[group])
            for start, stop, slot in joined:
                if slot >= 0:
                    self.slots.add_one(out[start:stop], y[start:stop], layer, group, slot)
            return out

        def attend(qkv: torch.Tensor, layer: int) -> torch.Tensor:
            self._store(qkv, layer, cosines, sines, places)
            query, key, value = self._split(qkv)
            if earlier is not None:
                pages, columns = earlier
                key, value = self.pool.keys[layer][pages, :, columns], self.pool.values[layer][pages, :, columns]
            return self._attend_prompts(query, key, value, bounds)

        ends = (bounds.on_device[0, 1:] - 1).long()
        hidden = self._layers(x, project, attend, ends)
        return functional.linear(hidden, self.weights.head)

    def probe(self, prompts: Sequence[Sequence[int]], slot: int | None) -> list[torch.Tensor]:
        """Logits after each prompt less their mean, float32 on the CPU; in float32 arithmetic and without the pages."""
        packed = upload([token for prompt in prompts for token in prompt], self.device)
        bounds = bounds_of([Stretch(0, 0, len(prompt), -1) for prompt in prompts], self.device)
        positions = torch.cat([torch.arange(len(prompt), device=self.device) for prompt in prompts])
        cosines, sines = self._cosines[positions], self._sines[positions]
        x = functional.embedding(packed, self.weights.embedding).float()

        def project(y: torch.Tensor, layer: int, group: str) -> torch.Tensor:
            weights = self.weights.layers[layer]
            bias = weights.biases[group]
            out = functional.linear(y, weights.matrices[group].float(), None if bias is None else bias.float())
            if slot is not None:
                self.slots.add_one(out, y, layer, group, slot)
            return out

        def attend(qkv: torch.Tensor, layer: int) -> torch.Tensor:
            query, key, value = self._split(qkv)
            weights, epsilon = self.weights.layers[layer], self.weights.shape.epsilon
            if weights.query_norm is not None and weights.key_norm is not None:
                query = operations.norm(query, weights.query_norm.float(), epsilon)
                key = operations.norm(key, weights.key_norm.float(), epsilon)
            query, key = (operations.rotate(part, cosines, sines) for part in (query, key))
            return attend_each(query, key, value, bounds)

        ends = (bounds.on_device[0, 1:] - 1).long()
        hidden = self._layers(x, project, attend, ends, ops=operations)
        rows = functional.linear(hidden, self.weights.head.float()).cpu()
        return [row - row.mean() for row in rows]

    def _layers(self, x: Any, project: Any, attend: Any, ends: torch.Tensor | None = None, *, ops: Any = None) -> Any:
        """All layers and the last norm, of the rows `ends` alone where given."""
        ops = ops or self._operations
        epsilon = self.weights.shape.epsilon
        add: Any = None
        for number, layer in enumerate(self.weights.layers):
            hidden = ops.add_norm(x, add, layer.input_norm, epsilon)
            add = project(attend(project(hidden, number, "qkv"), number), number, "output")
            hidden = ops.add_norm(x, add, layer.inner_norm, epsilon)
            add = project(ops.silu_multiply(project(hidden, number, "gate_up")), number, "down")
        if ends is not None:
            x, add = x[ends], add[ends]
        return ops.add_norm(x, add, self.weights.norm, epsilon)

    def _store(self, qkv: Any, layer: int, cosines: Any, sines: Any, places: Any) -> None:
        """Norms of queries and keys where the family has them, rotation, keys and values into their pages."""
        shape, weights = self.weights.shape, self.weights.layers[layer]
        if weights.query_norm is not None and weights.key_norm is not None:
            every = qkv.view(qkv.shape[0], -1, shape.head_dim)
            first, second = shape.heads, shape.heads + shape.kv_heads
            every[:, :first] = operations.norm(every[:, :first], weights.query_norm, shape.epsilon)
            every[:, first:second] = operations.norm(every[:, first:second], weights.key_norm, shape.epsilon)
        keys, values = self.pool.keys[layer], self.pool.values[layer]
        self._operations.rotate_store(qkv, cosines, sines, places, keys, values, shape.heads)

    def _split(self, qkv: torch.Tensor) -> Any:
        """Queries, keys and values of a joined product, each (rows, its heads, size)."""
        shape = self.weights.shape
        every = qkv.view(qkv.shape[0], -1, shape.head_dim)
        return every.split([shape.heads, shape.kv_heads, shape.kv_heads], dim=1)  # type: ignore[no-untyped-call]


def _by_slot(stretches: Sequence[Stretch]) -> list[tuple[int, int, int]]:
    """Neighbours of one adapter joined: first row, row after the last, slot."""
    joined: list[tuple[int, int, int]] = []
    start = 0
    for part in stretches:
        stop = start + part.count
        if joined and joined[-1][2] == part.slot:
            joined[-1] = (joined[-1][0], stop, part.slot)
        else:
            joined.append((start, stop, part.slot))
        start = stop
    return joined
