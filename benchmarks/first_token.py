"""A clock for plain `transformers.generate`, which does not say when its tokens come."""

from __future__ import annotations

from time import perf_counter
from typing import Any


class FirstToken:
    """A streamer that only looks at the clock: the first call is the prompt, the second the first token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _value: Any) -> None:
        """Called with each token."""
        self.times.append(perf_counter())

    def end(self) -> None:
        """Called at the end."""
