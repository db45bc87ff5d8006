"""Eight model families by the default recipe, each on a tiny random checkpoint with its own template and tokens.

Two steps of training, saved, reloaded, same logits; and a training that is served, from the prompt to its last token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import InvalidInput
from core.settings import GenerationSettings
from core.types import AdapterRef, GenerationRequest, Message
from generation.adapters.forms import load_adapter
from generation.adapters.manifest import build_manifest, write_manifest
from generation.engines.transformers_engine import TransformersEngine
from generation.models import describe_base
from tests.tiny_families import FAMILIES, build_tiny
from tests.toy_training import enlarge
from tuning import train as program
from tuning.events import StopRequest
from tuning.methods import build_trainer
from tuning.methods.work import Built
from tuning.recipe import load_recipe
from tuning.spec import TrainEvent, TrainRow, TrainSpec
from tuning.targets import expert_parameters, resolve_targets

ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]
TARGETS = {
    "llama": ["down_proj", "gate_proj", *ATTENTION, "up_proj"],
    "mistral": ["down_proj", "gate_proj", *ATTENTION, "up_proj"],
    "mixtral": ATTENTION,
    "qwen3": ["down_proj", "gate_proj", *ATTENTION, "up_proj"],
    "gemma": ["down_proj", "gate_proj", *ATTENTION, "up_proj"],
    "gemma2": ["down_proj", "gate_proj", *ATTENTION, "up_proj"],
    "deepseek-v3": ["kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "q_a_proj", "q_b_proj"],
    "phi": ["dense", "fc1", "fc2", "k_proj", "q_proj", "v_proj"],
    "phi3": ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"],
    "cohere": ["down_proj", "gate_proj", *ATTENTION, "up_proj"],
}  # fmt: skip


def rows() -> list[TrainRow]:
    return [
        TrainRow.model_validate({"prompt": asked(f"棚{n} {'x' * (n % 5)}"), "completion": f"Indeed, {n}."})
        for n in range(16)
    ]


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]


def train_two_steps(
    base: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, recipe: str = "style-cpu",
    completion: str | None = None, **overrides: Any,
) -> tuple[Built, list[TrainEvent]]:  # fmt: skip
    built: list[Built] = []

    def build(work: Any) -> Built:
        built.append(build_trainer(work))
        return built[-1]

    monkeypatch.setattr(program, "build_trainer", build)
    folder.mkdir(exist_ok=True)
    taught = rows() if completion is None else [row.model_copy(update={"completion": completion}) for row in rows()]
    (folder / "rows.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in taught), "utf-8")
    values = load_recipe(
        recipe,
        {
            "precision": "float32", "batch.max_steps": 2, "batch.max_tokens": 256,
            "optimiser.learning_rate": 0.02, "optimiser.warmup_share": 0.0, **overrides,
        },
    )  # fmt: skip
    spec = TrainSpec(
        run_dir=folder / "run", base_path=base, rows_path=folder / "rows.jsonl", recipe=values,
        output_dir=folder / "adapter",
    )  # fmt: skip
    events: list[TrainEvent] = []
    assert program.train(spec, events.append, StopRequest()) == 0
    return built[0], events


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits[:, -ids.shape[1] :].float()  # without virtual tokens  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_saves_and_reloads(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    build_tiny(family, base)
    built, events = train_two_steps(base, tmp_path / "run", monkeypatch)
    assert [event.loss is not None for event in events if event.event == "step"] == [True, True]
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert sorted(config["target_modules"]) == sorted(TARGETS[family])
    assert not config["target_parameters"]

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = logits(plain)
    after = logits(load_adapter(plain, tmp_path / "run" / "adapter", "again"))
    trained = logits(built.trainer.model)
    assert (after - before).abs().max() > 1e-3, "the adapter must have an effect"
    # bfloat16 rounds the written factors: the error is small against what the adapter does
    assert (after - trained).norm() < 0.02 * (trained - before).norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_was_trained_on_is_what_serving_asks_and_ends(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows' prompts are the engine's to the token, and the answer stops where the template ends one."""
    base_folder = tmp_path / "base"
    build_tiny(family, base_folder)
    enlarge(base_folder)
    built, _ = train_two_steps(
        base_folder, tmp_path / "run", monkeypatch, completion="Yes.",
        **{"batch.max_steps": 24, "batch.rows": 4, "batch.epochs": 40},
    )  # fmt: skip
    base = describe_base(base_folder, family)
    engine = TransformersEngine(base, GenerationSettings(decoder="plain", context_tokens=500), dtype=torch.float32)
    try:
        messages = tuple(Message(turn["role"], turn["content"]) for turn in asked("棚3 xxx"))
        served = engine._chat.encode(messages)
        trained = [list(map(int, row["input_ids"])) for row in built.trainer.train_dataset]
        assert any(ids[: len(served)] == served for ids in trained), "a prompt is trained otherwise than it is served"
        manifest = build_manifest(tmp_path / "run" / "adapter", base)
        write_manifest(tmp_path / "run" / "adapter", manifest)
        reference = AdapterRef("house", "v1", manifest.content_digest, str(tmp_path / "run" / "adapter"))
        result = engine.submit(GenerationRequest(messages, reference, 24)).result()
    finally:
        engine.close()
    assert result.text == "Yes."
    assert result.finish_reason == "stop"


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("style-dora", {}),
        ("style-pissa", {"lora.rank": 4}),
        ("style-pissa", {"lora.rank": 4, "lora.alpha": 9, "lora.rank_stabilised": True}),
        ("style-bottleneck", {}),
        ("style-full", {}),
        ("style-prefix", {}),
        ("style-prompt", {}),
    ],
)
def test_what_is_written_is_what_was_trained(
    recipe: str, overrides: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever an adapter was inside the trainer: converted to what serves, it is the same function."""
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    build_tiny("llama", base)
    built, _ = train_two_steps(base, tmp_path / "run", monkeypatch, recipe=recipe, **overrides)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = logits(plain)
    after = logits(load_adapter(plain, tmp_path / "run" / "adapter", "again"))
    trained = logits(built.trainer.model)
    assert (trained - before).abs().max() > 1e-3
    assert (after - trained).norm() < 0.02 * (trained - before).norm()


@pytest.mark.parametrize("family", ["cohere", "gemma2"])
def test_the_loss_sees_what_a_family_does_to_its_logits(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cohere scales them, Gemma 2 caps them: a loss over bare outputs of the last layer would be another one."""
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    build_tiny(family, base)
    built, _ = train_two_steps(base, tmp_path / "run", monkeypatch, **{"optimiser.learning_rate": 1e-9})
    batch = built.trainer.data_collator([built.trainer.train_dataset[at] for at in range(4)])
    batch = {name: value for name, value in batch.items() if name in {"input_ids", "labels"}}
    expected = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)(**batch).loss
    assert float(built.trainer.compute_loss(built.trainer.model, batch)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("family", ["mixtral", "deepseek-v3"])
def test_factors_reach_fused_experts(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    build_tiny(family, base)
    built, _ = train_two_steps(base, tmp_path / "run", monkeypatch, **{"lora.experts": True, "export": True})
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert expert_parameters(plain) == ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    before = logits(plain)
    after = logits(load_adapter(plain, tmp_path / "run" / "adapter", "again"))
    trained = logits(built.trainer.model)
    # of most tokens: rounding may send one to another expert
    error, effect = ((one - two).norm(dim=-1).median() for one, two in ((after, trained), (trained, before)))
    assert error < 0.02 * effect
    written = (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert b"experts" in written[:20_000]


def test_a_layer_that_a_family_lacks_is_refused(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    build_tiny("phi", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(InvalidInput, match="'gate_proj'") as refused:
        resolve_targets(model, ("q_proj", "gate_proj"))
    assert refused.value.code == "target_not_found"
    with pytest.raises(InvalidInput, match="no experts"):
        expert_parameters(model)
