"""Which rows make up which batch, and how many optimiser steps that is: said here, once, for every method."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from tuning.recipe_parts import BatchRecipe

_MOST_ROWS = 256
_LOOKED_AT = 32
"""Passes whose batches are counted beforehand; the count differs by one or two from pass to pass."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """order: in which rows are trained on, where that matters. batches: of this process, None for even ones."""

    steps: int
    order: LengthOrder | None = None
    batches: EpochBatches | None = None


class LengthOrder:
    """Rows in batches of like length, drawn anew for each pass over them: a sampler of torch."""

    def __init__(self, lengths: Sequence[int], batch_rows: int, *, seed: int) -> None:
        """See `order_by_length`."""
        self._draw = partial(order_by_length, lengths, batch_rows)
        self._rows = len(lengths)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Which pass is drawn next, counted from 0; the trainer says it also when it goes on from a checkpoint."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(self._draw(seed=self._seed + self._epoch))

    def __len__(self) -> int:
        return self._rows


def in_order(trainer: type[Any], order: LengthOrder | None) -> type[Any]:
    """A trainer class of transformers whose rows come in that order; the class itself where there is none."""
    if order is None:
        return trainer

    class InOrder(trainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return order

    return InOrder


class EpochBatches:
    """The batches of one process, drawn anew for each pass over the rows: a batch sampler of torch.

    Every pass has as many, that of the pass with the fewest, so that a resumed training finds its place; what is left
    out differs from pass to pass.
    """

    def __init__(
        self, lengths: Sequence[int], budget: int, *, passes: int, processes: int, rank: int, seed: int
    ) -> None:
        """See `batches_by_tokens`."""
        self._draw = partial(batches_by_tokens, lengths, budget, processes=processes, rank=rank)
        self._seed = seed
        self._epoch = 0
        self._count = min(len(self._draw(seed=seed + epoch)) for epoch in range(passes))

    def set_epoch(self, epoch: int) -> None:
        """Which pass is drawn next, counted from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._draw(seed=self._seed + self._epoch)[: self._count])

    def __len__(self) -> int:
        return self._count


def plan_batches(
    batch: BatchRecipe, lengths: Sequence[int], *, by_tokens: bool, processes: int, rank: int, seed: int
) -> BatchPlan:
    """Batches and steps of one process.

    lengths: tokens of each row. by_tokens: `batch.tokens` bounds a part instead of `batch.rows`.
    """
    if by_tokens and batch.tokens is not None:
        passes = min(math.ceil(batch.epochs), _LOOKED_AT)
        batches = EpochBatches(lengths, batch.tokens, passes=passes, processes=processes, rank=rank, seed=seed)
        return BatchPlan(_steps(batch, -(-len(batches) // batch.accumulation)), batches=batches)
    per_pass = -(-len(lengths) // (batch.rows * processes))
    if not batch.group_by_length:
        return BatchPlan(_steps(batch, per_pass))
    # Processes of one step get rows of like length too: the step lasts as long as its longest part.
    return BatchPlan(_steps(batch, per_pass), order=LengthOrder(lengths, batch.rows * processes, seed=seed))


def _steps(batch: BatchRecipe, per_pass: int) -> int:
    """What the passes give, or `max_steps` where that is fewer."""
    return max(1, min(round(per_pass * batch.epochs), batch.max_steps or sys.maxsize))


def batches_by_tokens(lengths: Sequence[int], budget: int, *, processes: int, rank: int, seed: int) -> list[list[int]]:
    """Row numbers of each batch of process `rank`: rows of like length, rows times the longest within `budget`.

    All processes get as many batches, and those of one step are of like length, since a step lasts as long as its
    longest part. Lengths are jittered by a tenth before sorting, so the same rows do not always meet; up to one batch
    a process of the longest rows is left out.
    """
    random = Random(seed)
    ranked = sorted(range(len(lengths)), key=lambda row: lengths[row] * random.uniform(0.95, 1.05))
    batches: list[list[int]] = [[]]
    longest = 0
    for row in ranked:
        longest = max(longest, lengths[row])
        if batches[-1] and (longest * (len(batches[-1]) + 1) > budget or len(batches[-1]) == _MOST_ROWS):
            batches.append([])
            longest = lengths[row]
        batches[-1].append(row)
    steps = [batches[at : at + processes] for at in range(0, len(batches) - processes + 1, processes)]
    random.shuffle(steps)
    return [step[rank] for step in steps]


def order_by_length(lengths: Sequence[int], batch_rows: int, *, seed: int) -> list[int]:
    """Row numbers in batches of like length, batches in random order; an incomplete batch goes last.

    Lengths are jittered by a tenth before sorting, so the same rows do not always meet.
    """
    random = Random(seed)
    ranked = sorted(range(len(lengths)), key=lambda row: lengths[row] * random.uniform(0.95, 1.05))
    batches = [ranked[start : start + batch_rows] for start in range(0, len(ranked), batch_rows)]
    rest = batches.pop() if len(batches[-1]) < batch_rows else []
    random.shuffle(batches)
    return [row for batch in batches for row in batch] + rest
