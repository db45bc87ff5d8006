"""Draws of the next token on the device, from numbers that the host drew.

Each row brings one uniform number per token from its own seeded source, so that a draw depends on the row alone and
nothing has to come back from the device before the next step starts.
"""

from __future__ import annotations

import torch


def draw(logits: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Token per row by inverse distribution: (rows,).

    logits: (rows, vocabulary). temperature > 0, top_p, uniform in [0, 1): (rows,). Kept is the smallest set of tokens
    whose probability reaches top_p; the best one always is.
    """
    scores = torch.softmax(logits.float() / temperature[:, None], dim=-1)
    ordered, places = scores.sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p[:, None], 0.0)
    reached = ordered.cumsum(-1)
    index = torch.searchsorted(reached, uniform[:, None] * reached[:, -1:], right=True)
    last = (ordered > 0).sum(-1, keepdim=True) - 1
    return places.gather(1, torch.minimum(index, last))[:, 0]
