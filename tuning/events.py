"""What a training says, and how it is asked to stop."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from tuning.checkpoints import COMPLETE
from tuning.spec import TrainEvent

Emit = Callable[[TrainEvent], None]


class EventWriter:
    """Writes events to the process's real stdout. Only rank 0 of a distributed run speaks."""

    def __init__(self, stream: TextIO, *, speaks: bool) -> None:
        self._stream = stream
        self._speaks = speaks

    def __call__(self, event: TrainEvent) -> None:
        """Write one line and flush it: the reader is a pipe and waits."""
        if self._speaks:
            self._stream.write(event.line() + "\n")
            self._stream.flush()


class StopRequest:
    """Remembers that a signal asked the run to stop; the trainer looks after each step."""

    def __init__(self) -> None:
        self.wanted = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.wanted = True


class StageEvents:
    """Events of one stage on the count of the whole run: `before` steps came earlier, `behind` are still to come.

    The end of a stage that is not the last one is nobody's business but `steps`.
    """

    def __init__(self, emit: Emit, stage: str, before: int, *, behind: int, last: bool) -> None:
        self._emit = emit
        self._stage = stage
        self._before = before
        self._behind = behind
        self._last = last
        self.steps = 0

    def __call__(self, event: TrainEvent) -> None:
        """Pass an event on, counted anew."""
        if event.event == "done":
            self.steps = event.step or 0
            if not self._last:
                return
        changes: dict[str, Any] = {"stage": self._stage}
        if event.step is not None:
            changes["step"] = event.step + self._before
        if event.total_steps is not None:
            changes["total_steps"] = self._before + event.total_steps + self._behind
        if event.event == "start":
            changes["resumed_from"] = self._before + (event.resumed_from or 0) or None
        self._emit(event.model_copy(update=changes))


def build_reporter(emit: Emit, stop: StopRequest) -> Any:
    """A trainer callback: the trainer's log as events, and a stop request as a checkpoint and an end."""
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            stop.wanted = _anybody(stop.wanted, args.device)
            if stop.wanted and state.global_step < state.max_steps:
                control.should_save = True
                control.should_training_stop = True

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
        ) -> None:
            logs = logs or {}
            if "loss" in logs:
                emit(
                    TrainEvent(
                        event="step",
                        step=state.global_step,
                        total_steps=state.max_steps,
                        epoch=round(float(state.epoch or 0), 4),
                        loss=_number(logs["loss"]),
                        learning_rate=_number(logs.get("learning_rate")),
                        grad_norm=_number(logs.get("grad_norm")),
                        token_accuracy=_number(logs.get("mean_token_accuracy")),
                        preference_accuracy=_preferred(logs, ""),
                        reward=_number(logs.get("reward")),
                        tokens=int(logs["num_tokens"]) if "num_tokens" in logs else None,
                    )
                )
            elif "eval_loss" in logs:
                emit(
                    TrainEvent(
                        event="eval",
                        step=state.global_step,
                        loss=_number(logs["eval_loss"]),
                        token_accuracy=_number(logs.get("eval_mean_token_accuracy")),
                        preference_accuracy=_preferred(logs, "eval_"),
                        reward=_number(logs.get("eval_reward")),
                    )
                )

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero:
                (folder / COMPLETE).touch()
            emit(TrainEvent(event="checkpoint", step=state.global_step, path=str(folder)))

    return Reporter()


def _anybody(wanted: bool, device: Any) -> bool:
    """Whether any process of the training was asked to stop: one that left alone would leave the others waiting."""
    import torch

    group = torch.distributed
    if not (group.is_available() and group.is_initialized()) or group.get_world_size() < 2:
        return wanted
    asked = torch.tensor([float(wanted)], device=device)
    group.all_reduce(asked, op=group.ReduceOp.MAX)
    return bool(asked.item())


def _preferred(logs: dict[str, Any], prefix: str) -> float | None:
    """Share of pairs whose chosen answer scores higher: DPO and ORPO say `rewards/accuracies`, rewards `accuracy`."""
    return _number(logs.get(f"{prefix}rewards/accuracies", logs.get(f"{prefix}accuracy")))


def _number(value: Any) -> float | None:
    """A finite number, or None: a diverged loss is reported by its absence, never as NaN in JSON."""
    if value is None:
        return None
    number = float(value)
    return round(number, 8) if math.isfinite(number) else None
