"""How long the steps of one search take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

STEPS = ("filter", "embed", "index", "bridge", "fuse", "load", "rerank", "diversify", "expand", "editions")


class Clock:
    """Adds up wall-clock milliseconds by step."""

    def __init__(self) -> None:
        self._began = perf_counter()
        self._spent = dict.fromkeys(STEPS, 0.0)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count what is inside the block."""
        began = perf_counter()
        try:
            yield
        finally:
            self._spent[name] += (perf_counter() - began) * 1000

    def finish(self) -> dict[str, float]:
        """Milliseconds by step, and in all."""
        spent = {name: round(value, 3) for name, value in self._spent.items()}
        return spent | {"total": round((perf_counter() - self._began) * 1000, 3)}
