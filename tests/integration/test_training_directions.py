"""Every method of the recipe list moves a model the way it promises: toy trainings whose outcome is known before.

What is asserted is read from the written adapter on the plain base, about questions that no row asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toy_training import (
    NO,
    TRAINED,
    UNSEEN,
    YES,
    Reader,
    Toy,
    answers,
    build_toy_base,
    judgements,
    pairs,
    question,
    train_toy,
)
from tuning import train as program
from tuning.recipe import load_recipe, recipe_names, stages_of

SHORT, LONG = "y", "nnnnnn"
LEARNT, HARDLY = 2.0, 0.3
"""Nats per token by which toy trainings move what they mean to, and what virtual tokens alone can move."""
KINDS = {
    "style-cpu": LEARNT, "style-rslora": LEARNT, "style-dora": LEARNT, "style-pissa": LEARNT, "style-qlora": LEARNT,
    "style-bottleneck": LEARNT, "style-full": LEARNT, "style-prefix": HARDLY, "style-prompt": HARDLY,
    "style-gpu": LEARNT, "style-8b": LEARNT, "style-8b-4bit": LEARNT,
}  # fmt: skip
LAUNCHED = dict.fromkeys(("style-ddp", "style-fsdp", "style-zero3"), "tests/integration/test_launched_training.py")
ELSEWHERE = {"merge": "tests/unit/test_merge.py", "starter": "style-cpu by another clock", **LAUNCHED}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_toy_base(tmp_path_factory.mktemp("toy") / "base")


@pytest.fixture(scope="module")
def reader(base: Path) -> Reader:
    return Reader(base)


@pytest.fixture(scope="module")
def polite(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Plain LoRA, trained to answer YES."""
    return train_toy(tmp_path_factory.mktemp("polite"), base, answers(), "style-cpu")


@pytest.fixture(scope="module")
def undecided(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that answers SHORT as often as LONG: where methods that reward what was drawn begin."""
    rows = [*answers(SHORT), *answers(LONG)]
    return train_toy(tmp_path_factory.mktemp("undecided"), base, rows, "style-cpu", batch__max_steps=24).adapter


def test_no_recipe_is_without_its_direction() -> None:
    online = {"grpo", "rloo", "grounding", "distill"}
    shown = {*KINDS, *ELSEWHERE, *online, "dpo", "orpo", "kto", "reward", "style-then-preference"}
    assert set(recipe_names()) == shown


@pytest.mark.parametrize("recipe", KINDS)
def test_imitation_makes_the_house_answer_likelier_and_no_other(
    recipe: str, base: Path, reader: Reader, polite: Toy, tmp_path: Path
) -> None:
    toy = polite if recipe == "style-cpu" else train_toy(tmp_path, base, answers(), recipe)
    gained, other = reader.moved(toy.adapter, YES), reader.moved(toy.adapter, NO)
    assert gained > KINDS[recipe]
    assert other < gained / 4


@pytest.mark.parametrize("recipe", ["dpo", "orpo"])
def test_preference_raises_the_chosen_answer_and_lowers_the_rejected_one(
    recipe: str, base: Path, reader: Reader, tmp_path: Path
) -> None:
    toy = train_toy(tmp_path, base, pairs(), recipe)
    chosen, rejected = reader.moved(toy.adapter, YES), reader.moved(toy.adapter, NO)
    assert chosen > 1.0 and rejected < -0.1 and chosen - rejected > LEARNT


def test_kto_raises_what_was_judged_good_and_lowers_what_was_judged_bad(
    base: Path, reader: Reader, tmp_path: Path
) -> None:
    toy = train_toy(tmp_path, base, judgements(), "kto")
    assert reader.moved(toy.adapter, YES) > 1.0
    assert reader.moved(toy.adapter, NO) < -1.0


def test_kto_takes_a_pair_apart_into_a_good_and_a_bad_answer(base: Path, reader: Reader, tmp_path: Path) -> None:
    toy = train_toy(tmp_path, base, pairs(), "kto")
    assert reader.moved(toy.adapter, YES) > 1.0 and reader.moved(toy.adapter, NO) < -1.0


def test_no_row_of_kto_is_its_own_reference_also_in_a_last_part_of_one(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"prompt": question(number), "completion": f"Number {number}.", "label": bool(number % 2)}
        for number in range(10, 19)  # nine rows in parts of four
    ]
    built = built_by(base, tmp_path, "kto", monkeypatch, rows=rows, batch__rows=4, batch__max_steps=1)
    data = list(built.train_dataset)
    assert len(data) == 9 and all(row["KL_completion_ids"] != row["completion_ids"] for row in data)
    drawn = [[int(at) for at in built._get_train_sampler(built.train_dataset)] for _ in range(2)]
    assert drawn[0] != drawn[1], "every pass over the rows is the same one"


def test_a_staged_recipe_imitates_first_and_then_prefers(base: Path, reader: Reader, tmp_path: Path) -> None:
    assert [stage.method for stage in stages_of(load_recipe("style-then-preference"))] == ["sft", "dpo"]
    rows = [*answers(NO), *pairs()]
    toy = train_toy(tmp_path, base, rows, "style-then-preference", stages=[
        {"method": "sft"}, {"method": "dpo", "overrides": {"dpo": {"beta": 0.1, "loss": "sigmoid"}}},
    ])  # fmt: skip
    first = tmp_path / "run" / "stages" / "1-sft" / "adapter"
    assert reader.moved(first, NO) > LEARNT, "the first stage imitates"
    assert reader.moved(toy.adapter, NO) < reader.moved(first, NO) - 1.0, "the second turns it round"
    assert reader.moved(toy.adapter, YES) > reader.moved(first, YES) + 1.0


def test_a_stage_goes_on_from_what_the_one_before_has_written(base: Path, reader: Reader, tmp_path: Path) -> None:
    still = {"optimiser.learning_rate": 1e-9, "batch.max_steps": 1, "dpo": {"beta": 0.1, "loss": "sigmoid"}}
    stages = [{"method": "sft"}, {"method": "dpo", "overrides": still}]
    toy = train_toy(tmp_path, base, [*answers(), *pairs()], "style-then-preference", stages=stages)
    first = reader.moved(tmp_path / "run" / "stages" / "1-sft" / "adapter", YES)
    assert first > LEARNT
    assert reader.moved(toy.adapter, YES) == pytest.approx(first, abs=0.01)


def test_a_reward_model_scores_unseen_pairs_the_right_way_round(base: Path, reader: Reader, tmp_path: Path) -> None:
    from tuning.methods.rewards import build_reward_model

    toy = train_toy(tmp_path, base, pairs(), "reward", held_out=pairs(UNSEEN))
    score = build_reward_model(base, toy.adapter, reader.tokenizer, reader.tokenizer.eos_token, torch.device("cpu"))
    asked = [question(number) for number in UNSEEN]
    good, bad = (
        score(prompts=asked, completions=[[{"role": "assistant", "content": text}]] * len(asked)) for text in (YES, NO)
    )
    right = sum(one > other for one, other in zip(good, bad, strict=True))  # type: ignore[operator]
    assert right == len(asked)
    [evaluated] = [event for event in toy.events if event.event == "eval"]
    assert evaluated.preference_accuracy == 1.0


@pytest.mark.parametrize("recipe", ["grpo", "rloo"])
def test_what_is_rewarded_becomes_more_frequent(
    recipe: str, base: Path, reader: Reader, undecided: Path, tmp_path: Path
) -> None:
    toy = train_toy(
        tmp_path, base, answers(SHORT), recipe, warm_start=undecided, batch__max_steps=12, batch__rows=16,
        optimiser__learning_rate=0.002, online__new_tokens=8, online__beta=0.0,
        online__rewards=[{"kind": "length", "max_chars": 3}],
    )  # fmt: skip
    before, after = (share_of(reader, adapter) for adapter in (undecided, toy.adapter))
    assert after > before + 0.12
    rewards = [event.reward for event in toy.events if event.event == "step"]
    assert sum(rewards[-3:]) > sum(rewards[:3])  # type: ignore[arg-type]


def test_grounded_answers_become_more_frequent_by_the_matcher_alone(base: Path, reader: Reader, tmp_path: Path) -> None:
    """Two answers that the model gives at first: one that its passage carries, and one that it does not."""
    right, wrong = "9[1]", "8[1]"
    rows = [*answers(right), *answers(wrong)]
    start = train_toy(tmp_path / "start", base, rows, "style-cpu", batch__max_steps=100).adapter
    grounded = answers(right, facts=["9"], gold=[1], passages=["9"])
    toy = train_toy(
        tmp_path / "grounded", base, grounded, "grounding", warm_start=start, batch__max_steps=16, batch__rows=16,
        batch__accumulation=1, optimiser__learning_rate=0.004, online__new_tokens=5, online__beta=0.0,
        online__temperature=0.5,
    )  # fmt: skip
    before, after = (reader.moved(one, right) - reader.moved(one, wrong) for one in (start, toy.adapter))
    assert after > before + 0.1
    rewards = [event.reward for event in toy.events if event.event == "step"]
    assert sum(rewards[-4:]) > sum(rewards[:4]) + 0.4  # type: ignore[arg-type]


def share_of(reader: Reader, adapter: Path) -> float:
    """Share of drawn answers that stay within three characters."""
    ids = torch.tensor([reader.prompt(number) for number in UNSEEN for _ in range(8)])
    torch.manual_seed(11)
    drawn = reader.model(adapter).generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=True, temperature=1.0, top_k=0
    )
    texts = reader.tokenizer.batch_decode(drawn[:, ids.shape[1] :], skip_special_tokens=True)
    return sum(len(text) <= 3 for text in texts) / len(texts)


def test_a_student_moves_to_its_teacher(base: Path, reader: Reader, polite: Toy, tmp_path: Path) -> None:
    teacher = reader.model(polite.adapter).merge_and_unload()
    teacher.save_pretrained(tmp_path / "teacher")
    reader.tokenizer.save_pretrained(tmp_path / "teacher")
    toy = train_toy(
        tmp_path / "student", base, answers(NO), "distill", teacher=tmp_path / "teacher", distill__new_tokens=6
    )
    before, after = (distance(reader, reader.model(adapter), teacher) for adapter in (None, toy.adapter))
    assert after < before / 2
    assert reader.moved(toy.adapter, YES) > 1.0 > reader.moved(toy.adapter, NO)


def distance(reader: Reader, student: Any, teacher: Any) -> float:
    """KL divergence of the teacher from the student at the first token of an answer, in nats."""
    ids = torch.tensor([reader.prompt(number) for number in UNSEEN])
    with torch.no_grad():
        ours, theirs = (torch.log_softmax(one(input_ids=ids).logits[:, -1].float(), -1) for one in (student, teacher))
    return float((theirs.exp() * (theirs - ours)).sum(-1).mean())


def built_by(
    base: Path, folder: Path, recipe: str, monkeypatch: pytest.MonkeyPatch, rows: Any = None, **overrides: Any
) -> Any:
    """The trainer that a toy training built."""
    trainers: list[Any] = []
    build = program.build_trainer

    def noted(work: Any) -> Any:
        built = build(work)
        trainers.append(built.trainer)
        return built

    monkeypatch.setattr(program, "build_trainer", noted)
    train_toy(folder, base, rows or answers(), recipe, **overrides)
    return trainers[0]


def test_qlora_trains_over_a_base_in_four_bits(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.nn import Linear4bit

    model = built_by(base, tmp_path, "style-qlora", monkeypatch, batch__max_steps=1).model
    layers = [module for name, module in model.named_modules() if name.endswith("base_layer")]
    assert len(layers) == 14 and all(isinstance(layer, Linear4bit) for layer in layers)
    assert {layer.weight.quant_state.quant_type for layer in layers} == {"nf4"}
    assert {layer.weight.dtype for layer in layers} == {torch.uint8}, "two weights in a byte"
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_doras_magnitudes_are_trained_written_and_in_effect(base: Path, reader: Reader, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    toy = train_toy(tmp_path, base, answers(), "style-dora")
    path = toy.adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    weights = load_file(base / "model.safetensors")
    magnitudes = {name: value for name, value in tensors.items() if "magnitude" in name}
    assert len(magnitudes) == 14
    for name, value in magnitudes.items():
        start = weights[name.removeprefix("base_model.model.").partition(".lora_")[0] + ".weight"].norm(dim=1)
        assert (value - start).abs().max() > 1e-3 * start.mean(), f"{name} was not trained"
    learnt = reader.moved(toy.adapter, YES)
    save_file(tensors | {name: value * 0.5 for name, value in magnitudes.items()}, path)
    assert abs(reader.moved(toy.adapter, YES) - learnt) > 0.1, "what stands in the file has no effect"


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("style-cpu", {"use_rslora": True, "use_dora": False, "r": 8}),
        ("style-rslora", {"use_rslora": True, "r": 32}),
        ("style-dora", {"use_dora": True}),
        ("style-pissa", {"use_rslora": False, "r": 16}),
    ],
)
def test_the_written_configuration_says_what_was_trained(
    recipe: str, said: dict[str, Any], base: Path, polite: Toy, tmp_path: Path
) -> None:
    toy = polite if recipe == "style-cpu" else train_toy(tmp_path, base, answers(), recipe, batch__max_steps=1)
    config = json.loads((toy.adapter / "adapter_config.json").read_text("utf-8"))
    assert {name: config[name] for name in said} == said


def test_pissa_starts_from_the_largest_singular_vectors(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    overrides = {"batch__max_steps": 1, "optimiser__learning_rate": 1e-9}
    model = built_by(base, tmp_path, "style-pissa", monkeypatch, **overrides).model
    weight = load_file(base / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    taken = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
    left, sizes, right = torch.linalg.svd(weight)
    best = left[:, :8] * sizes[:8] @ right[:8]
    assert (taken - best).norm() < 1e-3 * best.norm()
    assert (layer.base_layer.weight + taken - weight).norm() < 1e-3 * weight.norm(), "and takes it out of the base"


assert not set(TRAINED) & set(UNSEEN)
