"""Batches by token budget: texts of like length go together, and results come back in the order of the texts."""

from __future__ import annotations

from collections.abc import Sequence


def by_tokens(lengths: Sequence[int], budget: int, *, padded: bool = True) -> list[list[int]]:
    """Positions grouped by similar length, shortest first; each group holds at most `budget` tokens, or one text.

    padded: count each text as long as the longest of its group, as a padded matrix does.
    """
    batches: list[list[int]] = []
    total = 0
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[position]
        grown = (len(batches[-1]) + 1) * length if padded and batches else total + length
        if batches and grown <= budget:
            batches[-1].append(position)
            total += length
        else:
            batches.append([position])
            total = length
    return batches
