"""Uploaded training sets: shapes, encodings, and a code for every line that cannot be used."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DatasetRejected
from tuning.datasets.formats import DatasetFormat
from tuning.datasets.parse import parse


def lines(*rows: Any) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows).encode()


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in pairs]


GOOD = {"instruction": "Q?", "output": "A."}
CHAT = turns(("user", "Q?"), ("assistant", "A."))


@pytest.mark.parametrize(
    ("row", "shape", "expected"),
    [
        (GOOD, DatasetFormat.ALPACA, {"messages": CHAT}),
        (
            {"instruction": "Q?", "input": "The passage.", "output": "A.", "system": "S", "history": [["a", "b"]]},
            DatasetFormat.ALPACA,
            {
                "messages": turns(
                    ("system", "S"), ("user", "a"), ("assistant", "b"), *[("user", "Q?"), ("assistant", "A.")]
                ),
                "passages": [{"text": "The passage."}],
            },
        ),
        (
            {"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]},
            DatasetFormat.SHAREGPT,
            {"messages": CHAT},
        ),
        (
            {"conversations": CHAT, "system": "S"},
            DatasetFormat.SHAREGPT,
            {"messages": [*turns(("system", "S")), *CHAT]},
        ),
        (
            {"utterances": [{"name": "user", "text": "Q?"}, {"name": "agent", "text": "A."}]},
            DatasetFormat.SHAREGPT,
            {"messages": CHAT},
        ),
        (
            {"messages": CHAT, "passages": ["P1", {"text": "P2", "title": "T"}]},
            DatasetFormat.MESSAGES,
            {"messages": CHAT, "passages": [{"text": "P1"}, {"text": "P2", "title": "T"}]},
        ),
        ({"prompt": "Q?", "completion": "A."}, DatasetFormat.PROMPT_COMPLETION, {"messages": CHAT}),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, DatasetFormat.PROMPT_COMPLETION, {"messages": CHAT}),
        (
            {"prompt": "Q?", "chosen": "A.", "rejected": "B."},
            DatasetFormat.PREFERENCE,
            {"messages": CHAT[:1], "chosen": "A.", "rejected": "B."},
        ),
        (
            {
                "conversations": [{"from": "human", "value": "Q?"}],
                "chosen": {"from": "gpt", "value": "A."},
                "rejected": {"from": "gpt", "value": "B."},
            },
            DatasetFormat.PREFERENCE,
            {"messages": CHAT[:1], "chosen": "A.", "rejected": "B."},
        ),
        (
            {"chosen": CHAT, "rejected": [*CHAT[:1], {"role": "assistant", "content": "B."}]},
            DatasetFormat.PREFERENCE,
            {"messages": CHAT[:1], "chosen": "A.", "rejected": "B."},
        ),
        ({"messages": CHAT, "label": False}, DatasetFormat.UNPAIRED, {"messages": CHAT, "label": False}),
    ],
)
def test_each_shape_becomes_one_canonical_row(row: Any, shape: DatasetFormat, expected: Any) -> None:
    for data in (lines(row), json.dumps([row], indent=2).encode()):
        parsed = parse(data)
        assert parsed.format is shape and not parsed.invalid
        assert [found.content for found in parsed.rows] == [expected]


def bad_chat(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"messages": turns(*pairs)}


@pytest.mark.parametrize(
    ("good", "bad", "code"),
    [
        (GOOD, "{not json", "not_json"),
        (GOOD, "[1, 2]", "not_object"),
        (GOOD, {"colour": "red"}, "unknown_shape"),
        (GOOD, {"instruction": "Q?"}, "missing_field"),
        (GOOD, {"instruction": "Q?", "output": "  "}, "empty_text"),
        (GOOD, {"instruction": "Q?", "output": 7}, "not_text"),
        (GOOD, {"instruction": "Q?", "output": "x" * 40_000}, "too_long"),
        (GOOD, {"instruction": "Q?", "output": "A", "history": ["a"]}, "wrong_turn"),
        (GOOD, '{"instruction": "Q?", "output": "\\ud800"}', "bad_unicode"),
        (GOOD, "[" * 100_000, "not_json"),
        (GOOD, '{"instruction": "Q?", "output": "A", "n": ' + "9" * 5_000 + "}", "not_json"),
        ({"messages": CHAT}, bad_chat(("user", "a")), "not_ending_with_assistant"),
        ({"messages": CHAT}, bad_chat(("assistant", "a")), "wrong_order"),
        ({"messages": CHAT}, bad_chat(("user", "a"), ("user", "b"), ("assistant", "c")), "wrong_order"),
        ({"messages": CHAT}, bad_chat(("user", "a"), ("narrator", "b")), "unknown_role"),
        ({"messages": CHAT}, bad_chat(("user", "a"), ("tool", "b"), ("assistant", "c")), "wrong_order"),
        ({"messages": CHAT}, bad_chat(("user", "a"), ("function_call", "not JSON"), ("tool", "b")), "bad_tool_call"),
        ({"messages": CHAT}, {"messages": []}, "empty_text"),
        ({"messages": CHAT}, {"messages": CHAT, "passages": [3]}, "bad_passages"),
    ],
)
def test_a_bad_row_is_reported_by_its_line_and_the_others_are_kept(good: Any, bad: Any, code: str) -> None:
    parsed = parse(lines(good, "", bad, good))
    assert [(row.line, row.code) for row in parsed.invalid] == [(3, code)]
    assert [row.line for row in parsed.rows] == [1, 4]
    assert parsed.duplicates == [(4, 1)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"[]", "empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\xff", "unknown_encoding"),
        (b'[{"instruction": "a", "output": "b"}', "not_json"),
        (b"[{} {}]", "not_json"),
        (b'{\n "instruction": "a",\n "output": "b"\n}', "not_json"),
        (b'{"colour": 1}', "unknown_format"),
        (b"just some words", "no_valid_rows"),
        (lines(GOOD, {"messages": CHAT}), "mixed_formats"),
        (lines({"instruction": "Q?", "output": ""}), "no_valid_rows"),
    ],
)
def test_a_file_of_which_nothing_can_be_used_is_rejected_with_a_code(data: bytes, code: str) -> None:
    with pytest.raises(DatasetRejected) as refused:
        parse(data)
    assert refused.value.code == code


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp932", "euc_jp", "iso2022_jp"])
def test_japanese_encodings_give_the_same_dataset(encoding: str) -> None:
    row = {
        "instruction": "返品の期限はいつですか。",
        "output": "お答えします。到着後14日以内です。表示価格は税込みです。",
    }
    text = json.dumps(row, ensure_ascii=False) + "\n"
    parsed = parse(text.encode(encoding))
    assert next(iter(parsed.rows)).content["messages"][1]["content"] == row["output"]
    assert parsed.encoding == {"utf-8-sig": "utf-8"}.get(encoding, encoding)
    assert parsed.digest == parse(text.encode()).digest
    assert parsed.languages == {"ja": 1}


def test_line_numbers_of_an_array_are_those_of_the_file() -> None:
    data = json.dumps([GOOD, {"instruction": "x", "output": ""}, GOOD], indent=1).encode()
    parsed = parse(data)
    wanted = [at for at, line in enumerate(data.decode().split("\n"), start=1) if line.strip() == "{"]
    assert [row.line for row in parsed.rows] + [row.line for row in parsed.invalid] == [wanted[0], wanted[2], wanted[1]]


@pytest.mark.parametrize("size", [2**16 - 40, 2**16, 3 * 2**16 + 7])
def test_elements_over_the_edges_of_blocks_are_whole(size: int) -> None:
    rows = [{"instruction": f"問{n}", "output": "あ" * 900, "n": n} for n in range(size // 900)]
    for text in (json.dumps(rows, ensure_ascii=False), json.dumps(rows, indent=2), "\n" * size + json.dumps(rows)):
        parsed = parse(text.encode())
        assert [row.content["messages"][0]["content"] for row in parsed.rows] == [row["instruction"] for row in rows]
        starts = [at for at, line in enumerate(text.split("\n"), start=1) if line.strip() == "{"]
        assert [row.line for row in parsed.rows] == (starts or [text.count("\n") + 1] * len(rows))


def test_numbers_over_the_edge_of_a_block_are_one_number() -> None:
    with pytest.raises(DatasetRejected) as refused:
        parse(b"[" + b" " * (2**16 - 3) + b"1234, 5]")
    assert [error.detail for error in refused.value.errors] == ["a row is an object, not int"] * 2


def test_what_is_longer_than_a_row_may_be_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.datasets.items.MAX_ROW_CHARS", 2**17)
    long = json.dumps({"instruction": "Q?", "output": "x" * 2**18})
    parsed = parse(lines(GOOD, long, GOOD))
    assert [(row.line, row.code) for row in parsed.invalid] == [(2, "too_long")]
    assert [row.line for row in parsed.rows] == [1, 3]
    with pytest.raises(DatasetRejected, match="over 131072 characters") as refused:
        parse(f"[{json.dumps(GOOD)}, {long}]".encode())
    assert refused.value.code == "not_json"


def test_encodings_are_told_from_all_of_a_file() -> None:
    many = "\n".join(json.dumps({"instruction": f"{n}", "output": "ok " * 40}) for n in range(20_000))
    last = json.dumps({"instruction": "返品", "output": "十四日以内です。"}, ensure_ascii=False)
    for encoding in ("cp932", "euc_jp", "iso2022_jp"):
        parsed = parse(f"{many}\n{last}".encode(encoding))
        assert (parsed.encoding, len(parsed.rows)) == (encoding, 20_001)
    with pytest.raises(DatasetRejected, match=f"byte {len(many) + 3} is not"):
        parse(b"\xef\xbb\xbf" + many.encode() + b"\xff")


def test_separators_inside_strings_do_not_break_rows() -> None:
    row = {"instruction": "line\u2028separator\u0085next", "output": "A."}
    assert len(parse(lines(row, row)).rows) == 2


def test_the_digest_ignores_key_order_and_invalid_rows() -> None:
    one = parse(lines({"instruction": "Q?", "output": "A."}, "{broken"))
    two = parse(lines({"output": "A.", "instruction": "Q?", "id": 9}))
    assert one.digest == two.digest and next(iter(one.rows)).digest == next(iter(two.rows)).digest


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_rejected_with_a_code(data: bytes) -> None:
    try:
        parsed = parse(data)
    except DatasetRejected as refused:
        assert refused.code != "dataset_rejected"
    else:
        assert parsed.rows


KEYS = [
    *["messages", "conversations", "role", "from", "content", "value", "text", "instruction", "input", "output"],
    *["prompt", "chosen", "rejected", "completion", "history", "passages", "system", "label"],
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(json_values, min_size=1, max_size=6))
def test_every_row_is_either_valid_or_reported(rows: list[Any]) -> None:
    try:
        parsed = parse(lines(*(json.dumps(row, ensure_ascii=False) for row in rows), GOOD))
    except DatasetRejected as refused:
        assert refused.code == "mixed_formats"
    else:
        assert len(parsed.rows) + len(parsed.invalid) == len(rows) + 1


CALL = {"name": "find_stock", "arguments": {"品番": "PPR-9087"}}


@pytest.mark.parametrize(
    "row",
    [
        {
            "conversations": [
                {"from": "human", "value": "在庫は？"},
                {"from": "function_call", "value": json.dumps(CALL, ensure_ascii=False)},
                {"from": "observation", "value": "12"},
                {"from": "gpt", "value": "12個です。"},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "在庫は？"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "1",
                            "type": "function",
                            "function": {"name": "find_stock", "arguments": json.dumps(CALL["arguments"])},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "1", "content": "12"},
                {"role": "assistant", "content": "12個です。"},
            ]
        },
    ],
)
def test_tool_calls_are_kept(row: dict[str, Any]) -> None:
    (kept,) = parse(lines(row)).rows
    assert kept.content["messages"] == [
        {"role": "user", "content": "在庫は？"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "12"},
        {"role": "assistant", "content": "12個です。"},
    ]


def test_every_row_of_the_measuring_files_is_accounted_for() -> None:
    folder = Path(os.environ.get("TSUMUGI_DATA", "")) / "tuning"
    if not os.environ.get("TSUMUGI_DATA") or not folder.is_dir():
        pytest.skip("TSUMUGI_DATA names no folder with tuning/: files as they occur were not imported")
    for path in sorted(folder.glob("*.json*")):
        text = path.read_text("utf-8")
        total = len(json.loads(text)) if path.suffix == ".json" else sum(1 for one in text.split("\n") if one.strip())
        parsed = parse(text.encode())
        assert len(parsed.rows) + len(parsed.invalid) == total > 0, path.name
