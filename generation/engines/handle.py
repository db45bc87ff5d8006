"""A running generation as its caller sees it. The engine's thread writes, any other thread reads or cancels."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

from core.types import AdapterRef, GenerationResult


class StreamHandle:
    """Text pieces through a queue, then the result or the error, once."""

    def __init__(self, adapter: AdapterRef | None, prompt_tokens: int, on_cancel: Callable[[], None]) -> None:
        self._adapter = adapter
        self._prompt_tokens = prompt_tokens
        self._on_cancel = on_cancel
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._parts: list[str] = []
        self._finished = threading.Event()
        self._result: GenerationResult | None = None
        self._error: BaseException | None = None
        self.cancelled = False
        self.first_token_at: float | None = None
        """`time.perf_counter()` when the first token was chosen, whether or not it made text yet."""

    def __iter__(self) -> Iterator[str]:
        """Yield pieces until the end; raises what ended the generation if it failed."""
        while (piece := self._pieces.get()) is not None:
            yield piece
        self._pieces.put(None)  # a second iteration ends at once
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Ask the engine to free the row; safe from any thread, twice, and after the end."""
        self.cancelled = True
        self._on_cancel()

    def result(self) -> GenerationResult:
        """Block until finished."""
        self._finished.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def push(self, piece: str) -> None:
        """Engine side: a token was made; hand over the text that became certain with it, if any."""
        if self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        if piece:
            self._parts.append(piece)
            self._pieces.put(piece)

    def finish(self, reason: str, completion_tokens: int, *, prompt_tokens: int | None = None) -> None:
        """Engine side: the end. The text of the result is what was streamed, to the character."""
        self._result = GenerationResult(
            text="".join(self._parts),
            finish_reason=reason,
            prompt_tokens=self._prompt_tokens if prompt_tokens is None else prompt_tokens,
            completion_tokens=completion_tokens,
            adapter=self._adapter,
        )
        self._end()

    def fail(self, error: BaseException) -> None:
        """Engine side: the end, by an error."""
        self._error = error
        self._end()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._finished.is_set()

    def _end(self) -> None:
        self._finished.set()
        self._pieces.put(None)
