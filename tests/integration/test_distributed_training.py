"""Training on several processes: two of them, over gloo, end as one does with the same rows in each step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_llama import build_tiny_llama
from tuning.events import StopRequest
from tuning.recipe import load_recipe
from tuning.spec import TrainEvent, TrainSpec, parse_event
from tuning.train import train

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "tuning" / "launch"


def spec_of(folder: Path, base: Path, name: str, rows: int) -> TrainSpec:
    recipe = load_recipe(
        "style-cpu",
        {
            "precision": "float32", "batch.rows": rows, "batch.max_steps": 3, "batch.max_tokens": 256,
            "optimiser.learning_rate": 0.02, "cadence.checkpoint_steps": 2,
        },
    )  # fmt: skip
    return TrainSpec(
        run_dir=folder / name, base_path=base, rows_path=folder / "rows.jsonl", output_dir=folder / name / "adapter",
        recipe=recipe,
    )  # fmt: skip


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    base = tmp_path / "base"
    build_tiny_llama(base)
    rows = [
        {"prompt": [{"role": "user", "content": f"Question {n}?"}], "completion": f"Indeed, {'so ' * (n % 4)}{n}."}
        for n in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    alone: list[TrainEvent] = []
    one = spec_of(tmp_path, base, "one", rows=4)
    train(one, alone.append, StopRequest())

    two = spec_of(tmp_path, base, "two", rows=2)
    path = tmp_path / "two.json"
    path.write_text(two.model_dump_json(), "utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH / "cpu-ddp.yaml")]
    done = subprocess.run(
        [*command, "--main_process_port", "0", "-m", "tuning.train", str(path)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    together = [event for event in map(parse_event, done.stdout.splitlines()) if event is not None]
    assert [event.event for event in together] == [event.event for event in alone], "one process speaks for all"
    for ours, theirs in zip(together, alone, strict=True):
        if ours.event == "step":
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
            assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-3)
    weights, expected = (load_file(spec.output_dir / "adapter_model.safetensors") for spec in (two, one))
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_every_launch_file(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(path))
    text = path.read_text("utf-8")
    assert f"tuning/launch/{path.name}" in text
    kind = str(found.distributed_type)
    assert ("FSDP" in kind) == bool(found.fsdp_config) and ("DEEPSPEED" in kind) == bool(found.deepspeed_config)
    if path.stem.startswith("zero"):
        assert found.deepspeed_config["zero_stage"] == int(path.stem[-1])
