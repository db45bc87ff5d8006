"""Decode steps recorded as CUDA graphs, one per number of rows (rounded up) and with or without adapters.

A step of a model with 32 layers is several hundred launches, which take longer to issue than to run; a recorded step is
one. What a recording reads, the seats and their state, lives at fixed addresses, so rows and adapters come and go
without a new recording; only larger adapter stacks need one.
"""

from __future__ import annotations

import torch

from generation.engines.paged.decoder import PagedDecoder
from generation.engines.paged.transfer import upload

_SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256)


class DecodeSteps:
    """Runs decode steps of a decoder, recorded where there is a GPU."""

    def __init__(self, decoder: PagedDecoder) -> None:
        self._decoder = decoder
        self._recorded: dict[tuple[int, bool], tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]] = {}
        self._layout = 0
        self._records = decoder.device.type == "cuda"
        most = decoder.padding
        self.sizes = sorted({*(size for size in _SIZES if size < most), most})
        self._seats = torch.full((most,), decoder.padding, dtype=torch.long, device=decoder.device)
        self._seated: list[int] = []
        if self._records:
            self._stream = torch.cuda.Stream(decoder.device)  # type: ignore[no-untyped-call]
            self._memory = torch.cuda.graph_pool_handle()

    def run(self, seats: list[int], *, adapted: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of these seats: their best next tokens and logits, valid until the next step."""
        count = len(seats)
        size = next(size for size in self.sizes if size >= count)
        padded = seats + [self._decoder.padding] * (size - count) if self._records else seats
        if padded != self._seated:
            self._seats[: len(padded)].copy_(upload(padded, self._decoder.device), non_blocking=True)
            self._seated = padded
        if not self._records:
            return self._decoder.decode(self._seats[:count], adapted=adapted)
        graph, best, logits = self._recording(size, adapted)
        graph.replay()
        return best[:count], logits[:count]

    @torch.inference_mode()
    def record_all(self, *, adapted: bool) -> None:
        """Record every size now, so that no request waits for it: about 60 ms each for an 8B model."""
        if self._records:
            for size in reversed(self.sizes):
                self._recording(size, adapted)

    def _recording(self, size: int, adapted: bool) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
        if adapted and self._layout != self._decoder.slots.layout:
            self._recorded = {key: step for key, step in self._recorded.items() if not key[1]}
            self._layout = self._decoder.slots.layout
        if (size, adapted) not in self._recorded:
            self._recorded[size, adapted] = self._record(size, adapted)
        return self._recorded[size, adapted]

    def _record(self, size: int, adapted: bool) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
        """Record a step of the padding seat alone, whose state may change at will."""
        current = torch.cuda.current_stream()
        kept = self._seats.clone()
        self._seats.fill_(self._decoder.padding)
        seats = self._seats[:size]
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):  # once for real: compiles kernels, lets cuBLAS take its memory
            self._decoder.decode(seats, adapted=adapted)
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are recorded or checked: others, such as an embedder, may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"):
            best, logits = self._decoder.decode(seats, adapted=adapted)
        current.wait_stream(self._stream)
        self._seats.copy_(kept)
        return graph, best, logits
