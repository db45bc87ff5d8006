"""A training that dies, at five moments and at the worst of them, ends as if it had not: same loss, same weights.

Real processes, really killed (SIGKILL); they are forked from a server that has imported torch once.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.killed_training import MOMENTS, run
from tests.tiny_llama import build_tiny_llama
from tuning.recipe import load_recipe
from tuning.spec import EXIT_DONE, EXIT_INTERRUPTED, TrainEvent, parse_event

STEPS = 6
OVERRIDES = {
    "precision": "float32", "batch.rows": 4, "batch.accumulation": 2, "batch.max_steps": STEPS, "batch.max_tokens": 256,
    "batch.epochs": 9, "optimiser.learning_rate": 0.02, "cadence.checkpoint_steps": 2, "lora.rank": 4,
    "lora.dropout": 0.2,
}  # fmt: skip
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.killed_training"])


class Training:
    """One spec and what its processes said."""

    def __init__(self, folder: Path, base: Path, recipe: str) -> None:
        folder.mkdir()
        self.adapter = folder / "adapter"
        self._events = folder / "events.jsonl"
        self._spec = folder / "spec.json"
        rows = [
            {
                "prompt": [{"role": "user", "content": f"Question {n}?"}],
                "completion": f"Indeed, {n}.",
                **({"rejected": f"No, {n}!"} if n % 2 else {}),
            }
            for n in range(24)
        ]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        spec = {
            "run_dir": str(folder / "run"), "base_path": str(base), "rows_path": str(folder / "rows.jsonl"),
            "eval_rows_path": str(folder / "rows.jsonl"), "output_dir": str(self.adapter),
            "recipe": load_recipe(recipe, OVERRIDES).model_dump(mode="json"),
        }  # fmt: skip
        self._spec.write_text(json.dumps(spec), "utf-8")

    def process(self, moment: str | None = None, at: int = 5) -> int | None:
        """Run to the end, whichever; returns the exit code, minus the signal for a killed one."""
        process = CONTEXT.Process(target=run, args=(str(self._spec), str(self._events), moment, at))
        process.start()
        process.join(120)
        assert process.exitcode is not None
        return process.exitcode

    def events(self) -> list[TrainEvent]:
        lines = self._events.read_text("utf-8").splitlines()
        return [event for event in map(parse_event, lines) if event is not None]

    def losses(self) -> dict[int, float]:
        """By step, the last word on each; the evaluation's under 0."""
        found: dict[int, float] = {}
        for event in self.events():
            if event.loss is not None:
                found[event.step or 0 if event.event == "step" else 0] = event.loss
        return found

    def weights(self) -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self.adapter / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    build_tiny_llama(folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    training = Training(tmp_path_factory.mktemp("whole") / "run", base, "style-cpu")
    assert training.process() == EXIT_DONE
    return training


def same(training: Training, other: Training) -> None:
    import torch

    losses, expected = training.losses(), other.losses()
    assert losses.keys() == expected.keys()
    for step, loss in expected.items():
        assert losses[step] == pytest.approx(loss, rel=1e-5), f"step {step}"
    weights, wanted = training.weights(), other.weights()
    assert weights.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("moment", [*MOMENTS, "sigterm"])
def test_a_dead_training_goes_on_and_ends_as_if_it_had_not_died(
    moment: str, base: Path, tmp_path: Path, uninterrupted: Training
) -> None:
    training = Training(tmp_path / "run", base, "style-cpu")
    assert training.process(moment) == (EXIT_INTERRUPTED if moment == "sigterm" else -signal.SIGKILL)
    assert not training.adapter.exists()
    assert training.process() == EXIT_DONE
    starts = [event.resumed_from for event in training.events() if event.event == "start"]
    assert all(event.padded is None for event in training.events()), "the rows of a step are packed"
    went_on_from = {"mid_step": 2, "during_save": 2, "before_mark": 2, "before_move": STEPS, "sigterm": 3}
    assert starts == [None, went_on_from.get(moment)]
    same(training, uninterrupted)


def test_death_in_a_later_stage_repeats_no_earlier_one(base: Path, tmp_path: Path) -> None:
    whole = Training(tmp_path / "whole", base, "style-then-preference")
    assert whole.process() == EXIT_DONE
    training = Training(tmp_path / "run", base, "style-then-preference")
    assert training.process("mid_step", at=2 * STEPS + 6) == -signal.SIGKILL
    assert training.process() == EXIT_DONE
    starts = [(event.stage, event.resumed_from) for event in training.events() if event.event == "start"]
    assert starts == [("1-sft", None), ("2-dpo", STEPS), ("2-dpo", STEPS + 2)]
    same(training, whole)
