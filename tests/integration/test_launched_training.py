"""Trainings on several processes as the worker starts them: `accelerate launch` over gloo, held against one process.

Events, a stop and a resumption are those of a training on one.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.errors import InvalidInput
from tests.toy_training import answers, build_toy_base
from tuning.checkpoints import last_complete_checkpoint
from tuning.child import started
from tuning.events import StopRequest
from tuning.launching import launch_of, processes_of
from tuning.recipe import load_recipe
from tuning.spec import TrainEvent, TrainRow, TrainSpec, parse_event
from tuning.train import train

STEPS = 4
MANY_STEPS = 200
"""More than a busy machine takes between a step and the stop that it is the sign for."""
STRATEGIES = ["ddp", "fsdp", *(["zero2", "zero3"] if find_spec("deepspeed") else [])]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_toy_base(tmp_path_factory.mktemp("launched") / "base")


def spec_of(folder: Path, base: Path, rows: int, *, steps: int = STEPS, **devices: object) -> TrainSpec:
    folder.mkdir()
    lines = [TrainRow.model_validate(row).model_dump_json() for row in answers("Gladly.")]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    recipe = load_recipe(
        "style-cpu",
        {
            "precision": "float32", "batch.rows": rows, "batch.max_steps": steps, "batch.epochs": 60.0,
            "batch.packing": "padded", "cadence.checkpoint_steps": 100, "devices": devices,
        },
    )  # fmt: skip
    return TrainSpec(
        run_dir=folder / "run", base_path=base, rows_path=folder / "rows.jsonl", output_dir=folder / "adapter",
        recipe=recipe,
    )  # fmt: skip


def launched(spec: TrainSpec, *, stop_after: int | None = None) -> list[TrainEvent]:
    """Events of the training as the runner reads them; a stop as its cancellation gives it."""
    folder = spec.rows_path.parent
    path = folder / "train.json"
    path.write_text(spec.model_dump_json(), "utf-8")
    launch = launch_of(spec.recipe, path, processes=processes_of(spec.recipe, 0), on_gpu=False)
    events: list[TrainEvent] = []

    def look() -> None:
        if stop_after is not None and any(event.step == stop_after for event in events):
            raise InterruptedError

    try:
        with started(launch.module, launch.arguments, folder=folder, environment={"OMP_NUM_THREADS": "1"}) as child:
            for line in child.lines(look):
                if (event := parse_event(line)) is not None:
                    events.append(event)
            end = child.end()
            assert end.status == 0, end.stderr_tail
    except InterruptedError:
        assert stop_after is not None
    return events


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_train_as_one(strategy: str, base: Path, tmp_path: Path) -> None:
    alone: list[TrainEvent] = []
    one = spec_of(tmp_path / "one", base, rows=8)
    assert train(one, alone.append, StopRequest()) == 0
    two = spec_of(tmp_path / "two", base, rows=4, strategy=strategy, processes=2)
    together = launched(two)
    assert together[0].processes == 2 and alone[0].processes is None
    losses, expected = ([event.loss for event in events if event.event == "step"] for events in (together, alone))
    assert len(losses) == STEPS, "one process speaks for all"
    assert losses == pytest.approx(expected, rel=1e-4)
    weights, wanted = (load_file(spec.output_dir / "adapter_model.safetensors") for spec in (two, one))
    assert set(weights) == set(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("strategy", STRATEGIES[:2])
def test_a_stop_reaches_all_processes_and_the_training_goes_on_from_there(
    strategy: str, base: Path, tmp_path: Path
) -> None:
    import psutil

    spec = spec_of(tmp_path / "run", base, rows=4, steps=MANY_STEPS, strategy=strategy, processes=2)
    first = launched(spec, stop_after=3)
    left = [one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(one.info["cmdline"] or [])]
    assert not psutil.wait_procs(left, timeout=20)[1], "a process outlived the training"
    checkpoint = last_complete_checkpoint(tmp_path / "run" / "run" / "checkpoints")
    assert checkpoint is not None and max(event.step or 0 for event in first) < MANY_STEPS
    reached = int(checkpoint.name.rpartition("-")[2])
    assert reached < MANY_STEPS
    again = launched(spec)
    assert again[0].resumed_from == reached
    assert next(event.step for event in again if event.event == "step") == reached + 1
    assert again[-1].event == "done" and again[-1].step == MANY_STEPS


def test_a_machine_has_the_processes_that_a_recipe_asks_for() -> None:
    assert processes_of(load_recipe("style-cpu"), 8) == 1
    ddp = load_recipe("style-ddp")
    assert [processes_of(ddp, gpus) for gpus in (0, 2, 4)] == [2, 2, 4]
    for recipe, gpus in ((ddp, 1), (load_recipe("style-ddp", {"devices.processes": 4}), 2)):
        with pytest.raises(InvalidInput) as refused:
            processes_of(recipe, gpus)
        assert refused.value.code == "too_few_gpus"


def test_zero_without_its_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InvalidInput) as refused:
        launch_of(load_recipe("style-zero3"), tmp_path / "train.json", processes=2, on_gpu=True)
    assert refused.value.code == "deepspeed_missing"
