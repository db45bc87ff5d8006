"""The training program as its caller sees it: events, exit codes, checkpoints, the adapter. Real TRL, tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidInput
from tests.tiny_llama import build_tiny_llama
from tuning import train as program
from tuning.checkpoints import last_complete_checkpoint
from tuning.events import StopRequest
from tuning.methods import sft
from tuning.recipe import load_recipe
from tuning.spec import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, TrainEvent, TrainSpec, parse_event
from tuning.trainers import cpu_trainer, gpu_trainer

STEPS = 40


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    build_tiny_llama(folder)
    return folder


def write_spec(folder: Path, base: Path, overrides: dict[str, Any] | None = None, text: str = "Short.") -> Path:
    rows = [
        {"prompt": [{"role": "user", "content": f"{text} Question {n}?"}], "completion": f"Indeed, {n}."}
        for n in range(24)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = load_recipe(
        "style-cpu",
        {
            "precision": "float32", "batch.rows": 4, "batch.max_steps": STEPS, "batch.epochs": 40,
            "optimiser.learning_rate": 0.05, "cadence.checkpoint_steps": 15, **(overrides or {}),
        },
    )  # fmt: skip
    spec = {
        "run_dir": str(folder / "run"),
        "base_path": str(base),
        "rows_path": str(folder / "rows.jsonl"),
        "eval_rows_path": str(folder / "rows.jsonl"),
        "output_dir": str(folder / "adapter"),
        "recipe": recipe.model_dump(mode="json"),
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    return path


def start(spec: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tuning.train", str(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def events_of(process: subprocess.Popen[str]) -> list[TrainEvent]:
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        event = parse_event(line)
        assert event is not None, f"not an event on stdout: {line!r}"
        events.append(event)
    return events


def test_interrupted_run_goes_on_where_it_stopped_and_learns(base: Path, tmp_path: Path) -> None:
    spec = write_spec(tmp_path, base)
    first = start(spec)
    assert first.stdout is not None
    for line in first.stdout:
        event = parse_event(line)
        if event is not None and event.event == "step" and event.step == 5:
            first.send_signal(signal.SIGTERM)
            break
    rest = events_of(first)
    assert first.wait(60) == EXIT_INTERRUPTED
    assert rest[-1].event == "interrupted"
    assert rest[-1].step is not None and rest[-1].step < STEPS
    stopped_at = rest[-1].step
    checkpoint = last_complete_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None and checkpoint.name == f"checkpoint-{stopped_at}"
    assert not (tmp_path / "adapter").exists()
    # A save that was cut short leaves a folder without the mark; it must not be continued from.
    (tmp_path / "run" / "checkpoints" / "checkpoint-39").mkdir()

    second = start(spec)
    events = events_of(second)
    assert second.wait(60) == EXIT_DONE
    assert events[0].event == "start" and events[0].resumed_from == stopped_at
    steps = [event for event in events if event.event == "step"]
    assert steps[0].step == stopped_at + 1 and steps[-1].step == STEPS
    losses = [event.loss for event in steps if event.loss is not None]
    assert len(losses) == len(steps) >= 20
    assert sum(losses[-10:]) < sum(losses[:10])
    assert [event.event for event in events if event.event in {"eval", "done"}] == ["eval", "done"]
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    check_adapter(base, tmp_path / "adapter")


def check_adapter(base: Path, adapter: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    tensors = load_file(adapter / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] is None
    ids = torch.arange(40)[None]
    plain = AutoModelForCausalLM.from_pretrained(base)
    before = plain(ids).logits.detach().clone()
    after = PeftModel.from_pretrained(plain, adapter)(ids).logits.detach()
    assert (after - before).abs().max() > 0.1


def test_a_finished_run_only_hands_its_adapter_over_again(base: Path, tmp_path: Path) -> None:
    spec = write_spec(tmp_path, base, {"batch.max_steps": 3, "cadence.checkpoint_steps": 3})
    assert events_of(process := start(spec))[-1].event == "done" and process.wait(60) == EXIT_DONE
    weights = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    for path in (tmp_path / "adapter").iterdir():
        path.unlink()
    (tmp_path / "adapter").rmdir()
    events = events_of(process := start(spec))
    assert process.wait(60) == EXIT_DONE
    assert [event.event for event in events if event.event == "step"] == []
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == weights


def test_unusable_rows_end_before_any_step(base: Path, tmp_path: Path) -> None:
    spec = write_spec(tmp_path, base, {"batch.max_tokens": 100}, text="Long. " * 40)
    process = start(spec)
    [event] = events_of(process)
    assert process.wait(60) == EXIT_USAGE
    assert (event.event, event.code) == ("error", "rows_too_long")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_bad_spec_says_so(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text('{"run_dir": "x"}', encoding="utf-8")
    process = start(path)
    [event] = events_of(process)
    assert process.wait(60) == EXIT_USAGE
    assert (event.event, event.code) == ("error", "invalid_train_spec")


def test_our_losses_are_the_one_of_trl(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import SFTTrainer

    losses: list[list[float]] = []
    for name, trainer in (("trl", lambda: SFTTrainer), ("cpu", cpu_trainer), ("gpu", lambda: gpu_trainer(None))):
        how = {"batch.packing": "padded"} if name == "gpu" else {}  # on a GPU nothing is packed
        events = train_here(tmp_path / name, base, trainer, monkeypatch, how)
        losses.append([event.loss for event in events if event.event in {"step", "eval"} and event.loss is not None])
    assert len(losses[0]) == 5
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[2] == pytest.approx(losses[0], rel=1e-3)


def test_training_starts_from_another_adapters_weights(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train_here(tmp_path / "first", base, cpu_trainer, monkeypatch)
    again = train_here(tmp_path / "again", base, cpu_trainer, monkeypatch, warm_start=tmp_path / "first" / "adapter")
    [start, end] = [[e.loss for e in events if e.event == "step"] for events in (again, first)]
    assert start[0] == pytest.approx(end[-1], rel=0.05)
    with pytest.raises(InvalidInput, match="another rank"):
        train_here(
            tmp_path / "other",
            base,
            cpu_trainer,
            monkeypatch,
            {"lora.rank": 3},
            warm_start=tmp_path / "first" / "adapter",
        )


def train_here(
    folder: Path,
    base: Path,
    trainer: Any,
    monkeypatch: pytest.MonkeyPatch,
    overrides: dict[str, Any] | None = None,
    warm_start: Path | None = None,
) -> list[TrainEvent]:
    """Four steps in this process, with another trainer in place of the one for CPUs."""
    folder.mkdir()
    monkeypatch.setattr(sft, "cpu_trainer", trainer)
    path = write_spec(folder, base, {"batch.max_steps": 4, **(overrides or {})})
    events: list[TrainEvent] = []
    spec = TrainSpec.model_validate_json(path.read_text(encoding="utf-8"))
    spec = spec.model_copy(update={"warm_start": warm_start})
    assert program.train(spec, events.append, StopRequest()) == EXIT_DONE
    return events
