"""Adapters in the memory of one model, and which row of the batch uses which.

PEFT reads the configuration, injects the layers and holds the weights. Its own mixed forward pass (`adapter_names`)
hooks and unhooks every layer at each pass and regroups the rows in each of 210 layers, which made a decode step of the
small embedded model half again as long; here the rows are grouped once per pass, and the layers read that. The result
is PEFT's, which the tests hold against PEFT alone.

Adapters are keyed by their content digest, so that nothing can be confused with a namesake.

Only the engine's thread calls this class.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from core.errors import AdapterRefused
from core.types import AdapterRef
from generation.adapters import fingerprint as probes
from generation.adapters.checks import check_servable, layers_of
from generation.adapters.forms import is_bottleneck, lora_config_of
from generation.adapters.header import load_tensors
from generation.adapters.manifest import WEIGHTS_FILE, Fingerprint, Manifest, read_config, verify
from generation.adapters.patterns import without_patterns
from generation.models import BaseModelInfo

BASE = "__base__"
"""PEFT's name for rows without an adapter."""


def key_of(adapter: AdapterRef) -> str:
    """Name inside PEFT. Module names may hold no dot, and PEFT misreads names that contain 'lora'."""
    return f"v{adapter.digest[:24]}"


@dataclass(slots=True)
class PreparedAdapter:
    """An adapter read and checked, not yet in the model."""

    ref: AdapterRef
    manifest: Manifest
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor] = field(repr=False)


def prepare_adapter(ref: AdapterRef, base: BaseModelInfo) -> PreparedAdapter:
    """Read an adapter from disk with every check that needs no model; any thread may do this.

    Raises:
        AdapterRefused: with the code of the check that failed; see `manifest.verify` and `checks.check_servable`.
    """
    folder = Path(ref.path)
    manifest = verify(folder, base)
    if manifest.content_digest != ref.digest:
        raise AdapterRefused(f"{ref.stamp} is not the content it was registered with", code="adapter_digest_mismatch")
    check_servable(folder, base.path)
    config = without_patterns(read_config(folder), layers_of(base.path))
    return PreparedAdapter(ref, manifest, config, load_tensors(folder / WEIGHTS_FILE))


class AdapterBank:
    """The adapters loaded into `model`, and the routing of rows to them."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._peft: Any = None
        self._groups: list[tuple[str, torch.Tensor | None]] = []
        """Of the pass in progress: an adapter and the rows it acts on, None for all of them."""
        self._activated: set[str] = set()
        """Bottleneck adapters: an activation between down and up."""
        self._scales: dict[int, dict[str, torch.Tensor]] = {}
        """DoRA: by layer and adapter, the factor on each output, m / |W + B A|."""
        self._probe_ids = probes.probe_ids(tokenizer)
        self._base_logits: list[torch.Tensor] | None = None
        self.loaded: dict[str, AdapterRef] = {}
        self.last_used: dict[str, float] = {}
        self.fingerprints: dict[str, Fingerprint] = {}

    @contextmanager
    def routed(self, keys: Sequence[str]) -> Iterator[None]:
        """Forward passes inside use adapter keys[i] for row i."""
        now = time.monotonic()
        for key in set(keys):
            if key in self.loaded:
                self.last_used[key] = now
            elif key != BASE:
                raise RuntimeError(f"row routed to adapter {key}, which is not loaded")
        self._groups = [(key, self._rows_of(key, keys)) for key in set(keys) if key != BASE]
        try:
            yield
        finally:
            self._groups = []

    def insert(self, prepared: PreparedAdapter) -> None:
        """Put an adapter into the model and prove its effect; on refusal the model is as before.

        Raises:
            AdapterRefused: weights that reach no layer, no effect, or another fingerprint than the recorded one.
        """
        key = key_of(prepared.ref)
        if key in self.loaded:
            return
        base = self._probe(BASE) if self._base_logits is None else self._base_logits
        self._base_logits = base
        try:
            self._inject(key, prepared)
            self.loaded[key] = prepared.ref
            adapted = self._probe(key)
            measured = probes.make_fingerprint(base, adapted)
            if prepared.manifest.fingerprint is not None:
                probes.compare(prepared.manifest.fingerprint, base, adapted)
            self.fingerprints[key] = measured
            self.last_used[key] = time.monotonic()
        except BaseException:
            self.remove(key)
            raise

    def remove(self, key: str) -> None:
        """Take an adapter out; unknown keys are ignored."""
        self.loaded.pop(key, None)
        self.last_used.pop(key, None)
        self.fingerprints.pop(key, None)
        self._activated.discard(key)
        for scales in self._scales.values():
            scales.pop(key, None)
        if self._peft is not None and key in self._peft.peft_config:
            self._peft.base_model.delete_adapter(key)

    def _inject(self, key: str, prepared: PreparedAdapter) -> None:
        from peft import PeftModel
        from peft.utils import set_peft_model_state_dict

        config = lora_config_of(prepared.config, inference_mode=True, lora_dropout=0.0, init_lora_weights=True)
        try:
            if self._peft is None:
                self._peft = PeftModel(
                    self._model, config, adapter_name=key, autocast_adapter_dtype=False, low_cpu_mem_usage=True
                )
            else:
                self._peft.add_adapter(key, config, autocast_adapter_dtype=False, low_cpu_mem_usage=True)
            dtype, device = self._model.dtype, self._model.device
            tensors = {
                name: tensor.to(device, torch.float32 if "magnitude" in name else dtype)
                for name, tensor in prepared.tensors.items()
            }
            outcome = set_peft_model_state_dict(self._peft, tensors, adapter_name=key, low_cpu_mem_usage=True)
        except torch.OutOfMemoryError:
            raise  # a RuntimeError too, and no fault of the adapter
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise AdapterRefused(
                f"{prepared.ref.stamp} does not fit the base: {error}", code="adapter_wrong_base"
            ) from error
        self._peft.eval()
        self._require_all_in(key, prepared, outcome)
        if is_bottleneck(prepared.config):
            self._activated.add(key)
        self._take_over_layers(key)

    def _require_all_in(self, key: str, prepared: PreparedAdapter, outcome: Any) -> None:
        """Every tensor of the file is in a layer, and every layer got its tensors."""
        placed = [name for name, _ in self._peft.named_parameters() if f".{key}." in name]
        missing = [name for name in outcome.missing_keys if f".{key}." in name]
        if outcome.unexpected_keys or missing or len(placed) != len(prepared.tensors):
            raise AdapterRefused(
                f"{prepared.ref.stamp}: {len(prepared.tensors)} tensors for {len(placed)} places in the model",
                code="adapter_bad_config",
                extra={"unexpected": list(outcome.unexpected_keys)[:3], "missing": missing[:3]},
            )

    def _take_over_layers(self, key: str) -> None:
        from peft.tuners.lora import LoraLayer

        for module in self._peft.modules():
            if not isinstance(module, LoraLayer):
                continue
            module.set_adapter([])  # PEFT's own choice of active adapters plays no part here
            if key in module.lora_B:
                module.lora_B[key].weight.data.mul_(module.scaling[key])
                module.scaling[key] = 1.0
            if key in module.lora_magnitude_vector:
                self._scales.setdefault(id(module), {})[key] = _scale_of_outputs(module, key)
            if "forward" not in vars(module):
                module.forward = self._forward_of(module)
        # PEFT froze the base. Nothing here computes gradients, but torch 2.13 takes another path for the product of a
        # long prompt with a frozen bf16 weight on the CPU, and that one is 17 % slower.
        self._model.requires_grad_(True)

    def _forward_of(self, layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        """W x + B A x for the rows of each adapter; the scale of the adapter is in B already.

        A bottleneck has an activation before B; DoRA scales each output but for the bias.
        """
        base, downs, ups = layer.base_layer, layer.lora_A._modules, layer.lora_B._modules
        scales = self._scales.setdefault(id(layer), {})

        def forward(x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = base(x)
            for key, rows in self._groups:
                down = downs.get(key)
                if down is None:
                    continue  # this adapter leaves this layer alone
                up = ups[key].weight
                scale = scales.get(key)
                if rows is None:
                    hidden = x.reshape(-1, x.shape[-1]) @ down.weight.t()
                    if key in self._activated:
                        hidden = hidden.relu()
                    result.view(-1, result.shape[-1]).addmm_(hidden, up.t())
                    if scale is not None:
                        result = _scaled(result, scale, base.bias)
                else:
                    hidden = x[rows] @ down.weight.t()
                    if key in self._activated:
                        hidden = hidden.relu()
                    result.index_add_(0, rows, hidden @ up.t())
                    if scale is not None:
                        result[rows] = _scaled(result[rows], scale, base.bias)
            return result

        return forward

    def _rows_of(self, key: str, keys: Sequence[str]) -> torch.Tensor | None:
        rows = [row for row, other in enumerate(keys) if other == key]
        return None if len(rows) == len(keys) else torch.tensor(rows, device=self._model.device)

    def _probe(self, key: str) -> list[torch.Tensor]:
        with torch.no_grad(), self.routed([key] * len(self._probe_ids)), probes.widened(self._model):
            return probes.probe_batch(self._model, self._probe_ids)


def _scale_of_outputs(layer: Any, key: str) -> torch.Tensor:
    """M / |W + B A|, by output; the adapter's own scale is in B already."""
    weight = layer.base_layer.weight.float()
    change = layer.lora_B[key].weight.float() @ layer.lora_A[key].weight.float()
    magnitude = layer.lora_magnitude_vector[key].weight.float()
    scale: torch.Tensor = magnitude / (weight + change).norm(dim=1)
    return scale.to(layer.base_layer.weight.dtype)


def _scaled(result: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return result * scale if bias is None else (result - bias) * scale + bias
