"""Adapters in numbered slots of stacked factors, so that rows of any mix share two small products per projection.

All adapters' A factors of a projection are one matrix (slots * rank, inputs). A row's product with it holds one
stretch per slot; a mask keeps the stretch of the row's own slot, and the product with the stacked B factors then adds
that adapter alone. Each adapter's weights are read once per step however its rows lie in the batch, and a recorded step
stays valid when a slot changes hands. Work grows with the number of slots: 16 of rank 16 are 256 columns beside the
4,096 of an 8B model.

Keyed by content digest like `adapter_bank`, whose checks it shares; only the engine's thread calls this class.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from core.errors import AdapterRefused
from core.types import AdapterRef
from generation.adapters import fingerprint as probes
from generation.adapters.checks import rank_of
from generation.adapters.manifest import Fingerprint
from generation.engines.adapter_bank import BASE, PreparedAdapter, key_of
from generation.engines.paged.weights import GROUPS, Shape

_FIRST_SLOTS = 4
_RANK_STEP = 16
_NAME = re.compile(r"^base_model\.model\.model\.layers\.(?P<layer>\d+)\.(?P<part>.+)\.lora_(?P<side>[AB])\.weight$")
_PLACES = {part: (group, index) for group, parts in GROUPS.items() for index, part in enumerate(parts)}

Probe = Callable[[Sequence[Sequence[int]], int | None], list[torch.Tensor]]
"""Token ids and a slot (None for the base) to centred float32 logits, one row per probe."""


class AdapterSlots:
    """down[layer][group]: (projections, slots, rank, inputs). up[layer][group][projection]: (slots * rank, outputs)."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = shape
        self._dtype = dtype
        self._device = device
        self.slots = 0
        self.rank = 0
        self.layout = 0
        """Changes when the stacks move in memory: steps recorded before are void."""
        self.down: list[dict[str, torch.Tensor]] = []
        self.up: list[dict[str, list[torch.Tensor]]] = []
        self.own: torch.Tensor = torch.zeros((1, 0), dtype=dtype, device=device)
        """(slots + 1, slots * rank): ones where a slot's own stretch is; the last row is of the base, all zeros."""
        self._of: dict[str, int] = {}

    def slot_of(self, key: str) -> int:
        """Row of `own` for an adapter; the base's is the last, -1."""
        return -1 if key == BASE else self._of[key]

    def fill(self, key: str, prepared: PreparedAdapter) -> int:
        """Write an adapter into a free slot and return it; the stacks grow when none is free or the rank is larger.

        Raises:
            AdapterRefused: a tensor that belongs to no projection (`adapter_wrong_base`), or projections that the
                configuration names and the file does not hold (`adapter_bad_config`).
        """
        placed = self._place(prepared)
        rank = max(tensors["A"].shape[0] for tensors in placed.values())
        used = set(self._of.values())
        free = [slot for slot in range(self.slots) if slot not in used]
        if not free or rank > self.rank:
            slots = self.slots if free else max(_FIRST_SLOTS, 2 * self.slots)
            self._resize(slots, max(self.rank, -(-rank // _RANK_STEP) * _RANK_STEP))
            free = [slot for slot in range(self.slots) if slot not in used]
        slot = free[0]
        self._clear(slot)
        for (layer, part), tensors in placed.items():
            group, index = _PLACES[part]
            down, up = (tensors[side].to(self._device, self._dtype) for side in "AB")
            own = down.shape[0]
            scale = scale_of(prepared.config, f"model.layers.{layer}.{part}")
            self.down[layer][group][index, slot, :own] = down
            self.up[layer][group][index][slot * self.rank : slot * self.rank + own] = (up * scale).t()
        self._of[key] = slot
        return slot

    def empty(self, key: str) -> None:
        """Free a slot. Its weights stay until the next one comes: no row is routed to it."""
        self._of.pop(key, None)

    def add_mixed(self, out: torch.Tensor, x: torch.Tensor, layer: int, group: str, own: torch.Tensor) -> None:
        """Add B A x to `out` for rows of any mix. own: (rows, slots * rank), the rows' lines of `self.own`."""
        down = self.down[layer][group]
        parts, width = down.shape[0], own.shape[1]
        hidden = (x @ down.view(parts * width, -1).t()).view(-1, parts, width) * own[:, None]
        start = 0
        for index, up in enumerate(self.up[layer][group]):
            out[:, start : start + up.shape[1]].addmm_(hidden[:, index], up)
            start += up.shape[1]

    def add_one(self, out: torch.Tensor, x: torch.Tensor, layer: int, group: str, slot: int) -> None:
        """Add B A x to `out` for rows that all use `slot`; in the number type of `x`."""
        down, start, first = self.down[layer][group], 0, slot * self.rank
        for index, up in enumerate(self.up[layer][group]):
            hidden = x @ down[index, slot].to(x.dtype).t()
            out[:, start : start + up.shape[1]].addmm_(hidden, up[first : first + self.rank].to(x.dtype))
            start += up.shape[1]

    def _place(self, prepared: PreparedAdapter) -> dict[tuple[int, str], dict[str, torch.Tensor]]:
        placed: dict[tuple[int, str], dict[str, torch.Tensor]] = {}
        for name, tensor in prepared.tensors.items():
            match = _NAME.match(name)
            if match is None or match["part"] not in _PLACES or int(match["layer"]) >= self._shape.layers:
                raise AdapterRefused(
                    f"{prepared.ref.stamp}: '{name}' belongs to no projection of the base", code="adapter_wrong_base"
                )
            placed.setdefault((int(match["layer"]), match["part"]), {})[match["side"]] = tensor
        missing = _targets(prepared.config, self._shape.layers) - set(placed)
        if missing:
            layer, part = min(missing)
            raise AdapterRefused(
                f"{prepared.ref.stamp}: no weights for layer {layer} '{part}', which its configuration names",
                code="adapter_bad_config",
                extra={"missing": len(missing)},
            )
        return placed

    def _clear(self, slot: int) -> None:
        for down, up in zip(self.down, self.up, strict=True):
            for group in GROUPS:
                down[group][:, slot] = 0
                for matrix in up[group]:
                    matrix[slot * self.rank : (slot + 1) * self.rank] = 0

    def _resize(self, slots: int, rank: int) -> None:
        """Move to larger stacks, one layer at a time."""
        if not self.down:
            self.down = [{} for _ in range(self._shape.layers)]
            self.up = [{} for _ in range(self._shape.layers)]
        for layer in range(self._shape.layers):
            for group, parts in GROUPS.items():
                new_down = self._zeros(len(parts), slots, rank, self._shape.inputs(group))
                new_up = [self._zeros(slots * rank, outputs) for outputs in self._shape.outputs(group)]
                if self.slots:
                    new_down[:, : self.slots, : self.rank] = self.down[layer][group]
                    for old, new in zip(self.up[layer][group], new_up, strict=True):
                        width = old.shape[1]
                        view = new.view(slots, rank, width)[: self.slots, : self.rank]
                        view.copy_(old.view(self.slots, self.rank, width))
                self.down[layer][group], self.up[layer][group] = new_down, new_up
        self.slots, self.rank = slots, rank
        self.own = self._zeros(slots + 1, slots * rank)
        for slot in range(slots):
            self.own[slot, slot * rank : (slot + 1) * rank] = 1
        self.layout += 1

    def _zeros(self, *size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=self._dtype, device=self._device)


class SlotBank:
    """The adapters in memory: `AdapterBank`'s contract over slots."""

    def __init__(self, slots: AdapterSlots, tokenizer: Any, probe: Probe) -> None:
        self.slots = slots
        self._probe = probe
        self._probe_ids = probes.probe_ids(tokenizer)
        self._base_logits: list[torch.Tensor] | None = None
        self.loaded: dict[str, AdapterRef] = {}
        self.last_used: dict[str, float] = {}
        self.fingerprints: dict[str, Fingerprint] = {}

    def touch(self, keys: Sequence[str]) -> None:
        """These adapters act now."""
        now = time.monotonic()
        for key in keys:
            if key in self.loaded:
                self.last_used[key] = now
            elif key != BASE:
                raise RuntimeError(f"row routed to adapter {key}, which is not loaded")

    @torch.inference_mode()
    def insert(self, prepared: PreparedAdapter) -> None:
        """Put an adapter into a slot and prove its effect there; on refusal the slot is free again.

        Raises:
            AdapterRefused: see `AdapterSlots.fill`; no effect, or another fingerprint than the recorded one.
        """
        key = key_of(prepared.ref)
        if key in self.loaded:
            return
        if self._base_logits is None:
            self._base_logits = self._probe(self._probe_ids, None)
        try:
            adapted = self._probe(self._probe_ids, self.slots.fill(key, prepared))
            measured = probes.make_fingerprint(self._base_logits, adapted)
            if prepared.manifest.fingerprint is not None:
                probes.compare(prepared.manifest.fingerprint, self._base_logits, adapted)
        except BaseException:
            self.slots.empty(key)
            raise
        self.loaded[key] = prepared.ref
        self.fingerprints[key] = measured
        self.last_used[key] = time.monotonic()

    def remove(self, key: str) -> None:
        """Take an adapter out; unknown keys are ignored."""
        self.loaded.pop(key, None)
        self.last_used.pop(key, None)
        self.fingerprints.pop(key, None)
        self.slots.empty(key)


def scale_of(config: Mapping[str, Any], module: str) -> float:
    """The factor of B A x, as PEFT computes it: alpha over rank, or over its root for rsLoRA."""
    alpha = float(config.get("lora_alpha", 8))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    rank = rank_of(config, module)
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _targets(config: Mapping[str, Any], layers: int) -> set[tuple[int, str]]:
    """Layers and projections that the configuration names, by PEFT's own rules."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    every = {(layer, part) for layer in range(layers) for part in _PLACES}
    if config.get("target_modules") == "all-linear":
        excluded = config.get("exclude_modules")
        return set() if excluded else every
    known = {name: value for name, value in config.items() if name in LoraConfig.__dataclass_fields__}
    lora = LoraConfig(**known)
    return {(n, part) for n, part in every if bool(check_target_module_exists(lora, f"model.layers.{n}.{part}"))}
