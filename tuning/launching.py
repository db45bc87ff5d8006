"""A training on one process or several, as what the worker starts: for several, `accelerate launch`.

The launch files below `tuning/launch` say how weights are spread. A run gets a copy with its own count of processes in
its folder. Each process ends with the launcher, and they agree after every step whether somebody asked them to stop.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from core.errors import InvalidInput
from tuning.child import LAUNCHER
from tuning.recipe import Recipe
from tuning.recipe_parts import ONE_PROCESS

LAUNCH_FILE = "launch.yaml"


@dataclass(frozen=True, slots=True)
class Launch:
    """What is started for a training: `python -m MODULE ARGUMENTS`."""

    module: str
    arguments: Sequence[str]


def processes_of(recipe: Recipe, gpus: int) -> int:
    """How many processes a recipe trains on; `gpus` are those that may be used, 0 on a machine without.

    Raises:
        InvalidInput: `too_few_gpus`: the recipe names more than there are, or needs several.
    """
    devices = recipe.devices
    if devices.strategy == ONE_PROCESS:
        return 1
    wanted = devices.processes or max(2, gpus)
    if gpus and wanted > gpus:
        raise InvalidInput(
            f"the recipe trains on {wanted} GPUs, {gpus} may be used here (gpu.devices)",
            code="too_few_gpus",
            extra={"wanted": wanted, "available": gpus},
        )
    return wanted


def launch_of(recipe: Recipe, spec: Path, *, processes: int, on_gpu: bool) -> Launch:
    """How to train the spec; for several processes the launch file is written beside it.

    Raises:
        InvalidInput: `deepspeed_missing`: ZeRO without the package.
    """
    if processes == 1:
        return Launch("tuning.train", [str(spec)])
    strategy = recipe.devices.strategy
    require_package(strategy)
    name = "cpu-ddp" if strategy == "ddp" and not on_gpu else strategy
    text = (resources.files("tuning") / "launch" / f"{name}.yaml").read_text("utf-8")
    file = spec.with_name(LAUNCH_FILE)
    file.write_text(_with_values(text, num_processes=str(processes), use_cpu=str(not on_gpu).lower()), "utf-8")
    options = ["--config_file", str(file), "--num_processes", str(processes), "--main_process_port", "0"]
    return Launch(LAUNCHER, [*options, "-m", "tuning.train", str(spec)])


def require_package(strategy: str) -> None:
    """ZeRO needs a package that few installations have.

    Raises:
        InvalidInput: `deepspeed_missing`.
    """
    from importlib.util import find_spec

    if strategy.startswith("zero") and find_spec("deepspeed") is None:
        raise InvalidInput(
            f"strategy '{strategy}' needs the package deepspeed, which is not here; 'fsdp' spreads weights without",
            code="deepspeed_missing",
        )


def world_size() -> int:
    """Processes of this training, as its launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _with_values(text: str, **values: str) -> str:
    lines = []
    for line in text.splitlines():
        key = line.partition(":")[0]
        lines.append(f"{key}: {values[key]}" if key in values else line)
    return "\n".join(lines) + "\n"
