"""What is shown again, what is never held out, and which versions a run may go on from."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import DatasetRejected
from tuning.chain import chain_link, common_audience, replayed, shape_mismatch
from tuning.recipe import load_recipe
from tuning.sources import SourceRow
from tuning.split import split


def row(number: int, passage: str | None = None) -> SourceRow:
    content: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": f"Question {number}: what is in crate {number * 31}?"},
            {"role": "assistant", "content": f"Crate {number * 31} holds {number * number} apples of kind {number}."},
        ]
    }
    if passage:
        content["passages"] = [{"text": passage}]
    return SourceRow(f"row_{number}", "dst", number, f"{number:064x}", content)


@pytest.mark.parametrize(("share", "new", "old", "both", "wanted"), [
    (0.3, 70, 100, 0, 30), (0.5, 10, 100, 0, 10), (0.0, 50, 50, 0, 0), (0.3, 70, 5, 0, 5), (0.3, 70, 100, 30, 0),
    (0.3, 70, 100, 10, 20), (0.9, 1, 100, 0, 9),
])  # fmt: skip
def test_a_share_of_old_rows_is_shown_again(share: float, new: int, old: int, both: int, wanted: int) -> None:
    trained = [row(number) for number in range(old)]
    rows = [row(1000 + number) for number in range(new)] + trained[:both]
    again = replayed(rows, trained, share, seed=1)
    assert len(again) == wanted and not {one.id for one in again} & {one.id for one in rows}
    assert again == replayed(rows, trained, share, seed=1)


def test_what_was_trained_on_is_never_held_out_nor_what_shares_a_passage_with_it() -> None:
    contents = [row(number, passage=f"Passage of crates {number // 2}").content for number in range(80)]
    trained = list(range(0, 40, 2))
    train, held = split(contents, seed=17, trained=trained)
    assert set(trained) <= set(train) and min(held) >= 40 and len(held) >= 8
    with pytest.raises(DatasetRejected) as refused:
        split(contents, seed=17, trained=range(0, 80, 2))
    assert refused.value.code == "cannot_hold_out"


def test_weights_start_only_in_an_adapter_of_the_same_shape() -> None:
    recipe = load_recipe("style-cpu", {"lora.rank": 8, "lora.targets": ["v_proj", "q_proj"]})
    config = {
        "peft_type": "LORA", "r": 8, "lora_alpha": recipe.lora.alpha, "use_rslora": True,
        "target_modules": ["q_proj", "v_proj"],
    }  # fmt: skip
    assert shape_mismatch(recipe, config) is None
    assert "rank 4" in str(shape_mismatch(recipe, {**config, "r": 4}))
    assert "rank_stabilised" in str(shape_mismatch(recipe, {**config, "use_rslora": False}))
    assert "targets" in str(shape_mismatch(recipe, {**config, "target_modules": ["q_proj"]}))
    assert "PROMPT_TUNING" in str(shape_mismatch(recipe, {**config, "peft_type": "PROMPT_TUNING"}))


def test_the_audience_of_a_chain_only_narrows() -> None:
    assert common_audience(None, None) is None
    assert common_audience(["a", "b"], None) == ["a", "b"] == common_audience(None, ["b", "a"][::-1])
    assert common_audience(["a", "b"], ["b", "c"]) == ["b"] and common_audience(["a"], ["c"]) == []


def test_a_link_says_what_a_version_did_to_neutral_text() -> None:
    checks = [
        {"name": "general", "against": "champion", "difference": -0.1},
        {"name": "general", "against": "base", "difference": -0.4},
    ]
    assert chain_link("house@v1", {"checks": checks}) == {"version": "house@v1", "general": -0.4}
    assert chain_link("house@v1", {}) == {"version": "house@v1", "general": None}
