"""Training that ends by the clock, for a machine that is lent for so many minutes.

Steps per second are not known beforehand, and a cosine cut off half way has not settled. So progress is time: the
learning rate follows the share of the time that has passed, and the run ends when it is used up.
"""

from __future__ import annotations

import math
import time
from typing import Any

from tuning.recipe import Recipe
from tuning.recipe_parts import OptimiserRecipe


def rate_at(optimiser: OptimiserRecipe, progress: float) -> float:
    """Learning rate at `progress` in [0, 1]: a linear rise over `warmup_share`, then the recipe's schedule."""
    if progress < optimiser.warmup_share:
        return optimiser.learning_rate * progress / optimiser.warmup_share
    rest = (min(progress, 1.0) - optimiser.warmup_share) / (1 - optimiser.warmup_share)
    if optimiser.schedule == "cosine":
        return optimiser.learning_rate * 0.5 * (1 + math.cos(math.pi * rest))
    return optimiser.learning_rate * (1 - rest if optimiser.schedule == "linear" else 1.0)


def build_clock(recipe: Recipe, deadline: float) -> Any:
    """A trainer callback that sets the rate before each step and stops at `deadline` (`time.monotonic`)."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        """All processes follow the first one's clock: rates that differ would let their copies drift apart."""

        def __init__(self) -> None:
            self._began = time.monotonic()
            self._progress = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._began = time.monotonic()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            now = time.monotonic()
            self._progress = min(1.0, (now - self._began) / max(deadline - self._began, 1e-9))
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                shared = torch.tensor([self._progress], device=args.device, dtype=torch.float64)
                torch.distributed.broadcast(shared, src=0)
                self._progress = float(shared.item())
            for group in kwargs["optimizer"].param_groups:
                group["lr"] = rate_at(recipe.optimiser, self._progress)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self._progress >= 1.0:
                control.should_training_stop = True

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
        ) -> None:
            if logs is not None and "learning_rate" in logs:
                logs["learning_rate"] = rate_at(recipe.optimiser, self._progress)

    return Clock()
