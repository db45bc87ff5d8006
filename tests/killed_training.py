"""A training process that kills itself, by a signal that nothing can catch, at a moment that a test chooses."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Imported here so that a fork server does it once, for all the processes of a test.
import transformers
import trl  # noqa: F401
from transformers import Trainer
from trl import DPOTrainer, SFTTrainer  # noqa: F401

from tuning.events import EventWriter, StopRequest
from tuning.spec import load_spec
from tuning.train import train
from tuning.trainers import cpu_trainer  # noqa: F401

MOMENTS = ("before_first_step", "mid_step", "during_save", "before_mark", "before_move")


def run(spec_path: str, events_path: str, moment: str | None, at: int = 5) -> None:
    """Train as the program does; `moment` None lives to the end, `sigterm` asks to stop, others die.

    at: number of the part of a step, counted from 1, that `mid_step` dies and `sigterm` asks in.
    """
    import torch

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if moment is not None:
        _ARM[moment](at)
    with Path(events_path).open("a", encoding="utf-8") as stream:
        status = train(load_spec(Path(spec_path)), EventWriter(stream, speaks=True), StopRequest())
    os._exit(status)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _around(owner: Any, name: str, action: Callable[[Any], None], *, after: bool = False) -> None:
    inner = getattr(owner, name)

    def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not after:
            action(self)
        result = inner(self, *args, **kwargs)
        if after:
            action(self)
        return result

    setattr(owner, name, patched)


def _count(at: int, then: Callable[[], None]) -> Callable[[Any], None]:
    seen = 0

    def action(_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            then()

    return action


def _before_first_step(at: int) -> None:
    _around(Trainer, "training_step", _count(1, _die))


def _mid_step(at: int) -> None:
    _around(Trainer, "training_step", _count(at, _die), after=True)  # gradients of one part are there, no step was made


def _during_save(at: int) -> None:
    _around(Trainer, "_save_optimizer_and_scheduler", _count(2, _die))  # the second save: weights written, no optimiser


def _before_mark(at: int) -> None:
    def look(path: Any) -> None:
        if path.name == "complete" and "checkpoint-4" in str(path):
            _die()

    _around(Path, "touch", look)


def _before_move(at: int) -> None:
    def look(path: Any) -> None:
        if path.name.endswith(".partial"):
            _die()

    _around(Path, "rename", look)


def _sigterm(at: int) -> None:
    _around(Trainer, "training_step", _count(at, lambda: os.kill(os.getpid(), signal.SIGTERM)))


_ARM: dict[str, Callable[[int], None]] = {
    "before_first_step": _before_first_step,
    "mid_step": _mid_step,
    "during_save": _during_save,
    "before_mark": _before_mark,
    "before_move": _before_move,
    "sigterm": _sigterm,
}
