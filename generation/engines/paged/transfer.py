"""Small numbers to the device and back without waiting for it.

A plain `torch.tensor(..., device="cuda")` or `.tolist()` waits until the device has done everything queued before,
which would undo the overlap of host and device that the decode loop lives from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def upload(values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.long) -> torch.Tensor:
    """A tensor of (nested) numbers on the device, copied behind what is queued there."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype).pin_memory().to(device, non_blocking=True)


class Download:
    """Numbers on their way from the device; `values` waits for them alone."""

    def __init__(self, source: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if source.is_cuda:
            self._numbers = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
            self._numbers.copy_(source, non_blocking=True)
            # Blocking: sleeping until the device is done leaves the processor to the threads that serve HTTP.
            self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._numbers = source.clone()

    def values(self) -> list[int]:
        """The numbers, once they are here."""
        if self._event is not None:
            self._event.synchronize()
        return self._numbers.tolist()
