"""Cursors, times and schemas from outside: whatever they hold, they are read or refused, and never a fault of ours."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from api.schemas.curated import Moment
from core.answer_format import check_schema
from core.errors import InvalidInput, TooLarge
from core.moments import read_moment
from core.paging import decode_cursor, decode_ordinal, encode_cursor, encode_ordinal
from core.types import AnswerFormat
from generation.json_answers import format_hint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TIMES = st.datetimes(timezones=st.none() | st.timezones())


def packed(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        packed(["0001-01-01T00:00:00+09:00", "a"]),
        packed(["9999-12-31T23:59:59-09:00", "a"]),
        packed(["2025-01-01T00:00:00+00:00", "\ud800"]),
        packed(["2025-01-01T00:00:00+00:00", "a\x00"]),
        packed(["2025-01-01T00:00:00", "a"]),
        packed("[" * 3),
        base64.urlsafe_b64encode(b"[" * 700).decode(),
        "é",
        "",
        "A" * 100_000,
    ],
)
def test_a_cursor_that_is_none_of_ours_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        decode_cursor(cursor)
    assert refused.value.code == "invalid_cursor"


@given(JSON | st.tuples(TIMES.map(str) | TIMES.map(datetime.isoformat), st.text()).map(list))
def test_any_packed_value_is_a_cursor_or_refused(value: Any) -> None:
    try:
        moment, row_id = decode_cursor(packed(value))
    except InvalidInput:
        return
    row_id.encode("utf-8")
    assert decode_cursor(encode_cursor(moment, row_id)) == (moment.astimezone(UTC), row_id)


@pytest.mark.parametrize(
    "cursor", ["1." + "9" * 30, "9" * 5_000 + ".1", "1.٣", "1.", ".1", "1", "-1.2", "1.2\n", "1.+2"]
)
def test_an_ordinal_that_no_document_has_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        decode_ordinal(cursor)
    assert refused.value.code == "invalid_cursor"


@given(st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
def test_our_own_ordinals_come_back(generation: int, ordinal: int) -> None:
    assert decode_ordinal(encode_ordinal(generation, ordinal)) == (generation, ordinal)


@given(TIMES.map(datetime.isoformat) | st.text(max_size=40))
def test_any_text_is_a_time_in_utc_or_refused(text: str) -> None:
    from pydantic import TypeAdapter

    found = read_moment(text)
    assert found is None or all(part.tzinfo is UTC for part in found)
    try:
        moment = TypeAdapter(Moment).validate_python(text)
    except ValidationError:
        return
    assert moment.tzinfo is UTC


KEYWORDS = st.sampled_from(
    ["type", "properties", "patternProperties", "$defs", "enum", "const", "anyOf", "oneOf", "items", "$ref", "pattern"]
)


@settings(max_examples=300)
@given(st.dictionaries(KEYWORDS, JSON | st.dictionaries(KEYWORDS, JSON, max_size=3), max_size=4))
def test_any_schema_is_bounded_or_refused(schema: dict[str, Any]) -> None:
    schema["type"] = "object"
    try:
        check_schema(schema)
    except (InvalidInput, TooLarge):
        return
    assert format_hint(AnswerFormat(schema=json.dumps(schema))).startswith("JSON: ")


@pytest.mark.parametrize("keyword", ["properties", "patternProperties", "$defs", "enum", "anyOf"])
def test_a_keyword_of_the_wrong_kind_is_named(keyword: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_schema({"type": "object", keyword: 5})
    assert refused.value.code == "schema_invalid" and keyword in refused.value.detail
