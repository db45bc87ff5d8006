"""The loss curve of a run, put together from the events of one or several attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuning.spec import TrainEvent

MAX_POINTS = 500
"""A longer curve is thinned evenly when stored; first and last point always stay."""


class LossCurve:
    """Points by step. A resumed attempt repeats steps since its checkpoint; its figures replace the earlier ones."""

    def __init__(self, points: Sequence[dict[str, Any]] = ()) -> None:
        self._points: dict[int, dict[str, Any]] = {int(point["step"]): dict(point) for point in points}
        self._total = 0
        self._step = 0
        self._facts: dict[str, Any] = {}

    def take(self, event: TrainEvent) -> None:
        """Take in one event of the trainer."""
        if event.total_steps is not None:
            self._total = event.total_steps
        if event.step is not None:
            self._step = event.step
        if event.event == "start":
            resumed = event.resumed_from or 0
            self._points = {step: point for step, point in self._points.items() if step <= resumed}
            self._facts = event.model_dump(exclude_none=True, exclude={"event", "step", "total_steps"})
        elif event.event == "step" and event.step is not None:
            point = {
                "step": event.step,
                "loss": event.loss,
                "learning_rate": event.learning_rate,
                "grad_norm": event.grad_norm,
                "tokens": event.tokens,
            }
            point |= {
                name: value
                for name in ("preference_accuracy", "reward", "stage")
                if (value := getattr(event, name)) is not None
            }
            self._points[event.step] = {**self._points.get(event.step, {}), **point}
        elif event.event == "eval" and event.step is not None:
            point = self._points.setdefault(event.step, {"step": event.step})
            point["eval_loss"] = event.loss
            if event.preference_accuracy is not None:
                point["eval_preference_accuracy"] = event.preference_accuracy
        elif event.event == "done":
            self._facts["seconds"] = event.seconds
            if event.kept is not None:
                self._facts["kept"] = event.kept

    @property
    def fraction(self) -> float:
        """Share of the steps that are done."""
        return min(1.0, self._step / self._total) if self._total else 0.0

    def points(self) -> list[dict[str, Any]]:
        """Ascending by step."""
        ordered = [self._points[step] for step in sorted(self._points)]
        if len(ordered) <= MAX_POINTS:
            return ordered
        stride = -(-len(ordered) // MAX_POINTS)
        return [*ordered[:-1:stride], ordered[-1]]

    def state(self) -> dict[str, Any]:
        """Where training is and on what it runs."""
        return {**self._facts, "step": self._step, "total_steps": self._total}
