"""Audits that refuse before the first step: memory, and a loss that depends on company."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidInput, TsumugiError
from tests.tiny_llama import build_tiny_llama
from tuning import train as program
from tuning.events import StopRequest
from tuning.memory import estimate_memory, require_memory, what_would_fit
from tuning.methods import sft
from tuning.recipe import load_recipe
from tuning.spec import TrainEvent, TrainSpec
from tuning.train import train
from tuning.trainers import cpu_trainer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With weights large enough that the next token depends on what stands before."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("tiny")
    build_tiny_llama(folder)
    tensors = load_file(folder / "model.safetensors")
    large = {name: tensor * (1 if "norm" in name else 8) for name, tensor in tensors.items()}
    save_file(large, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def start(base: Path, folder: Path, **overrides: Any) -> list[TrainEvent]:
    rows = [
        {"prompt": [{"role": "user", "content": "?" * (1 + n)}], "completion": f"Indeed, {'so ' * n}{n}."}
        for n in range(12)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    values = {"precision": "float32", "batch.max_steps": 1, "batch.max_tokens": 256, **overrides}
    spec = TrainSpec(
        run_dir=folder / "run", base_path=base, rows_path=folder / "rows.jsonl", output_dir=folder / "adapter",
        recipe=load_recipe("style-cpu", values),
    )  # fmt: skip
    events: list[TrainEvent] = []
    train(spec, events.append, StopRequest())
    return events


def test_a_sound_training_passes_and_shows_its_supervised_tokens(base: Path, tmp_path: Path) -> None:
    events = start(base, tmp_path)
    histogram = events[0].supervised_histogram
    assert histogram is not None and sum(histogram.values()) == 12
    assert list(histogram) == ["<=16", "<=32", "<=64"]


@pytest.mark.parametrize("fault", ["mean of parts", "rows see each other", "mean of parts, in training only"])
def test_a_loss_that_depends_on_company_is_refused_before_a_step(
    fault: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    class Faulty(cpu_trainer()):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if fault.endswith("only") and not self.model.training:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if fault.startswith("mean"):  # as a trainer that ignores how many tokens the whole step has
                return super().compute_loss(model, inputs, return_outputs)
            packed = {name: value.reshape(1, -1) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
            return super().compute_loss(model, packed, return_outputs, num_items_in_batch)

    monkeypatch.setattr(sft, "cpu_trainer", lambda: Faulty)
    with pytest.raises(TsumugiError) as refused:
        start(base, tmp_path, **{"batch.packing": "padded"})
    assert refused.value.code == "loss_not_invariant"
    assert not (tmp_path / "adapter").exists()


def test_a_faster_form_of_the_factors_that_mixes_rows_is_found_although_they_start_at_zero(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixing(model: Any) -> int:
        layers = [module for name, module in model.named_modules() if name.endswith("lora_B.default")]
        for layer in layers:
            layer.register_forward_hook(lambda _m, _i, out: out + out.mean(dim=(0, 1), keepdim=True))
        return len(layers)

    monkeypatch.setattr(program, "use_lean_forward", mixing)
    with pytest.raises(TsumugiError) as refused:
        start(base, tmp_path, **{"batch.packing": "padded"})
    assert refused.value.code == "loss_not_invariant"


def test_an_audit_leaves_no_trace(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step of an audited training is that of one without an audit, and so are its counts."""
    audited = start(base, tmp_path, **{"lora.dropout": 0.1})
    monkeypatch.setattr(program, "audit_loss", lambda _trainer: None)
    (tmp_path / "without").mkdir()
    plain = start(base, tmp_path / "without", **{"lora.dropout": 0.1})
    [one], [other] = ([event for event in events if event.event == "step"] for events in (audited, plain))
    assert (one.loss, one.grad_norm, one.tokens, one.token_accuracy) == (
        other.loss, other.grad_norm, other.tokens, other.token_accuracy,
    )  # fmt: skip


def test_memory_is_estimated_from_headers_and_refused_before_loading(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("style-cpu", {"lora.rank": 2, "lora.targets": ["q_proj"], "batch.rows": 4})
    found = estimate_memory(base, recipe, longest=100, value_bytes=4, recomputed=False)
    layer = (10 * 32 + 4 * 64) * 4
    assert found.activations == 4 * 100 * (2 * layer + 32 * 8)
    again = estimate_memory(base, recipe, longest=100, value_bytes=4)
    assert again.activations == 4 * 100 * (2 * 32 * 4 + layer + 32 * 8), "one layer at a time, and what went into each"
    stored = (base / "model.safetensors").stat().st_size
    assert stored - 8_000 < found.weights <= stored
    assert found.trained == 2 * 2 * (32 + 32) * 16  # two layers, rank 2, value, gradient and two moments
    full = estimate_memory(base, load_recipe("style-full"), longest=100, value_bytes=2)
    assert full.weights == found.weights and full.trained > 5 * found.weights / 4
    four_bits = estimate_memory(base, load_recipe("style-qlora"), longest=100, value_bytes=4)
    assert four_bits.weights < 0.6 * found.weights
    require_memory(found, found.total)
    with pytest.raises(InvalidInput, match="neither"):
        require_memory(found, found.weights)
    shape = {"longest": 100, "value_bytes": 4, "by_tokens": False}
    halved = found.weights + found.trained + found.activations // 4
    assert what_would_fit(base, recipe, halved, **shape) == ["batch.accumulation 2"]
    assert what_would_fit(base, recipe, 10**9, **shape) == ["batch.accumulation 2", "adapter 'qlora'"]
    assert what_would_fit(base, recipe, 1_000, **shape) == []
    with pytest.raises(InvalidInput, match=r"would fit: batch\.accumulation 2") as told:
        require_memory(found, found.least - 1, what_would_fit(base, recipe, found.least - 1, **shape))
    assert told.value.extra["would_fit"][0] == "batch.accumulation 2"
    monkeypatch.setattr("tuning.methods.work.available_memory", lambda _device: 1_000)
    with pytest.raises(InvalidInput) as refused:
        start(base, tmp_path)
    assert refused.value.code == "too_little_memory"
