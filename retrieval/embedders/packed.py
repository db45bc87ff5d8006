"""The forward pass of BERT and XLM-RoBERTa over packed sequences: one row per token, none for padding.

A batch of 65,536 tokens of mixed length is one matrix for every linear layer; only attention knows where sequences end.
On Ampere and newer that is PyTorch's own variable-length flash kernel, in bf16 on a CPU `cpu_attention`; elsewhere, and
in fp32, sequences are padded for the attention alone. Weights are those of a transformers model and the arithmetic is
its arithmetic: the tests compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval.embedders import cpu_attention


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences laid end to end, on the device of the model. All tensors are int64 but `borders`, which is int32."""

    ids: Tensor
    """(tokens,)"""
    positions: Tensor
    """(tokens,) place of each token in its sequence, from 0."""
    rows: Tensor
    """(tokens,) number of each token's sequence."""
    borders: Tensor
    """(sequences + 1,) where each sequence starts; the last is the number of tokens."""
    longest: int


def pack(sequences: Sequence[Sequence[int]], device: torch.device) -> PackedBatch:
    """Lay sequences of token ids end to end. Nothing waits for the device: copies are asynchronous."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    ids = torch.tensor([token for sequence in sequences for token in sequence])
    borders = torch.zeros(len(sequences) + 1, dtype=torch.int32)
    borders[1:] = lengths.cumsum(0)
    rows = torch.repeat_interleave(torch.arange(len(sequences)), lengths)
    positions = torch.arange(len(ids)) - borders[:-1].long()[rows]
    return PackedBatch(
        _move(ids, device), _move(positions, device), _move(rows, device), _move(borders, device), int(lengths.max())
    )


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class PackedEncoder:
    """A loaded BERT or XLM-RoBERTa without its pooler. Weights are read at construction; Q, K, V become one matrix."""

    def __init__(self, model: Any, *, compiled: bool = False) -> None:
        """model: transformers' `BertModel` or `XLMRobertaModel` on its device, in its dtype.

        compiled: let torch.compile fuse what lies between the matrix products; half a minute at the first batch.

        Raises:
            ValueError: its configuration asks for something this pass does not do.
        """
        config = model.config
        if config.model_type not in {"bert", "xlm-roberta", "roberta"}:
            raise ValueError(f"a model of type '{config.model_type}' is neither a BERT nor an XLM-RoBERTa")
        if config.hidden_act != "gelu" or getattr(config, "position_embedding_type", None) not in {None, "absolute"}:
            raise ValueError("only exact GELU and absolute positions are known here")
        embeddings = model.embeddings
        self.device: torch.device = embeddings.word_embeddings.weight.device
        self.dtype: torch.dtype = embeddings.word_embeddings.weight.dtype
        self.hidden_size = int(config.hidden_size)
        self._heads = int(config.num_attention_heads)
        self._eps = float(config.layer_norm_eps)
        self._words = embeddings.word_embeddings.weight.detach()
        self._positions = embeddings.position_embeddings.weight.detach()
        self._first_position = 0 if config.model_type == "bert" else int(config.pad_token_id) + 1
        self.max_length = int(config.max_position_embeddings) - self._first_position
        """Longest sequence the positions allow."""
        self._kind = embeddings.token_type_embeddings.weight[0].detach()
        self._norm = _norm_of(embeddings.LayerNorm)
        self._layers = [_layer_of(layer) for layer in model.encoder.layer]
        self._flash = _has_flash(self.device, self.dtype, self.hidden_size // self._heads)
        self._project: Any = _project
        self._close: Any = _close
        self._compiled = compiled
        if compiled:
            self._project = torch.compile(_project)
            self._close = torch.compile(_close)

    @torch.inference_mode()
    def forward(self, batch: PackedBatch) -> Tensor:
        """Last hidden state, (tokens, hidden_size), in the order of `batch.ids`."""
        hidden = self._words[batch.ids] + self._kind + self._positions[batch.positions + self._first_position]
        hidden = F.layer_norm(hidden, (self.hidden_size,), *self._norm, self._eps)
        groups = cpu_attention.groups_of(batch.borders.tolist()) if self._on_cpu(batch) else None
        for qkv, out, norm, up, down, last in self._layers:
            projected = self._project(self._any_length(hidden), *qkv).view(len(hidden), 3, self._heads, -1)
            attended = self._any_length(self._attend(projected, batch, groups).reshape(len(hidden), -1))
            hidden = self._close(attended, self._any_length(hidden), *out, *norm, *up, *down, *last, self._eps)
        return cast("Tensor", hidden)

    def matrices(self) -> list[Tensor]:
        """Weights of all linear layers, (out, in) each."""
        return [weight for layer in self._layers for weight, _ in layer if weight.dim() == 2]

    def _any_length(self, rows: Tensor) -> Tensor:
        """Tell the compiler that the number of tokens changes, and that no other size does."""
        if self._compiled:
            torch._dynamo.maybe_mark_dynamic(rows, 0)
        return rows

    def _on_cpu(self, batch: PackedBatch) -> bool:
        return self.device.type == "cpu" and self.dtype is torch.bfloat16 and batch.longest <= cpu_attention.LONGEST

    def _attend(self, projected: Tensor, batch: PackedBatch, groups: list[cpu_attention.Group] | None) -> Tensor:
        """Attention within each sequence: (tokens, 3, heads, size) to (tokens, heads, size)."""
        query, key, value = projected.unbind(1)
        if self._flash:
            from torch.nn.attention.varlen import varlen_attn

            attended: Any = varlen_attn(query, key, value, batch.borders, batch.borders, batch.longest, batch.longest)
            return cast("Tensor", attended)
        if groups is not None:
            return cpu_attention.attend(projected, groups)
        count = len(batch.borders) - 1
        padded = projected.new_zeros(count, batch.longest, *projected.shape[1:])
        padded[batch.rows, batch.positions] = projected
        mask = torch.zeros(count, batch.longest, dtype=torch.bool, device=self.device)
        mask[batch.rows, batch.positions] = True
        query, key, value = (part.transpose(1, 2) for part in padded.unbind(2))
        result = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        return result.transpose(1, 2)[batch.rows, batch.positions]


def _project(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(hidden, weight, bias)


def _close(
    attended: Tensor,
    hidden: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    last_weight: Tensor,
    last_bias: Tensor,
    eps: float,
) -> Tensor:
    """The layer from the attention's output on: projection, residual, norm, feed-forward, residual, norm."""
    size = (hidden.shape[-1],)
    hidden = F.layer_norm(F.linear(attended, out_weight, out_bias) + hidden, size, norm_weight, norm_bias, eps)
    inner = F.linear(F.gelu(F.linear(hidden, up_weight, up_bias)), down_weight, down_bias)
    return F.layer_norm(inner + hidden, size, last_weight, last_bias, eps)


Pair = tuple[Tensor, Tensor]


def _layer_of(layer: Any) -> tuple[Pair, Pair, Pair, Pair, Pair, Pair]:
    attention = layer.attention
    inputs = (attention.self.query, attention.self.key, attention.self.value)
    qkv = (
        torch.cat([linear.weight.detach() for linear in inputs]),
        torch.cat([linear.bias.detach() for linear in inputs]),
    )
    return (
        qkv,
        _norm_of(attention.output.dense),
        _norm_of(attention.output.LayerNorm),
        _norm_of(layer.intermediate.dense),
        _norm_of(layer.output.dense),
        _norm_of(layer.output.LayerNorm),
    )


def _norm_of(module: Any) -> Pair:
    return module.weight.detach(), module.bias.detach()


def _has_flash(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    if device.type != "cuda" or dtype not in {torch.bfloat16, torch.float16} or head_size % 8 or head_size > 256:
        return False
    if torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] < 8:
        return False
    return find_spec("torch.nn.attention.varlen") is not None  # since torch 2.10
