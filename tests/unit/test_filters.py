from __future__ import annotations

from typing import Any

import pytest

from core.errors import InvalidInput
from retrieval.filters import MAX_KEYS, MAX_VALUES, parse_filters


def passes(condition: Any, value: Any) -> bool:
    return parse_filters({"key": condition}).metadata["key"].holds(value)


@pytest.mark.parametrize(
    ("condition", "value", "expected"),
    [
        ("sales", "sales", True),
        ("sales", "Sales", False),
        ("営業部", "営業部", True),
        ("ＫＳ－５０", "KS-50", True),
        (["hr", "sales"], "sales", True),
        (["hr"], ["it", "hr"], True),
        (7, 7, True),
        (7, "7", False),
        (1, True, False),
        (True, 1, False),
        (True, True, True),
        (None, None, True),
        (None, [], True),
        (None, "x", False),
        (["x", None], None, True),
        ("x", None, False),
        ({"gte": 2}, 2, True),
        ({"gt": 2}, 2, False),
        ({"gt": 1, "lt": 3}, [9, 2], True),
        ({"gt": 1}, True, False),
        ({"gt": 1}, "2", False),
        ({"gte": "2025-04-01"}, "2025年4月1日", True),
        ({"lte": "2025-03-31"}, "2025-03-31T15:00:00Z", True),
        ({"lt": "2025-03-31"}, "2025/3/31", False),
        ({"gt": "2025-03-31"}, "2025-03-31T23:59:59Z", False),
        ({"gt": "2025-03-31"}, "２０２５年４月１日", True),
        ({"gte": "2025-04-01T00:00:00+09:00"}, "2025-03-31T15:00:00Z", True),
        ({"gt": "2025-04-01T00:00:00+09:00"}, "2025-03-31T15:00:00Z", False),
    ],
)
def test_a_condition_holds_as_written(condition: Any, value: Any, expected: bool) -> None:
    assert passes(condition, value) is expected


@pytest.mark.parametrize("value", [None, "some day", "2025-13-40", 20250401, []])
def test_an_undated_document_passes_a_range_only_when_asked(value: Any) -> None:
    assert passes({"gte": "2025-04-01"}, value) is False
    assert passes({"gte": "2025-04-01", "missing": True}, value) is True
    assert passes({"gte": "2025-04-01", "missing": True}, "2025-03-01") is False


@pytest.mark.parametrize(
    "raw",
    [
        {"key": []},
        {"key": list(range(MAX_VALUES + 1))},
        {"key": "x" * 501},
        {"key": {"a": 1}},
        {"key": {}},
        {"key": {"missing": True}},
        {"key": {"gte": "someday"}},
        {"key": {"gte": float("nan")}},
        {"key": {"gte": 1, "lt": "2025-01-01"}},
        {"key": {"gte": 1, "missing": "yes"}},
        {"key": [["nested"]]},
        {"": 1},
        {"metadata.": 1},
        {"filename": 3},
        {"document_id": None},
        {"groups": {"gte": 1}},
        {"created_at": "2025-01-01"},
        {"created_at": {"gte": 5}},
        {"updated_at": {"gte": "2025-01-01", "missing": True}},
        {str(n): 1 for n in range(MAX_KEYS + 1)},
    ],
)
def test_what_cannot_be_used_is_refused_with_its_key(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_filters(raw)
    assert caught.value.code == "filter_invalid" and caught.value.errors[0].location.startswith("filters")


def test_reserved_names_reach_metadata_by_their_prefix() -> None:
    parsed = parse_filters({"metadata.filename": 3, "filename": "a.txt", "metadata.metadata.x": 1})
    assert set(parsed.columns) == {"filename"} and set(parsed.metadata) == {"filename", "metadata.x"}
