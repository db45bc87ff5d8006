"""Which adapters the in-process engine can serve, decided from file headers before anything is loaded.

Adapters of several versions share one batch: what serves is a function of a layer's input and output, row by row. LoRA
is one, DoRA with its magnitudes folded into a scale per output, and a bottleneck. Everything else is refused here with
the reason, at registration, so that nothing unservable enters the registry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import AdapterRefused
from generation.adapters.config_schema import check_schema
from generation.adapters.forms import BOTTLENECK
from generation.adapters.header import read_header
from generation.adapters.manifest import WEIGHTS_FILE, read_config, tensor_shapes
from generation.adapters.patterns import value_for

MAGNITUDE = "magnitude"
"""DoRA's third part of a layer: one number per output."""
_OFF = {
    "modules_to_save": "modules saved beside the adapter",
    "layers_to_transform": None,
    "layer_replication": "replicated layers",
    "trainable_token_indices": "trained embeddings",
    "lora_bias": "biases of LoRA",
    "alora_invocation_tokens": "aLoRA",
    "target_parameters": "LoRA on parameters",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
_NUMBERS = frozenset({"F16", "BF16", "F32", "F64"})
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "eva_residual")
"""Starts of `init_lora_weights` that move a part of the base into the factors, which then act on the rest of it."""
_WEIGHT = re.compile(
    r"\Abase_model\.model\.(?P<module>[^\n]{1,300})\.lora_(?:(?P<side>[AB])\.weight|(?P<magnitude>magnitude_vector)(?:\.weight)?)$"
)


def check_servable(folder: Path, base_path: Path) -> dict[str, tuple[int, ...]]:
    """Check configuration and shapes against the base; returns the tensors of the adapter by name.

    Raises:
        AdapterRefused: `adapter_unsupported` for a method the engine cannot mix, `adapter_bad_config` for a file that
            contradicts itself, `adapter_wrong_base` for modules or shapes that the base does not have,
            `adapter_unsafe_file` for weights that are no safetensors, `adapter_bad_weights` for damaged ones.
    """
    config = read_config(folder)
    check_config(config)
    entries = read_header(folder / WEIGHTS_FILE)
    if not entries:
        raise AdapterRefused("the adapter holds no weights", code="adapter_no_effect")
    for name, entry in entries.items():
        if entry.dtype not in _NUMBERS:
            raise AdapterRefused(f"'{name}' is of {entry.dtype}, not of floating point", code="adapter_unsupported")
    tensors = {name: entry.shape for name, entry in entries.items()}
    base = base_shapes(base_path)
    sides: dict[str, set[str]] = {}
    for name, shape in tensors.items():
        match = _WEIGHT.match(name)
        if match is None:
            raise AdapterRefused(f"'{name}' is not the weight of a LoRA layer", code="adapter_unsupported")
        module, side = match["module"], match["side"] or MAGNITUDE
        _check_shape(module, side, shape, base, rank_of(config, module))
        sides.setdefault(module, set()).add(side)
    whole = {"A", "B", MAGNITUDE} if config.get("use_dora") else {"A", "B"}
    for module, found in sides.items():
        if found != whole:
            raise AdapterRefused(
                f"'{module}' has {', '.join(sorted(found))} where its kind has {', '.join(sorted(whole))}",
                code="adapter_bad_config",
            )
    _check_targets(config, set(sides))
    return tensors


def changed_base_of(config: Mapping[str, Any]) -> str | None:
    """How factors were initialised that belong to a changed base; None for those that add to the whole one."""
    initialised = str(config.get("init_lora_weights", True)).lower()
    return initialised if initialised.startswith(_CHANGES_BASE) else None


def check_config(config: Mapping[str, Any]) -> None:
    """The part of `check_servable` that needs no weights."""
    given = config.get("peft_type")
    kind = given.upper()[:40] if isinstance(given, str) else ""
    if kind not in {"LORA", BOTTLENECK}:
        detail = f"'{kind or 'unknown'}' adapters are not served, only LORA and {BOTTLENECK}"
        raise AdapterRefused(detail, code="adapter_unsupported")
    check_schema(config)
    if kind == BOTTLENECK and config.get("use_dora"):
        raise AdapterRefused("a bottleneck has no magnitudes", code="adapter_bad_config")
    for key, what in _OFF.items():
        if what is not None and config.get(key):
            raise AdapterRefused(f"{what} ('{key}') cannot be mixed with others in a batch", code="adapter_unsupported")
    initialised = changed_base_of(config)
    if initialised is not None:
        raise AdapterRefused(
            f"factors initialised by '{initialised}' belong to a changed base; convert them to the change of the whole "
            "one first (PEFT: path_initial_model_for_weight_conversion)",
            code="adapter_unsupported",
        )
    if config.get("bias", "none") != "none":
        raise AdapterRefused("trained biases change the base for other requests", code="adapter_unsupported")


def base_shapes(base_path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor shapes of a base folder, from its safetensors headers."""
    index = base_path / "model.safetensors.index.json"
    names = set(json.loads(index.read_text("utf-8"))["weight_map"].values()) if index.is_file() else None
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names or ["model.safetensors"]:
        shapes.update(tensor_shapes(base_path / name))
    return shapes


def layers_of(base_path: Path) -> set[str]:
    """Modules of a base folder that have a matrix."""
    shapes = base_shapes(base_path)
    return {name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2}


def _check_shape(
    module: str, side: str, shape: tuple[int, ...], base: Mapping[str, tuple[int, ...]], rank: int
) -> None:
    weight = base.get(f"{module}.weight")
    if weight is None or len(weight) != 2:
        raise AdapterRefused(f"the base has no layer '{module}'", code="adapter_wrong_base", extra={"module": module})
    expected = {"A": (rank, weight[1]), "B": (weight[0], rank)}.get(side, (weight[0],))
    if shape != expected:
        code = "adapter_bad_config" if side != MAGNITUDE and rank not in shape else "adapter_wrong_base"
        raise AdapterRefused(
            f"lora_{side} of '{module}' is {list(shape)}, the base and rank {rank} ask for {list(expected)}",
            code=code,
            extra={"module": module},
        )
    if module.rsplit(".", maxsplit=1)[-1] in {"embed_tokens", "lm_head"}:
        raise AdapterRefused(f"LoRA on '{module}' changes tied embeddings", code="adapter_unsupported")


def rank_of(config: Mapping[str, Any], module: str) -> int:
    """Rank of a module's LoRA by the configuration, patterns first, as PEFT reads it."""
    return int(value_for(config, "rank_pattern", module, config["r"]))


def _check_targets(config: Mapping[str, Any], modules: set[str]) -> None:
    """Every declared target must have weights: one that matches fewer modules than it says lost part of its effect."""
    targets = config.get("target_modules")
    if not isinstance(targets, list):
        return  # a pattern or 'all-linear'; the engine compares what was injected with what the file holds
    for target in targets:
        if not any(module == target or module.endswith(f".{target}") for module in modules):
            raise AdapterRefused(f"no weights for the target module '{target}'", code="adapter_bad_config")
