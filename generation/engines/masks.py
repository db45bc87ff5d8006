"""What a token may see: columns up to its own, and in layers with a sliding window only the last of those.

transformers makes masks itself where all rows of a pass are alike. Rows of different lengths, and pieces of a prompt,
need masks made here, and transformers takes a mask of four dimensions as it is: with the window left out, a model
would see further than it was trained to, without an error.
"""

from __future__ import annotations

from typing import Any

import torch

from core.errors import Unavailable

_KINDS = frozenset({"full_attention", "sliding_attention"})

Mask = torch.Tensor | dict[str, torch.Tensor] | None
"""Of all layers, or by kind of layer."""


class Masks:
    """Masks in the form that one model takes."""

    def __init__(self, model: Any) -> None:
        """Raises:
        Unavailable: `generator_misconfigured`: the model has layers whose state is not keys and values by column.
        """
        config = model.config
        kinds = set(getattr(config, "layer_types", None) or ())
        if kinds - _KINDS:
            raise Unavailable(
                f"layers of kind {', '.join(sorted(kinds - _KINDS))} are not served in this process; use an endpoint",
                code="generator_misconfigured",
                retryable=False,
            )
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        self._window = int(window) if window and (not kinds or "sliding_attention" in kinds) else None
        self._by_kind = bool(kinds)
        self._added = getattr(config, "_attn_implementation", "") == "eager"
        """Whether the attention adds the mask to its scores instead of choosing by it."""
        self._dtype = model.dtype

    def make(self, positions: torch.Tensor, length: int) -> Mask:
        """positions: (rows, queries) columns of the new tokens. length: columns that are read.

        Masks are (rows, 1, queries, length).
        """
        columns = torch.arange(length, device=positions.device)
        seen = (columns <= positions[..., None])[:, None]
        if self._window is None or length <= self._window:
            return self._form(seen)
        near = seen & (columns > positions[..., None] - self._window)[:, None]
        if not self._by_kind:
            return self._form(near)
        return {"full_attention": self._form(seen), "sliding_attention": self._form(near)}

    def _form(self, seen: torch.Tensor) -> torch.Tensor:
        if not self._added:
            return seen
        hidden = torch.finfo(self._dtype).min
        return torch.zeros(seen.shape, dtype=self._dtype, device=seen.device).masked_fill_(~seen, hidden)
