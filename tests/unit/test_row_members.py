"""What rows carry beside an answer: harmless forms are taken, what no training follows is told by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import DatasetRejected
from tests.unit.test_tuning_prepare import prepared
from tuning.datasets.parse import parse

ASK, ANSWER = {"role": "user", "content": "何日?"}, {"role": "assistant", "content": "25日です。"}


def read(*rows: dict[str, Any]) -> Any:
    return parse("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        ([{"role": "system", "content": ""}], []),
        ([{"role": "system", "content": "  "}], []),
        ([{"role": "system", "content": None}], []),
        ([{"role": "developer", "content": "丁寧に。"}], ["丁寧に。"]),
        (
            [{"role": "system", "content": "短く。"}, {"role": "developer", "content": "丁寧に。"}],
            ["短く。\n\n丁寧に。"],
        ),
        ([{"role": "system", "content": [{"type": "text", "text": "短く。"}]}], ["短く。"]),
    ],
)
def test_system_texts_of_every_harmless_form_are_taken(head: list[dict[str, Any]], wanted: list[str]) -> None:
    found = read({"messages": [*head, ASK, ANSWER]})
    assert found.invalid == []
    turns = next(iter(found.rows)).content["messages"]
    assert [turn["content"] for turn in turns if turn["role"] == "system"] == wanted
    assert turns[-2:] == [ASK, ANSWER]


def test_text_parts_are_one_text_and_other_parts_are_named() -> None:
    parts = [{"type": "text", "text": "何"}, {"type": "text", "text": "日?"}]
    found = read(
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": ["25日", "です。"]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, ANSWER]},
        {"messages": [{"role": "user", "content": [7]}, ANSWER]},
        {"messages": [{"role": "user", "content": []}, ANSWER]},
    )
    assert [turn["content"] for turn in next(iter(found.rows)).content["messages"]] == ["何\n日?", "25日\nです。"]
    assert [(row.line, row.code) for row in found.invalid] == [(2, "not_text"), (3, "not_text"), (4, "empty_text")]
    assert "image_url" in found.invalid[0].detail


def test_what_no_training_follows_is_reported_by_line() -> None:
    found = read(
        {"messages": [ASK, {**ANSWER, "weight": 1}], "tools": [{"name": "f"}], "id": "a"},
        {"messages": [ASK, ANSWER, ASK, ANSWER], "parallel_tool_calls": False},
        {"messages": [{"role": "developer", "content": "短く。"}, ASK, ANSWER], "score": 0.5, "tools": []},
        {"messages": [ASK, ANSWER]},
    )
    assert {name: entry["lines"] for name, entry in found.untrained.items()} == {
        "earlier_turns": [2], "parallel_tool_calls": [2], "score": [3], "system": [3], "tools": [1], "weight": [1],
    }  # fmt: skip
    assert all(entry["detail"] and entry["rows"] == 1 for entry in found.untrained.values())
    alpaca = read({"instruction": "何日?", "output": "25日。", "input": "規則", "history": [["a", "b"]], "mood": "x"})
    assert set(alpaca.untrained) == {"earlier_turns", "mood"}


def test_an_answer_of_no_weight_is_not_trained_on() -> None:
    with pytest.raises(DatasetRejected) as refused:
        read({"messages": [ASK, {**ANSWER, "weight": 0}]})
    assert [error.code for error in refused.value.errors] == ["not_to_be_trained"]
    earlier = [ASK, {**ANSWER, "weight": 0}, ASK, ANSWER]
    assert len(read({"messages": earlier}).rows) == 1


def test_a_member_of_another_type_than_it_should_be_ends_nothing() -> None:
    worse = {"role": "assistant", "content": "知りません。"}
    found = read({"chosen": [ASK, ANSWER], "rejected": [ASK, worse], "conversations": 7})
    assert len(found.rows) == 1 and found.untrained == {}


def test_a_run_with_too_few_rows_says_why_the_others_were_left_out(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}
    tools = [ASK, call, {"role": "tool", "content": "25"}, ANSWER]
    contents: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": f"{n}は?"}, ANSWER]} for n in range(10)]
    contents += [{"messages": tools}, {"messages": [ASK, {"role": "assistant", "content": "<|im_end|>"}]}]
    with pytest.raises(DatasetRejected) as refused:
        prepared(tmp_path, contents)
    assert refused.value.code == "too_few_rows"
    assert refused.value.extra["reasons"] == {"tool_calls": 1, "special_token_in_row": 1}
    assert "1 tool_calls" in refused.value.detail and "1 special_token_in_row" in refused.value.detail
    assert [error.code for error in refused.value.errors] == ["tool_calls", "special_token_in_row"]
