"""Formats of answers: what is taken, what is refused under which code, and what a citation of a JSON answer is."""

from __future__ import annotations

from typing import Any

import pytest

from core.answer_format import parse_response_format
from core.errors import InvalidInput
from core.types import AnswerFormat
from generation.json_answers import cite_json, format_hint, leaves
from tests.api_app import PASSAGE


def given(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "leave", "schema": schema, "strict": True}}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


ROOT = {"type": "object"}


def test_what_openai_clients_send_is_taken() -> None:
    assert parse_response_format(None) is parse_response_format({"type": "text"}) is None
    assert parse_response_format({"type": "json_object"}) == AnswerFormat()
    made = parse_response_format(given({"type": "object", "properties": {"名前": {"type": "string"}}}))
    assert made is not None and made.name == "leave" and made.schema is not None and "名前" in made.schema
    shared = {**ROOT, "$defs": {"day": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/day"}}}
    assert parse_response_format(given(shared)) is not None
    named_like_keywords = {**ROOT, "properties": {"$ref": {"type": "string"}, "enum": {"type": "string"}}}
    assert parse_response_format(given(named_like_keywords)) is not None


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"type": "yaml"}, "response_format_invalid"),
        ({"type": "json_schema"}, "response_format_invalid"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": []}}, "response_format_invalid"),
        ({"type": "json_schema", "json_schema": {"name": "", "schema": ROOT}}, "response_format_invalid"),
        (given({"type": "string"}), "schema_invalid"),
        (given({**ROOT, "properties": {"a": {"$ref": "#/$defs/nowhere"}}}), "schema_invalid"),
        (given({**ROOT, "properties": {"a": {"$ref": "http://169.254.169.254/latest"}}}), "schema_unsupported"),
        (given({**ROOT, "properties": {"a": {"$ref": "#"}}}), "schema_unsupported"),
        (
            given(
                {
                    **ROOT,
                    "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}},
                    "properties": {"a": {"$ref": "#/$defs/n"}},
                }
            ),
            "schema_recursive",
        ),
        (given(nested(30)), "schema_too_large"),
        (given({**ROOT, "properties": {f"p{n}": {"type": "null"} for n in range(501)}}), "schema_too_large"),
        (given({**ROOT, "properties": {"a": {"enum": list(range(1001))}}}), "schema_too_large"),
        (given({**ROOT, "properties": {"a": {"type": "string", "pattern": "a?" * 300}}}), "schema_too_large"),
        (given({**ROOT, "description": "x" * 40_000}), "schema_too_large"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_code(value: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_response_format(value)
    assert refused.value.code == code
    assert refused.value.errors[0].location == "response_format"


def test_values_are_found_in_the_text_and_keys_are_not() -> None:
    text = '{"days": 25, "who": "Full-time \\"staff\\"", "kana": "\\u304b", "none": null, "cut": "off'
    found = list(leaves(text))
    assert [leaf.value for leaf in found] == ["25", 'Full-time "staff"', "か"]
    assert text[found[1].start : found[1].end] == 'Full-time \\"staff\\"'


def test_each_value_that_a_passage_carries_is_cited() -> None:
    answer = '{"days": 25, "who": "full-time staff", "digit": 5, "made_up": "on the moon", "marked": "99 days [1]"}'
    cited = cite_json(answer, [PASSAGE], question="How many days?")
    values = [(answer[c.answer_start : c.answer_end], c.verified) for c in cited]
    assert values == [("25", True), ("full-time staff", True), ("99 days [1]", False)]
    for citation in cited:
        assert PASSAGE.text[citation.start - PASSAGE.start : citation.end - PASSAGE.start] == citation.quote


def test_the_hint_shows_the_shape() -> None:
    schema = {
        **ROOT,
        "$defs": {"item": {"type": "object", "properties": {"品名": {"type": "string"}}}},
        "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/item"}}, "ok": {"enum": ["yes", None]}},
    }
    made = parse_response_format(given(schema))
    assert made is not None
    assert format_hint(made) == 'JSON: {"items": [{"品名": string}, ...], "ok": "yes" | null}'
    assert format_hint(AnswerFormat()) == "JSON: {...}"
