"""Where the seconds of the paged decode loop go: prompts, decode steps and draws on the device; work and waits beside.

The device's seconds are taken by events in its own queue, so measuring does not make the host wait. A phase that takes
the device as long as it takes the host to issue it is bound by the host: the events lie as far apart as the launches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Any

import torch

from generation.engines.paged import transfer
from generation.engines.transformers_engine import TransformersEngine

PHASES = ("prefill", "decode", "sampling")


@dataclass(slots=True)
class _Phase:
    """Calls of one kind: seconds that the host took to issue them, and marks before and after in the device's queue."""

    host_s: float = 0.0
    marks: list[tuple[Any, Any]] = field(default_factory=list)


class Phases:
    """Watches an engine with the paged loop while the context lasts."""

    def __init__(self, engine: TransformersEngine, device: torch.device) -> None:
        self._batch: Any = engine._batch
        self._device = device
        self._phases = {name: _Phase() for name in PHASES}
        self._tokens = 0
        self._round_s = self._wait_s = self._began = self._ended = 0.0
        self._values = transfer.Download.values

    def __enter__(self) -> Phases:
        batch = self._batch
        self._patched = [
            (batch._decoder, "prefill", self._phase("prefill", batch._decoder.prefill)),
            (batch._steps, "run", self._phase("decode", batch._steps.run)),
            (batch, "_launch", self._phase("sampling", batch._launch)),
            (batch, "step", self._timed("_round_s", batch.step)),
        ]
        for owner, name, function in self._patched:
            setattr(owner, name, function)
        setattr(transfer.Download, "values", self._timed("_wait_s", self._values))  # noqa: B010 - a method, for mypy
        self._began = perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended = perf_counter()
        for owner, name, _ in self._patched:
            delattr(owner, name)  # the class's own shows again
        setattr(transfer.Download, "values", self._values)  # noqa: B010
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def summary(self) -> dict[str, float | int]:
        """Seconds by phase. `device_idle_s` lies between the first and the last mark; host seconds are the engine's
        thread: `host_wait_s` for the device's tokens, `host_work_s` all else inside rounds, `wall_s` the whole context.
        """
        wall = self._ended - self._began
        found: dict[str, float | int] = {"wall_s": round(wall, 3)}
        busy = 0.0
        for name, phase in self._phases.items():
            seconds = sum(_between(start, stop) for start, stop in phase.marks)
            busy += seconds
            found |= {f"{name}_s": round(seconds, 3), f"{name}_calls": len(phase.marks)}
            found[f"{name}_issue_s"] = round(phase.host_s, 3)
            if phase.marks:
                found[f"{name}_ms"] = round(1000 * seconds / len(phase.marks), 2)
        marks = [mark for phase in self._phases.values() for mark in phase.marks]
        if marks:
            first = marks[0][0]
            span = max(_between(first, stop) for _, stop in marks) - min(_between(first, start) for start, _ in marks)
            found["device_idle_s"] = round(span - busy, 3)
        if found.get("prefill_s"):
            found["prefill_tokens_per_s"] = round(self._tokens / float(found["prefill_s"]))
        found["host_wait_s"] = round(self._wait_s, 3)
        found["host_work_s"] = round(self._round_s - self._wait_s, 3)
        return found

    def _phase(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        phase = self._phases[name]

        def run(*arguments: Any, **options: Any) -> Any:
            if name == "prefill":
                self._tokens += arguments[0].shape[0]
            began, start = perf_counter(), self._mark()
            result = function(*arguments, **options)
            phase.marks.append((start, self._mark()))
            phase.host_s += perf_counter() - began
            return result

        return run

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            began = perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                setattr(self, name, getattr(self, name) + perf_counter() - began)

        return run

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _between(start: Any, stop: Any) -> float:
    """Seconds from one mark to another, negative when `stop` came first."""
    return float(stop - start) if isinstance(start, float) else float(start.elapsed_time(stop)) / 1000
