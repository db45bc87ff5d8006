"""Which layers get an adapter, by the names a model family gives them.

`all-linear` is every linear layer inside the decoder's layers: attention and MLP, whatever they are called (`q_proj`,
`qkv_proj`, `fc1`, `kv_b_proj`). Left out are embeddings, the output layer and score heads (they are tied or outside
the layers), and routers of experts: choosing experts is the base's business. `mlp` are those of the MLPs alone. Experts
themselves are one fused 3-D parameter for all of a layer in transformers 5, no linear layer; `experts` reaches them
through PEFT's `target_parameters`. A dense MLP or shared expert beside them cannot be a target (see `_EXPERT_NAMES`).

The names are resolved here, not left to PEFT, so that `adapter_config.json` says what was trained and a name that a
family does not have is refused: PEFT ignores a target without layers as long as another one has some.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from core.errors import InvalidInput
from tuning.recipe_parts import ALL_LINEAR, MLP_ONLY, Targets

_ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})
"""Last names of layers that choose experts. A Llama's `gate_proj` is none."""
MLP_MODULES = frozenset({"mlp", "feed_forward", "ffn"})
_EXPERT_NAMES = frozenset({"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
"""What single experts were called before they were fused. In a mixture PEFT takes these names for the fused experts, at
training and at every load, whatever dense MLP or shared expert still has them; so they are no targets there."""


def resolve_targets(model: Any, wanted: Targets) -> list[str]:
    """Names of target layers, sorted, as PEFT takes them (by the end of a layer's name).

    Raises:
        InvalidInput: `target_not_found`, a name that no linear layer of the decoder ends with.
    """
    linear = linear_layers(model)
    last = sorted({name.rpartition(".")[2] for name in linear})
    if wanted == ALL_LINEAR:
        return last
    if wanted == MLP_ONLY:
        return mlp_names(linear) or last
    for target in wanted:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            raise InvalidInput(f"this base has no layer '{target}'; it has {', '.join(last)}", code="target_not_found")
    return sorted(wanted)


def mlp_names(linear: Iterable[str]) -> list[str]:
    """Last names of the layers inside MLPs, with the name of the MLP where another layer is called the same."""
    inside: set[tuple[str, str]] = set()
    outside: set[tuple[str, str]] = set()
    for name in linear:
        before, _, last = name.rpartition(".")
        (inside if before.rpartition(".")[2] in MLP_MODULES else outside).add((before.rpartition(".")[2], last))
    taken = {last for _, last in outside}
    return sorted({f"{mlp}.{last}" if last in taken else last for mlp, last in inside})


def linear_layers(model: Any) -> dict[str, Any]:
    """Linear layers that can be targets, by full name; layers of 4 bits are linear layers too."""
    from torch import nn

    layers = decoder_layers(model)
    inside = {id(module) for layer in layers for module in layer.modules()}
    passed_over = _ROUTERS | (_EXPERT_NAMES if _has_experts(model) else frozenset())
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside and name.rpartition(".")[2] not in passed_over
    }


def expert_parameters(model: Any) -> list[str]:
    """Names of the fused expert weights, by their end, sorted: `mlp.experts.down_proj`.

    Raises:
        InvalidInput: `target_not_found`, the base has no experts.
    """
    found = set()
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if parameter.dim() == 3 and "experts" in parts:
            found.add(".".join(parts[parts.index("experts") - 1 :]))
    if not found:
        raise InvalidInput("this base has no experts", code="target_not_found")
    return sorted(found)


def _has_experts(model: Any) -> bool:
    return any(parameter.dim() == 3 and ".experts." in name for name, parameter in model.named_parameters())


def decoder_layers(model: Any) -> Sequence[Any]:
    """The repeated layers of a decoder.

    Raises:
        InvalidInput: `base_not_supported`, the model is no decoder of a known build.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else getattr(model, "model", None)
    layers = getattr(decoder, "layers", None)
    if layers is None:
        raise InvalidInput(f"{type(model).__name__} is no decoder with layers", code="base_not_supported")
    return layers  # type: ignore[no-any-return]
