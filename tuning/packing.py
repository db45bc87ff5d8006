"""Rows of a batch behind one another instead of beneath one another: nothing is computed for padding.

Every row keeps its own positions and sees itself only. Positions that start again tell transformers' masks where a row
begins; where the family's attention is SDPA, each row is attended to by itself instead, which needs no mask at all and
costs the sum of the squared lengths, not the square of their sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from core.errors import TsumugiError
from tuning.audits import audit_packing
from tuning.kinds import VIRTUAL_KINDS, AdapterKind
from tuning.rows import IGNORED

ATTENTION = "tsumugi_rows"
"""Name under which transformers knows the attention below."""
_WITHOUT_MASK = frozenset({"full_attention", "sliding_attention"})
_lengths: ContextVar[tuple[int, ...] | None] = ContextVar("row_lengths", default=None)


def pack_batch(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Collate rows of `input_ids` and `labels` into one sequence, shape (1, tokens), with `position_ids`.

    The first token of a row carries no loss: before it another row ends. `row_lengths`: (rows,), in order.
    """
    import numpy as np
    import torch

    labels = [np.array(row["labels"], dtype=np.int64) for row in rows]
    for one in labels:
        one[0] = IGNORED
    lengths = [len(one) for one in labels]
    ids = np.concatenate([np.asarray(row["input_ids"], dtype=np.int64) for row in rows])
    return {
        "row_lengths": torch.tensor(lengths),  # first: transformers takes the size of a batch from the first tensor
        "input_ids": torch.from_numpy(ids)[None],
        "labels": torch.from_numpy(np.concatenate(labels))[None],
        "position_ids": torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],
    }


def use_packing(trainer: Any, wanted: str, kind: AdapterKind) -> str | None:
    """Let an SFT trainer pack its batches, unless the audit of it fails; the reason why not, None where it does.

    wanted: `batch.packing` of the recipe.

    Raises:
        TsumugiError: `packed_loss_differs`, of a recipe that insists.
    """
    if wanted == "padded":
        return "the recipe says so"
    model = trainer.accelerator.unwrap_model(trainer.model)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    padding = trainer.data_collator
    by_row = False
    reason: str | None
    if kind in VIRTUAL_KINDS:
        reason = f"adapter '{kind}' puts trained tokens before every row, and a packed sequence has one beginning"
    elif trainer.args.gradient_checkpointing:
        reason = "layers compute again in the backward pass, where nothing says any more which rows a pack holds"
    elif any(weight.is_meta or hasattr(weight, "ds_id") for weight in base.parameters()):
        reason = "weights are spread over the processes when they are loaded, so packing cannot be audited"
    elif not (by_row := use_row_attention(base)) and wanted == "auto":
        reason = "the attention of this family needs a mask over the whole pack, which costs more than padding"
    else:
        trainer.data_collator = pack_batch
        reason = audit_packing(trainer, padding)
        if reason is None:
            return None
    trainer.data_collator = padding
    if by_row:
        base.set_attn_implementation("sdpa")
    if wanted == "packed":
        raise TsumugiError(f"rows cannot be packed: {reason}", code="packed_loss_differs")
    return reason


def use_row_attention(model: Any) -> bool:
    """Let the model attend row by row inside `rows_of`; False where its attention is not plain SDPA, which is left."""
    from transformers import AttentionInterface

    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or {"full_attention"})
    if config._attn_implementation != "sdpa" or not kinds <= _WITHOUT_MASK:
        return False
    AttentionInterface.register(ATTENTION, _attend_by_row)
    model.set_attn_implementation(ATTENTION)
    return True


@contextmanager
def rows_of(lengths: Sequence[int] | None) -> Iterator[None]:
    """The forward pass inside works on one sequence of rows this long; None: on rows beneath one another."""
    token = _lengths.set(None if lengths is None else tuple(lengths))
    try:
        yield
    finally:
        _lengths.reset(token)


def _attend_by_row(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Any, None]:
    """query, key, value: (rows, heads, tokens, width). The mask is always absent: this attention makes its own."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attend(*parts: Any) -> Any:
        length = parts[0].shape[2]
        mask = None
        if sliding_window is not None and length > sliding_window:
            ones = torch.ones(length, length, dtype=torch.bool, device=query.device)
            mask = (ones.tril() & ones.triu(1 - sliding_window))[None, None]
        return sdpa_attention_forward(module, *parts, mask, **more)[0]

    lengths = _lengths.get()
    if lengths is None:
        return attend(query, key, value), None
    rows = zip(*(part.split(list(lengths), dim=2) for part in (query, key, value)), strict=True)
    return torch.cat([attend(*row) for row in rows], dim=1), None
