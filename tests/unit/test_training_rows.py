"""Rows, recipes and the clock: what training is told, checked without training."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from core.errors import DatasetRejected, InvalidInput, NotFound
from generation.prompt import PromptPassage, render_grounded
from tests.tiny_llama import build_tiny_llama
from tuning.batches import LengthOrder, batches_by_tokens, order_by_length, plan_batches
from tuning.clock import rate_at
from tuning.recipe import load_recipe, recipe_names
from tuning.rows import IGNORED, encode_rows
from tuning.spec import TrainEvent, TrainMessage, TrainRow, parse_event, read_rows
from tuning.template import TrainingTemplate


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tiny")
    build_tiny_llama(folder)
    return AutoTokenizer.from_pretrained(folder)


def grounded(question: str, completion: str, text: str = "The canteen opens at 11:30.") -> TrainRow:
    messages = render_grounded(question, [PromptPassage(text, "Handbook")])
    return TrainRow(prompt=tuple(TrainMessage(role=m.role, content=m.content) for m in messages), completion=completion)


def test_training_ids_are_the_serving_ids_then_completion_and_stop(tokenizer: Any) -> None:
    row = grounded("社員食堂は何時に開きますか。", "11:30 [1]")
    [encoded] = encode_rows(tokenizer, [row], max_tokens=4096)
    messages = [turn.model_dump() for turn in row.prompt]
    served = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(encoded.input_ids[: encoded.prompt_tokens]) == list(served)
    supervised = list(encoded.input_ids[encoded.prompt_tokens :])
    assert tokenizer.decode(supervised[:-1]) == "11:30 [1]"
    assert supervised[-1] == tokenizer.eos_token_id
    assert list(encoded.labels[: encoded.prompt_tokens]) == [IGNORED] * encoded.prompt_tokens
    assert list(encoded.labels[encoded.prompt_tokens :]) == supervised


def test_a_long_row_is_refused_and_never_cut(tokenizer: Any) -> None:
    rows = [grounded("q", "a"), grounded("q", "a", text="x" * 600)]
    with pytest.raises(DatasetRejected) as raised:
        encode_rows(tokenizer, rows, max_tokens=400)
    assert raised.value.code == "rows_too_long"
    assert raised.value.errors[0].location == "row 2"


def test_a_stop_token_as_text_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DatasetRejected) as raised:
        encode_rows(tokenizer, [grounded("q", "one<|im_end|>two")], max_tokens=4096)
    assert raised.value.code == "special_token_in_row"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda t: t.replace("message['content']", "message['content'].replace('small', 'SMALL')"), "template_skew"),
        (lambda t: t.replace("<|im_end|>", ""), "stop_token_missing"),
    ],
)
def test_a_template_that_serves_something_else_is_refused(tokenizer: Any, spoil: Any, code: str) -> None:
    kept = tokenizer.chat_template
    tokenizer.chat_template = spoil(kept)
    try:
        with pytest.raises(DatasetRejected) as raised:
            TrainingTemplate(tokenizer).audit_rendering(grounded("q", "small").prompt, "small")
    finally:
        tokenizer.chat_template = kept
    assert raised.value.code == code


def test_rows_file_names_its_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(grounded("q", "a").model_dump_json() + '\n{"prompt": []}\n', encoding="utf-8")
    with pytest.raises(DatasetRejected, match="line 2"):
        read_rows(path)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(DatasetRejected) as raised:
        read_rows(path)
    assert raised.value.code == "dataset_empty"


def test_batches_are_of_like_length_and_keep_every_row(tokenizer: Any) -> None:
    rows = encode_rows(tokenizer, [grounded("q", "a", text="x" * n) for n in range(1, 400, 9)], max_tokens=4096)
    lengths = [len(row.input_ids) for row in rows]
    order = order_by_length(lengths, 4, seed=1)
    ordered = [rows[at] for at in order]
    assert sorted(order) == list(range(len(rows)))
    spreads = [
        max(len(r.input_ids) for r in ordered[i : i + 4]) - min(len(r.input_ids) for r in ordered[i : i + 4])
        for i in range(0, 40, 4)
    ]
    assert max(spreads) < 120
    assert [len(r.input_ids) for r in ordered] != sorted(len(r.input_ids) for r in rows)
    assert order_by_length(lengths, 4, seed=1) == order


def test_every_pass_draws_its_batches_of_like_length_anew_and_resumes_by_its_number() -> None:
    lengths = [10 * at for at in range(1, 41)]
    order = LengthOrder(lengths, 4, seed=3)
    passes = []
    for epoch in (0, 1, 0):
        order.set_epoch(epoch)
        passes.append(list(order))
    assert passes[0] == passes[2] and sorted(passes[0]) == sorted(passes[1]) == list(range(40))
    batches = [{frozenset(one[at : at + 4]) for at in range(0, 40, 4)} for one in passes[:2]]
    assert batches[0] != batches[1], "the same rows meet in every pass"


def test_every_number_of_every_recipe_says_its_effect() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        path = Path(__file__).resolve().parents[2] / "tuning" / "recipes" / f"{name}.yaml"
        for line in path.read_text(encoding="utf-8").splitlines():
            if any(c.isdigit() for c in line.partition("#")[0]):
                assert len(line.partition("#")[2].strip()) > 10, f"{name}: {line}"


def test_overrides_are_merged_and_checked() -> None:
    base = load_recipe("style-cpu")
    nested = load_recipe("style-cpu", {"lora": {"rank": 4}})
    dotted = load_recipe("style-cpu", {"lora.rank": 4})
    assert nested == dotted
    assert nested.factors.alpha == base.factors.alpha
    with pytest.raises(InvalidInput) as raised:
        load_recipe("style-cpu", {"lora.rnak": 4, "optimiser.learning_rate": 7})
    assert {error.location for error in raised.value.errors} == {"lora.rnak", "optimiser.learning_rate"}
    with pytest.raises(InvalidInput, match="cannot be used"):
        load_recipe("style-cpu", {"batch.accumulation": 3})
    with pytest.raises(NotFound, match="style-cpu"):
        load_recipe("../starter")


def test_the_clock_rises_settles_and_ends_at_zero() -> None:
    optimiser = load_recipe("starter").optimiser
    rates = [rate_at(optimiser, step / 1000) for step in range(1001)]
    peak = rates.index(max(rates))
    assert rates[0] == 0
    assert abs(peak / 1000 - optimiser.warmup_share) < 0.002
    assert rates[peak] == pytest.approx(optimiser.learning_rate, rel=1e-3)
    assert all(a >= b for a, b in zip(rates[peak:], rates[peak + 1 :], strict=False))
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_events_survive_the_pipe_and_prose_is_none() -> None:
    event = TrainEvent(event="step", step=3, total_steps=9, loss=0.5)
    assert parse_event(event.line()) == event
    assert set(json.loads(event.line())) == {"event", "step", "total_steps", "loss"}
    assert parse_event("Loading weights: 100%") is None
    assert parse_event('{"event": "nonsense"}') is None


def test_batches_hold_like_lengths_within_the_budget() -> None:
    random = Random(3)
    lengths = [random.randint(200, 900) for _ in range(2_000)]
    shares = [batches_by_tokens(lengths, 4_000, processes=2, rank=rank, seed=1) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1])
    taken = [row for share in shares for batch in share for row in batch]
    assert len(taken) == len(set(taken))
    assert len(taken) >= 2_000 - 2 * 4_000 // 800
    for mine, theirs in zip(*shares, strict=True):
        longest = [max(lengths[row] for row in batch) for batch in (mine, theirs)]
        assert all(length * len(batch) <= 4_000 for length, batch in zip(longest, (mine, theirs), strict=True))
        assert max(longest) <= 1.5 * min(longest)


def token_plan(**batch: Any) -> Any:
    recipe = load_recipe(
        "style-cpu", {"batch.tokens": 1_024, **{f"batch.{name}": value for name, value in batch.items()}}
    )
    lengths = [30 + 7 * (n % 40) for n in range(400)]
    return plan_batches(recipe.batch, lengths, by_tokens=True, processes=1, rank=0, seed=1)


def test_steps_of_token_batches_count_the_parts_that_make_one() -> None:
    one, four = (token_plan(rows=4, accumulation=parts, epochs=1.0, max_steps=None) for parts in (1, 4))
    assert len(one.batches) == len(four.batches) == one.steps
    assert four.steps == -(-len(four.batches) // 4), "one pass trains once, not four times"


def test_every_pass_draws_other_token_batches_and_a_pass_can_be_drawn_again() -> None:
    batches = token_plan(epochs=3.0, max_steps=None).batches
    drawn = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        drawn.append(list(batches))
    assert len({len(one) for one in drawn}) == 1
    together = [{frozenset(batch) for batch in one} for one in drawn]
    assert len(together[0] & together[1]) < len(together[0]) / 2, "the same rows always meet"
    batches.set_epoch(1)
    assert list(batches) == drawn[1]
