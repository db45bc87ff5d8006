"""An engine that says given words at the pace of a GPU: what is left of a measurement is the service around it.

The pace is that of `docs/gpu.md`: prompts are read one after the other, and each decode step gives one token to every
running row. It sleeps where a GPU would compute, as the real engine's thread sleeps while it waits for the device.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import Unavailable
from core.types import AdapterRef, GenerationRequest
from generation.engines.handle import StreamHandle


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a GPU."""

    prompt_s: float = 0.026
    """Reading one prompt of 1,024 tokens."""
    step_s: float = 0.0078
    """One token of all running rows."""


@dataclass(slots=True)
class _Row:
    request: GenerationRequest
    handle: StreamHandle
    made: int = 0


class PacedEngine:
    """`core.ports.Engine` without a model."""

    def __init__(self, base_model: str, words: Sequence[str], pace: Pace, *, max_queue: int = 1024) -> None:
        self.base_model = base_model
        self._words = words
        self._pace = pace
        self._max_queue = max_queue
        self._queue: deque[_Row] = deque()
        self._rows: list[_Row] = []
        self._lock = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="paced", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> StreamHandle:
        """Queue a generation."""
        handle = StreamHandle(request.adapter, self.count_prompt_tokens(request.messages), lambda: None)
        with self._lock:
            if self._stopping:
                raise Unavailable("the generator has stopped", code="engine_stopped")
            if len(self._queue) >= self._max_queue:
                raise Unavailable("too many wait", code="queue_full")
            self._queue.append(_Row(request, handle))
            self._lock.notify()
        return handle

    def _run(self) -> None:
        while True:
            with self._lock:
                while not (self._queue or self._rows or self._stopping):
                    self._lock.wait()
                if self._stopping:
                    return
                newcomer = self._queue.popleft() if self._queue else None
            running = list(self._rows)
            if newcomer is not None:
                time.sleep(self._pace.prompt_s)
                self._rows.append(newcomer)
                self._say(newcomer)
            if running:
                time.sleep(self._pace.step_s)
                for row in running:
                    self._say(row)
            self._rows = [row for row in self._rows if not row.handle.done]

    def _say(self, row: _Row) -> None:
        if row.handle.cancelled:
            row.handle.finish("cancelled", row.made)
            return
        row.handle.push(self._words[row.made % len(self._words)])
        row.made += 1
        if row.made >= row.request.max_tokens:
            row.handle.finish("length", row.made)

    def ensure_adapter(self, adapter: AdapterRef) -> None:
        """Every adapter is there."""

    def retire_adapter(self, adapter: AdapterRef) -> None:
        """Nothing to unload."""

    def hold_adapters(self, adapters: Sequence[AdapterRef]) -> None:
        """Nothing to hold."""

    def loaded_adapters(self) -> Sequence[str]:
        """None by name."""
        return ()

    def count_prompt_tokens(self, messages: Sequence[object]) -> int:
        """A quarter of the characters, as of English text."""
        return sum(len(getattr(message, "content", "")) for message in messages) // 4

    def ping(self) -> str:
        """The base."""
        return self.base_model

    def close(self) -> None:
        """End the thread; running rows end with an error."""
        with self._lock:
            self._stopping = True
            self._lock.notify()
        self._thread.join()
        for row in [*self._rows, *self._queue]:
            row.handle.fail(Unavailable("the generator has stopped", code="engine_stopped"))
