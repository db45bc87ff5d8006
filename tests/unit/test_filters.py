from __future__ import annotations

from typing import Any

import pytest

from core.errors import InvalidInput
from retrieval.filters import MAX_KEYS, MAX_VALUES, parse_filters


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
