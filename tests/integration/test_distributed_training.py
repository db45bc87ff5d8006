"""Training on several processes: two of them, over gloo, end as one does with the same rows in each step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
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


def write_rows(folder: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": f"Question {n}?"}], "completion": f"Indeed, {'so ' * (n % 4)}{n}."}
        for n in range(24)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    base = tmp_path / "base"
    build_tiny_llama(base)
    write_rows(tmp_path)
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


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_trains_as_one_process(stage: int, tmp_path: Path) -> None:
    """Two processes over gloo; the package builds nothing where no GPU is."""
    pytest.importorskip("deepspeed", reason="the package deepspeed is optional")
    import torch
    from safetensors.torch import load_file

    base = tmp_path / "base"
    build_tiny_llama(base)
    write_rows(tmp_path)
    one, two = spec_of(tmp_path, base, "one", rows=4), spec_of(tmp_path, base, "two", rows=2)
    assert train(one, [].append, StopRequest()) == 0
    (tmp_path / "two.json").write_text(two.model_dump_json(), "utf-8")
    text = (LAUNCH / f"zero{stage}.yaml").read_text("utf-8")
    launch = tmp_path / "launch.yaml"
    launch.write_text(text.replace("num_processes: 8", "num_processes: 2").replace("use_cpu: false", "use_cpu: true"))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch)]
    done = subprocess.run(
        [*command, "--main_process_port", "0", "-m", "tuning.train", str(tmp_path / "two.json")],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    weights, expected = (load_file(spec.output_dir / "adapter_model.safetensors") for spec in (two, one))
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_resolves_to_what_its_file_says(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file through accelerate's launcher and plugin to the configuration that the trainer fills in."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import DeepSpeedPlugin
    from accelerate.utils.launch import prepare_deepspeed_cmd_env
    from transformers import TrainingArguments

    path = LAUNCH / f"zero{stage}.yaml"
    asked = launch_command_parser().parse_args(["--config_file", str(path), "-m", "tuning.train", "SPEC.json"])
    arguments, _, _ = _validate_launch_command(asked)
    arguments.deepspeed_fields_from_accelerate_config = list(load_config_from_file(str(path)).deepspeed_config)
    _, environment = prepare_deepspeed_cmd_env(arguments)
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    for name, value in environment.items():
        if name.startswith("ACCELERATE_") and name != "ACCELERATE_USE_DEEPSPEED":
            monkeypatch.setenv(name, value)
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == stage and plugin.zero3_init_flag is (stage == 3)
    if find_spec("deepspeed") is None:  # as an Accelerator fills it in; transformers' own class asks for the package
        plugin.deepspeed_config_process(
            must_match=False, train_micro_batch_size_per_gpu=3, train_batch_size=6, gradient_accumulation_steps=2,
            gradient_clipping=0.5,
        )  # fmt: skip
        filled = plugin.hf_ds_config
    else:
        from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

        filled = HfTrainerDeepSpeedConfig(plugin.deepspeed_config)
        filled.trainer_config_process(
            TrainingArguments(
                output_dir="unused", per_device_train_batch_size=3, gradient_accumulation_steps=2, max_grad_norm=0.5,
                use_cpu=True, report_to="none",
            )
        )  # fmt: skip
    for name, value in (
        ("train_micro_batch_size_per_gpu", 3), ("gradient_accumulation_steps", 2), ("gradient_clipping", 0.5),
    ):  # fmt: skip
        assert filled.get_value(name) == value
    zero = filled.config["zero_optimization"]
    assert zero["stage"] == stage and zero["stage3_gather_16bit_weights_on_model_save"] is (stage == 3)
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "none"


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
