"""The weights of a Llama-like model as the paged decoder reads them: projections of one input joined into one matrix.

One product of joined weights replaces three (query, key, value) or two (gate, up). The model's own parameters become
views of the joined ones, so that the weights are in memory once and transformers' forward pass still works on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
"""Kinds of rotary embedding whose frequencies do not change with the length of the sequence."""

GROUPS: dict[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""Products of one layer and the projections joined in each, in order of their rows."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    epsilon: float

    def inputs(self, group: str) -> int:
        """Columns of a joined matrix."""
        return {"output": self.heads * self.head_dim, "down": self.intermediate}.get(group, self.hidden)

    def outputs(self, group: str) -> tuple[int, ...]:
        """Rows of each projection joined in it."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        if group == "qkv":
            return wide, narrow, narrow
        return (self.intermediate, self.intermediate) if group == "gate_up" else (self.hidden,)


@dataclass(slots=True)
class LayerWeights:
    """One layer: joined matrices (outputs, inputs) and biases by group, norms."""

    matrices: dict[str, torch.Tensor]
    biases: dict[str, torch.Tensor | None]
    input_norm: torch.Tensor
    inner_norm: torch.Tensor
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None


@dataclass(slots=True)
class Weights:
    """The whole model."""

    shape: Shape
    embedding: torch.Tensor
    layers: list[LayerWeights]
    norm: torch.Tensor
    head: torch.Tensor


def why_unsupported(model: Any, context: int) -> str | None:
    """Why this decoder cannot run `model`, or None when it can. The plain decode loop runs what this one cannot.

    context: longest sequence; a sliding window that long hides nothing.
    """
    config = model.config
    if config.model_type not in _FAMILIES:
        return f"models of type '{config.model_type}' are not written down here"
    rope = getattr(config, "rope_parameters", None) or {}
    rotation = rope.get("rope_type", "default")
    if rotation not in _ROTATIONS:
        return f"rotary embeddings of kind '{rotation}' depend on the length"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "rotary embeddings of a part of each head are not written down here"
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention", "sliding_attention"}:
        return f"layers of kind {', '.join(sorted(kinds))} are not written down here"
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    slides = "sliding_attention" in kinds or not kinds
    if slides and window and window < context:
        return f"sliding windows, here of {window} tokens in a context of {context}, are not written down here"
    if config.hidden_act != "silu":
        return f"activation '{config.hidden_act}' is not written down here"
    size = _head_dim(config)
    if model.device.type == "cuda" and (size < 16 or size & (size - 1)):
        return f"heads of size {size} are no power of two from 16 on, which the attention kernel needs"
    kinds_of_numbers = {parameter.dtype for parameter in model.parameters()}
    if len(kinds_of_numbers) != 1 or not next(iter(kinds_of_numbers)).is_floating_point:
        return "the weights are not of one floating-point type"
    plain = all(
        type(layer.get_submodule(name)) is torch.nn.Linear
        for layer in model.model.layers
        for names in GROUPS.values()
        for name in names
    )
    return None if plain else "the projections are not plain linear layers"


@torch.no_grad()
def join_weights(model: Any) -> Weights:
    """Join the projections of `model`, layer by layer; its parameters are views of the result afterwards."""
    config = model.config
    layers = []
    for layer in model.model.layers:
        matrices: dict[str, torch.Tensor] = {}
        biases: dict[str, torch.Tensor | None] = {}
        for group, names in GROUPS.items():
            parts = [layer.get_submodule(name) for name in names]
            matrices[group] = _join([part.weight for part in parts])
            biases[group] = _join([part.bias for part in parts]) if parts[0].bias is not None else None
        attention = layer.self_attn
        layers.append(
            LayerWeights(
                matrices=matrices,
                biases=biases,
                input_norm=layer.input_layernorm.weight.data,
                inner_norm=layer.post_attention_layernorm.weight.data,
                query_norm=attention.q_norm.weight.data if hasattr(attention, "q_norm") else None,
                key_norm=attention.k_norm.weight.data if hasattr(attention, "k_norm") else None,
            )
        )
    shape = Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        head_dim=_head_dim(config),
        intermediate=config.intermediate_size,
        epsilon=config.rms_norm_eps,
    )
    head = model.lm_head.weight.data
    return Weights(shape, model.model.embed_tokens.weight.data, layers, model.model.norm.weight.data, head)


def rotation_table(model: Any, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, float32 (positions, head_dim), as the model's own rotary embedding computes them."""
    device = model.device
    places = torch.arange(positions, device=device)[None]
    cosines, sines = model.model.rotary_emb(torch.zeros(1, dtype=torch.float32, device=device), places)
    return cosines[0].contiguous(), sines[0].contiguous()


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _join(parts: list[torch.nn.Parameter]) -> torch.Tensor:
    joined = torch.cat([part.data for part in parts])
    for part, view in zip(parts, joined.split([part.shape[0] for part in parts]), strict=True):  # type: ignore[no-untyped-call]
        part.data = view
    return joined
