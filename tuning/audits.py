"""Checks of the loss itself, on a few short rows, before the first step.

The loss of rows together must be that of the rows one by one, weighted by their tokens. It is not where rows see each
other (padding or packing that attention does not keep out), where a part's mean is averaged over parts of unequal size
(gradient accumulation), or where a mask marks other tokens than it should.
"""

from __future__ import annotations

from typing import Any

from core.errors import TsumugiError

ROWS = 3
"""Shortest rows of the set: forward passes of a second at most."""
TOLERANCE_FLOAT32 = 1e-4
TOLERANCE_BFLOAT16 = 3e-2
"""A product over another number of rows rounds otherwise."""


def audit_loss(trainer: Any) -> None:
    """Compare the loss of rows together, and in parts as accumulation takes them, with that of each alone.

    Raises:
        TsumugiError: `loss_not_invariant`.
    """
    import torch

    if trainer.accelerator.num_processes > 1:
        return  # losses are scaled for the mean over processes, differently in TRL's and in our trainers
    dataset = trainer.train_dataset
    lengths = [len(dataset[at]["input_ids"]) for at in range(min(len(dataset), 256))]
    chosen = sorted(range(len(lengths)), key=lengths.__getitem__)[:ROWS]
    if len(chosen) < 2:
        return
    rows = [dataset[at] for at in chosen]
    batches = [trainer.data_collator([row]) for row in rows]
    counts = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
    whole = torch.tensor(sum(counts), device=trainer.args.device)
    was_training = trainer.model.training
    trainer.model.eval()
    try:
        with torch.no_grad():
            together = _loss(trainer, trainer.data_collator(rows), whole)
            parts = sum(_loss(trainer, batch, whole) for batch in batches)
            alone = sum(_loss(trainer, batch, None) * count for batch, count in zip(batches, counts, strict=True))
    finally:
        trainer.model.train(was_training)
        trainer._metrics["eval"].clear()
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


def _loss(trainer: Any, batch: Any, count: Any) -> float:
    inputs = trainer._prepare_inputs(dict(batch))
    with trainer.compute_loss_context_manager():
        return float(trainer.compute_loss(trainer.model, inputs, num_items_in_batch=count))
