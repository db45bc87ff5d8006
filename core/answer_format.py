"""`response_format` as OpenAI has it, checked and bounded before anything compiles it.

Everything here is counted, not timed, so that a schema is refused or taken alike on every machine. Whether a grammar
can follow it is said by the engine; what is refused here is refused for every engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from core.errors import FieldError, InvalidInput, TooLarge
from core.types import AnswerFormat

MAX_SCHEMA_BYTES: Final = 32_768
"""Of the schema as canonical JSON."""
MAX_DEPTH: Final = 24
"""Levels of nesting of the schema's JSON."""
MAX_PROPERTIES: Final = 500
MAX_ENUM_VALUES: Final = 1_000
MAX_PATTERN_CHARS: Final = 500
MAX_NAME_CHARS: Final = 64

_FIELD: Final = "response_format"
_LOCAL: Final = "#/"
_NAMED: Final = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})
"""Members that hold schemas by names which are no keywords."""

_KINDS: Final[Mapping[str, type]] = {
    **dict.fromkeys(_NAMED, dict),
    **dict.fromkeys(("enum", "anyOf", "oneOf", "allOf", "prefixItems"), list),
}


def parse_response_format(value: Mapping[str, Any] | None) -> AnswerFormat | None:
    """The format of an answer; None for free text.

    Raises:
        InvalidInput: `response_format_invalid`, `schema_invalid`, `schema_recursive`, `schema_unsupported`.
        TooLarge: `schema_too_large`.
    """
    if value is None or value.get("type") == "text":
        return None
    if value.get("type") == "json_object":
        return AnswerFormat()
    given = value.get("json_schema")
    if value.get("type") != "json_schema" or not isinstance(given, Mapping):
        raise _refused("response_format_invalid", "type is text, json_object, or json_schema with `json_schema`")
    name = given.get("name", "answer")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS:
        raise _refused("response_format_invalid", f"json_schema.name takes 1 to {MAX_NAME_CHARS} characters")
    schema = given.get("schema")
    if not isinstance(schema, dict):
        raise _refused("response_format_invalid", "json_schema.schema must be a JSON object")
    check_schema(schema)
    return AnswerFormat(name=name, schema=json.dumps(schema, ensure_ascii=False, separators=(",", ":")))


def check_schema(schema: dict[str, Any]) -> None:
    """Bound a schema.

    Raises:
        InvalidInput: `schema_invalid`, `schema_recursive`, `schema_unsupported`.
        TooLarge: `schema_too_large`; `extra` names which limit.
    """
    _bound("nesting", _depth(schema), MAX_DEPTH)
    _bound("bytes", len(json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode()), MAX_SCHEMA_BYTES)
    if schema.get("type") != "object":
        raise _refused("schema_invalid", "the schema's root must have `type: object`")
    properties, values = 0, 0
    for node in _schemas(schema):
        for keyword, kind in _KINDS.items():
            if keyword in node and not isinstance(node[keyword], kind):
                wanted = "a list" if kind is list else "an object"
                raise _refused("schema_invalid", f"`{keyword}` must be {wanted}")
        properties += len(node.get("properties", {}))
        values += len(node.get("enum", []))
        patterns = [node.get("pattern"), *node.get("patternProperties", {})]
        _bound("pattern", max(len(str(pattern or "")) for pattern in patterns), MAX_PATTERN_CHARS)
        reference = node.get("$ref")
        if reference is not None and not (isinstance(reference, str) and reference.startswith(_LOCAL)):
            # Never fetched: a schema must not make this service call anybody.
            raise _refused("schema_unsupported", "`$ref` may only point into the schema itself, as `#/$defs/NAME`")
    _bound("properties", properties, MAX_PROPERTIES)
    _bound("enum", values, MAX_ENUM_VALUES)
    _refuse_recursion(schema)


def _refuse_recursion(schema: dict[str, Any]) -> None:
    """An answer of bounded depth: small models nest for ever where they may."""
    targets: dict[str, dict[str, Any]] = {}
    for node in _schemas(schema):
        reference = node.get("$ref")
        if isinstance(reference, str) and reference not in targets:
            targets[reference] = _resolve(schema, reference)
    uses = {
        name: {str(node["$ref"]) for node in _schemas(target) if "$ref" in node} for name, target in targets.items()
    }
    settled: set[str] = set()
    while True:
        ready = {name for name, used in uses.items() if name not in settled and used <= settled}
        if not ready:
            break
        settled |= ready
    if len(settled) < len(uses):
        where = min(set(uses) - settled)
        raise _refused("schema_recursive", f"{where} refers to itself; the answer must have a bounded depth")


def _resolve(schema: dict[str, Any], reference: str) -> dict[str, Any]:
    place: Any = schema
    for part in reference.removeprefix(_LOCAL).split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        place = place.get(key) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise _refused("schema_invalid", f"`$ref` points to nothing: {reference[:100]}")
    return place


def _schemas(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema inside a schema, itself first; names of properties are not taken for keywords."""
    if not isinstance(node, dict):
        return
    yield node
    for key, value in node.items():
        if key in _NAMED and isinstance(value, dict):
            inner = list(value.values())
        elif key in {"enum", "const", "default", "examples"}:
            continue
        else:
            inner = value if isinstance(value, list) else [value]
        for item in inner:
            yield from _schemas(item)


def _depth(value: Any) -> int:
    """Nesting of a JSON value, without recursion of its own."""
    deepest, level = 0, [value]
    while level:
        level = [
            item
            for node in level
            if isinstance(node, dict | list)
            for item in (node.values() if isinstance(node, dict) else node)
        ]
        deepest += 1
        if deepest > MAX_DEPTH:
            break
    return deepest


def _bound(what: str, actual: int, limit: int) -> None:
    if actual > limit:
        detail = f"the schema's {what} is over the limit of {limit}"
        raise TooLarge(
            detail,
            code="schema_too_large",
            errors=[FieldError(_FIELD, detail, "schema_too_large")],
            extra={"measure": what, "limit": limit, "actual": actual},
        )


def _refused(code: str, detail: str) -> InvalidInput:
    return InvalidInput(detail, code=code, errors=[FieldError(_FIELD, detail, code)])
