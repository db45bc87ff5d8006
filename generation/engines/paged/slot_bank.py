"""The adapters in memory and the proof that each acts: `adapter_bank.AdapterBank`'s contract over slots.

Keyed by content digest, with the same checks and the same fingerprints; only the engine's thread calls this class.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from core.types import AdapterRef
from generation.adapters import fingerprint as probes
from generation.adapters.manifest import Fingerprint
from generation.engines.adapter_bank import BASE, PreparedAdapter, key_of
from generation.engines.paged.slots import AdapterSlots

Probe = Callable[[Sequence[Sequence[int]], int | None], list[torch.Tensor]]
"""Token ids and a slot (None for the base) to centred float32 logits, one row per probe."""


class SlotBank:
    """What is loaded, when it was used last, and its fingerprint."""

    def __init__(self, slots: AdapterSlots, tokenizer: Any, probe: Probe, on_layout: Callable[[], None]) -> None:
        """on_layout: called when the stacks moved, after an adapter was accepted."""
        self._slots = slots
        self._probe = probe
        self._on_layout = on_layout
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
            Unavailable: no memory for another slot.
        """
        key = key_of(prepared.ref)
        if key in self.loaded:
            return
        if self._base_logits is None:
            self._base_logits = self._probe(self._probe_ids, None)
        layout = self._slots.layout
        try:
            adapted = self._probe(self._probe_ids, self._slots.fill(key, prepared))
            measured = probes.make_fingerprint(self._base_logits, adapted)
            if prepared.manifest.fingerprint is not None:
                probes.compare(prepared.manifest.fingerprint, self._base_logits, adapted)
            if self._slots.layout != layout:
                self._on_layout()
        except BaseException:
            self._slots.empty(key)
            raise
        self.loaded[key] = prepared.ref
        self.fingerprints[key] = measured
        self.last_used[key] = time.monotonic()

    def remove(self, key: str) -> None:
        """Take an adapter out; unknown keys are ignored."""
        self.loaded.pop(key, None)
        self.last_used.pop(key, None)
        self.fingerprints.pop(key, None)
        self._slots.empty(key)
