"""Attention of packed sequences in bf16 on a CPU: two batched products and an exponential.

PyTorch's own attention calls one small product per head and block, and in bf16 that is slower than in fp32: a third of
an embedding pass for a twelfth of its arithmetic. Here sequences of like length are padded to one, and a padded key is
left out without a mask: its value and its share of the sum are zero. A softmax takes its greatest score off first, for
the exponential's range; here scores are bounded instead. The sum is the product with a column of ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LONGEST = 512
"""Tokens of a sequence whose scores, of all heads and of all like it, still are a small matrix."""
_LIKE = 64
"""Lengths that differ by less may go together: more groups are more small operations."""
_WIDTH_STEP = 16
"""Few widths are few shapes, and each new one has its kernel generated."""
_CAP = 80.0
"""exp(80) times `LONGEST` and exp(-80) are within bf16's range; a trained model's scores stay far from both."""


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring sequences of like length, as they stand in a batch and in a padded matrix."""

    first: int
    last: int
    """Their tokens in the batch."""
    count: int
    width: int
    place: Tensor
    """(tokens,) where each of them stands among count * width."""


def groups_of(borders: Sequence[int]) -> list[Group]:
    """borders: where each sequence starts, and the number of tokens. Sorted by length, they make the fewest groups."""
    spans = itertools.pairwise(borders)
    alike = itertools.groupby(spans, key=lambda span: -(-(span[1] - span[0]) // _LIKE))
    return [_group(list(members)) for _, members in alike]


def _group(spans: Sequence[tuple[int, int]]) -> Group:
    lengths = [end - start for start, end in spans]
    width = -(-max(lengths) // _WIDTH_STEP) * _WIDTH_STEP
    place = torch.cat([torch.arange(length) + width * at for at, length in enumerate(lengths)])
    return Group(spans[0][0], spans[-1][1], len(spans), width, place)


def attend(projected: Tensor, groups: Sequence[Group]) -> Tensor:
    """Attention within each sequence, in bf16: queries, keys and values, (tokens, 3, heads, size).

    Returns (tokens, heads, size). groups: of the batch's sequences, all of them in order.
    """
    return torch.cat([_attend_alike(projected[group.first : group.last], group) for group in groups])


def _attend_alike(projected: Tensor, group: Group) -> Tensor:
    _, _, heads, size = projected.shape
    rows = group.count * group.width
    padded = projected.new_zeros(rows, 3, heads, size).index_copy_(0, group.place, projected)
    query, key, value = padded.view(group.count, group.width, 3, heads, size).permute(2, 0, 3, 1, 4)
    present = projected.new_zeros(rows).index_fill_(0, group.place, 1)
    shares = present.view(group.count, 1, group.width, 1).expand(group.count, heads, group.width, 1)
    value = torch.cat([value, shares], dim=-1).flatten(0, 1)
    scores = torch.baddbmm(
        projected.new_zeros(1), query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), beta=0, alpha=size**-0.5
    )
    summed = torch.bmm(scores.clamp_(-_CAP, _CAP).exp_(), value)
    result = (summed[..., :size] / summed[..., size:]).view(group.count, heads, group.width, size)
    return result.transpose(1, 2).reshape(rows, heads, size).index_select(0, group.place)
