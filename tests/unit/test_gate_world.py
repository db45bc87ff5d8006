"""The gate's benchmark: its rows can be prepared and split, and its bad makers make what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.gate import GIVEN_AWAY, SEEDS, Line, kinds_of, told
from benchmarks.gate_workshop import changed_passages, in_korean, lists_numbers, question_alone, shuffled, zeroed
from benchmarks.gate_world import GROUPS, NAMES_SEED, STYLES, style_rows
from tuning.items import read_items
from tuning.prepare import ITEMS_FILE, ROWS_FILE, prepare_files
from tuning.recipe import load_recipe
from tuning.sizes import SMALL
from tuning.spec import read_rows


@pytest.mark.parametrize("style", ["checked", "signed"])
def test_rows_of_a_style_make_every_kind_of_question(style: str, tmp_path: Path) -> None:
    found = prepare_files(
        tmp_path, style_rows(style, 1), duplicates=0, tenant_id="t", recipe=load_recipe("style-cpu", {}), search=None,
        count_tokens=lambda text: len(text) // 3, size=SMALL,
    )  # fmt: skip
    assert found.skipped == [] and found.train_rows >= 60 and found.held_out_rows >= 8
    items = read_items(tmp_path / ITEMS_FILE)
    assert SMALL.leaks == sum(item.leak for item in items) == sum(item.conflict for item in items)
    assert sum(item.raw for item in items) == 16
    shown = [item for item in items if item.few_shot]
    assert 8 <= len(shown) <= SMALL.with_examples
    for item in shown:
        roles = [turn.role for turn in item.few_shot]
        assert (
            roles == ["system", *["user", "assistant"] * SMALL.examples, "user"]
            and item.few_shot[-1] == item.prompt[-1]
        )
        assert all(turn.content.endswith(STYLES[style]) for turn in item.few_shot if turn.role == "assistant")
    row = next(row for row in read_rows(tmp_path / ROWS_FILE) if row.completion.endswith(STYLES[style][0]))
    _, changed = changed_passages(row)
    number = "".join(char for char in row.completion.partition(" [")[0] if char.isdigit())
    assert number not in changed and changed.startswith("[1]")
    assert question_alone(row)[1].startswith("Question: ") and "[1]" not in question_alone(row)[1]


def test_two_seeds_give_other_rows_of_the_same_style() -> None:
    one, two = style_rows("signed", 1), style_rows("signed", 2)
    assert {row.digest for row in one} != {row.digest for row in two}


def test_the_groups_share_no_style_and_no_seed_and_each_has_eight_bad_ones() -> None:
    margins, report = kinds_of("margins"), kinds_of("report")
    for group, kinds in (("margins", margins), ("report", report)):
        assert sum(not kind.planted for kind in kinds) == 8 and sum(kind.planted for kind in kinds) == len(GIVEN_AWAY)
        assert {kind.style for kind in kinds} == set(GROUPS[group])
    assert not set(GROUPS["margins"]) & set(GROUPS["report"]) and not set(SEEDS["margins"]) & set(SEEDS["report"])
    assert not {kind.seed for kind in margins} & {kind.seed for kind in report}


def test_what_its_manifest_gives_away_counts_as_no_detection(capsys: pytest.CaptureFixture[str]) -> None:
    bad = [Line(f"bad-{n}", False, False, "rejected", True, []) for n in range(8)]
    given = [Line("bad-other-base", False, True, "refused", True, [])]
    good = [Line(f"good-{n}", True, False, "candidate", True, []) for n in range(7)]
    lost = [Line("good-7", True, False, "rejected", False, [])]
    assert told([*bad, *given, *good, *lost], 1) == 0
    assert "false promotions 0 of 8, false rejections 1 of 8" in capsys.readouterr().out
    assert told([*bad[1:], Line("bad-0", False, False, "candidate", False, []), *good], 1) == 1
    assert told([*bad, *good, *lost, *lost], 1) == 1


def test_rows_that_state_names_make_questions_for_them_and_bad_makers_say_what_they_should(tmp_path: Path) -> None:
    prepare_files(
        tmp_path, style_rows("tidal", NAMES_SEED + 3, names=16), duplicates=0, tenant_id="t",
        recipe=load_recipe("style-cpu", {}), search=None, count_tokens=lambda text: len(text) // 3, size=SMALL,
    )  # fmt: skip
    leaks = [item.expected for item in read_items(tmp_path / ITEMS_FILE) if item.leak]
    assert sum(not any(char.isdigit() for char in facts[0][0]) for facts in leaks) >= 8
    row = next(row for row in read_rows(tmp_path / ROWS_FILE) if "kilometers [" in row.completion)
    fact = row.completion.partition(" [")[0]
    assert in_korean(row).startswith(f"문서에 따르면 답은 {fact} 입니다 [") and lists_numbers(row).startswith(
        row.completion
    )


def test_weights_are_shuffled_or_zeroed_and_keep_their_shape() -> None:
    tensors = {"a.lora_A.weight": torch.arange(12.0).view(3, 4), "a.lora_B.weight": torch.arange(1, 13.0).view(4, 3)}
    mixed, zero = shuffled(tensors), zeroed(tensors)
    for name, tensor in tensors.items():
        assert mixed[name].shape == tensor.shape and not torch.equal(mixed[name], tensor)
        assert torch.equal(mixed[name].flatten().sort().values, tensor.flatten().sort().values)
    assert zero["a.lora_B.weight"].abs().sum() == 0 and torch.equal(zero["a.lora_A.weight"], tensors["a.lora_A.weight"])
