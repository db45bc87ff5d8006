"""Pairs and judged answers on the way to training rows: one prompt for both halves, refusals with a judgement."""

from __future__ import annotations

import random
from typing import Any

import pytest

from core.errors import DatasetRejected
from generation.prompt import PromptPassage, is_not_found, not_found_text
from tuning.judged import as_answered, is_shown, judged_refusal, render_judged
from tuning.kinds import Method
from tuning.methods.work import rows_for
from tuning.refusals import make_refusals
from tuning.sources import SourceRow
from tuning.spec import TrainRow

FACT = "倉庫は9時に開きます"


def pair() -> dict[str, Any]:
    content = {
        "messages": [{"role": "user", "content": "倉庫は何時に開きますか。"}],
        "chosen": f"{FACT}。[1]",
        "rejected": "10時です。[1]",
        "passages": [{"text": f"{FACT}。17時に閉まります。"}],
    }
    return dict(as_answered(SourceRow("r", "d", 1, "0" * 64, content)).content)


def test_both_halves_of_a_pair_are_asked_over_the_same_passages_in_the_same_order() -> None:
    others = [PromptPassage("駐車場は裏にあります。"), PromptPassage("受付は2階です。")]
    places = set()
    for seed in range(20):
        row = render_judged(pair(), others, random.Random(seed)).row
        number = row.completion.rpartition("[")[2].rstrip("]")
        places.add(number)
        assert row.rejected is not None and row.rejected.endswith(f"[{number}]")  # renumbered with its better half
        assert row.gold == (int(number),) and row.facts == (FACT,) and not row.refusal
        assert f"[{number}] {FACT}" in row.prompt[-1].content
    assert places == {"1", "2", "3"}


def test_a_refusal_made_from_a_pair_is_better_than_the_answer_its_passages_no_longer_carry() -> None:
    contents = [pair() for _ in range(4)]
    made = make_refusals(contents, 0.5, random.Random(1))
    assert made
    for one in made:
        content = judged_refusal(one, contents[one.of])
        row = render_judged(content, [], random.Random(1)).row
        assert is_not_found(row.completion) and row.refusal
        assert row.rejected is not None and FACT in row.rejected


def test_what_somebody_judged_bad_is_not_shown_as_the_houses_own() -> None:
    assert is_shown(pair()) and is_shown({"label": True}) and not is_shown({"label": False})
    judged = {**pair(), "label": False}
    del judged["rejected"]
    assert render_judged(judged, [], random.Random(1)).row.label is False
    [made] = make_refusals([judged], 0.5, random.Random(1))
    assert judged_refusal(made, judged)["label"] is True


def row(**values: Any) -> TrainRow:
    return TrainRow.model_validate({"prompt": [{"role": "user", "content": "?"}], "completion": "good", **values})


def test_each_method_finds_its_rows() -> None:
    plain, both, up, down = row(), row(rejected="bad"), row(label=True), row(label=False)
    everything = [plain, both, up, down]
    assert rows_for(Method.SFT, everything) == [plain]
    assert rows_for(Method.SFT, [both, up, down]) == [both, up]  # none but judged ones: the better of them
    assert rows_for(Method.DPO, everything) == [both]
    found = rows_for(Method.KTO, everything)
    assert [(one.completion, one.label) for one in found] == [
        ("good", True), ("bad", False), ("good", True), ("good", False),
    ]  # fmt: skip
    with pytest.raises(DatasetRejected) as refused:
        rows_for(Method.REWARD, [plain, up])
    assert refused.value.code == "no_rows_for_method"


def test_the_houses_refusal_is_one() -> None:
    assert is_not_found(not_found_text("倉庫は何時に開きますか。"))
