"""Checks of the loss itself, on a few short rows, before the first step: of the very loss that will be trained.

So they come last, when every faster form of a layer is in its place, in training mode, and with factors that are zero
at the start filled for as long as they last: in evaluation mode, or beside idle factors, a wrong loss passes.

The loss of rows together must be that of the rows one by one, weighted by their tokens. It is not where rows see each
other (padding or packing that attention does not keep out), where a part's mean is averaged over parts of unequal size
(gradient accumulation), or where a mask marks other tokens than it should.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core.errors import TsumugiError

ROWS = 3
"""Shortest rows of the set: forward passes of a second at most."""
_ACTING = 0.02
"""Of factors that are zero at the start: as large as they become within the first steps."""
TOLERANCE_FLOAT32 = 1e-4
TOLERANCE_BFLOAT16 = 3e-2
"""A product over another number of rows rounds otherwise."""
TOLERANCE_NEIGHBOURS = 1e-3
"""Of the same shapes the same roundings; experts group their tokens otherwise."""


def audit_loss(trainer: Any) -> None:
    """Compare the loss of rows together, and in parts as accumulation takes them, with that of each alone.

    Raises:
        TsumugiError: `loss_not_invariant`.
    """
    import torch

    if trainer.accelerator.num_processes > 1:
        return  # losses are scaled for the mean over processes, differently in TRL's and in our trainers
    rows = _shortest(trainer)
    if len(rows) < 2:
        return
    batches = [trainer.data_collator([row]) for row in rows]
    counts = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
    whole = torch.tensor(sum(counts), device=trainer.args.device)
    with _judged(trainer), torch.no_grad():
        together = _loss(trainer, trainer.data_collator(rows), whole)
        parts = sum(_loss(trainer, batch, whole) for batch in batches)
        alone = sum(_loss(trainer, batch, None) * count for batch, count in zip(batches, counts, strict=True))
    expected = alone / float(whole)
    tolerance = TOLERANCE_BFLOAT16 if trainer.args.bf16 else TOLERANCE_FLOAT32
    for name, found in (
        ("together in a batch", together),
        ("in parts of a step", parts),
    ):
        if not abs(found - expected) <= tolerance * max(1.0, abs(expected)):
            raise TsumugiError(
                f"the loss of {len(rows)} rows {name} is {found:.5f}, but {expected:.5f} one by one: rows see each "
                "other, or the loss depends on how a step is cut into parts",
                code="loss_not_invariant",
            )


def audit_packing(trainer: Any, padding: Any) -> str | None:
    """Why rows packed by the trainer's collator are not trained on as rows apart are; None where they are.

    padding: the collator of rows beneath one another. Two things are compared: the loss of a pack with that of each row
    alone, and the loss of its last row with that of the same row behind other tokens. The second is exact, since
    nothing but the neighbours changes: attention that leaks a little is found in any precision.
    """
    import torch

    rows = _shortest(trainer)
    if len(rows) < 2:
        return None
    counts = [int((padding([row])["labels"][:, 1:] != -100).sum()) for row in rows]
    whole = torch.tensor(sum(counts), device=trainer.args.device)
    pack = trainer.data_collator(rows)
    before = sum(len(row["input_ids"]) for row in rows[:-1])
    last = {**pack, "labels": pack["labels"].clone()}
    last["labels"][:, :before] = -100
    other = {**last, "input_ids": last["input_ids"].clone()}
    other["input_ids"][:, :before] = other["input_ids"][:, :before].flip(1)
    with _judged(trainer), torch.no_grad():
        packed = _loss(trainer, pack, whole)
        apart = sum(_loss(trainer, padding([row]), whole) for row in rows)
        beside = [_loss(trainer, batch, None) for batch in (last, other)]
    tolerance = TOLERANCE_BFLOAT16 if trainer.args.bf16 else TOLERANCE_FLOAT32
    if not abs(packed - apart) <= tolerance * max(1.0, abs(apart)):
        return f"the loss of {len(rows)} packed rows is {packed:.5f}, but {apart:.5f} apart"
    if not abs(beside[0] - beside[1]) <= TOLERANCE_NEIGHBOURS * max(1.0, abs(beside[0])):
        return f"the loss of a packed row is {beside[0]:.5f}, but {beside[1]:.5f} behind other rows"
    return None


def _shortest(trainer: Any) -> list[Any]:
    dataset = trainer.train_dataset
    lengths = [len(dataset[at]["input_ids"]) for at in range(min(len(dataset), 256))]
    return [dataset[at] for at in sorted(range(len(lengths)), key=lengths.__getitem__)[:ROWS]]


@contextmanager
def _judged(trainer: Any) -> Iterator[None]:
    """In training mode without dropout, every factor acting, and without a trace in the trainer's own counts."""
    import torch

    model = trainer.model
    was_training, tokens = model.training, trainer._total_train_tokens
    model.train()
    dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    attentions = [module for module in model.modules() if getattr(module, "attention_dropout", 0.0)]
    shares = [module.attention_dropout for module in attentions]
    idle = [p for p in model.parameters() if p.requires_grad and not p.any()]
    generator = torch.Generator().manual_seed(1)
    for dropout in dropouts:
        dropout.eval()
    for attention in attentions:
        attention.attention_dropout = 0.0
    with torch.no_grad():
        for parameter in idle:
            parameter.copy_(_ACTING * torch.randn(parameter.shape, generator=generator))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter in idle:
                parameter.zero_()
        for attention, share in zip(attentions, shares, strict=True):
            attention.attention_dropout = share
        model.train(was_training)
        for counts in trainer._metrics.values():
            counts.clear()
        trainer._total_train_tokens = tokens
        if hasattr(trainer, "_seen"):
            trainer._seen = None


def _loss(trainer: Any, batch: Any, count: Any) -> float:
    inputs = trainer._prepare_inputs(dict(batch))
    with trainer.compute_loss_context_manager():
        return float(trainer.compute_loss(trainer.model, inputs, num_items_in_batch=count))
