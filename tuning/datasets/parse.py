"""An uploaded file to canonical rows plus a report in which every line that cannot be used has its code."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from core.errors import DatasetRejected, FieldError
from core.language import language_of
from tuning.datasets.decode import decode
from tuning.datasets.formats import DatasetFormat, RowRefused, canonical, detect
from tuning.datasets.untrained import members_of, untrained

MAX_ROWS = 200_000
_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """A valid row; `line` is where it starts in the file, from 1."""

    line: int
    content: dict[str, Any]
    digest: str


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that was left out, and why."""

    line: int
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class ParsedDataset:
    """All that is known of a file. `digest` covers format and valid rows in order, not the invalid ones."""

    format: DatasetFormat
    encoding: str
    digest: str
    rows: list[ParsedRow]
    invalid: list[InvalidRow]
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    """(line, line of the first row with the same content)"""
    languages: dict[str, int] = field(default_factory=dict)
    untrained: dict[str, dict[str, Any]] = field(default_factory=dict)
    """`untrained.untrained` of the valid rows."""


def row_digest(content: dict[str, Any]) -> str:
    """sha256 over the canonical row, independent of key order."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def parse(data: bytes) -> ParsedDataset:
    """Read JSON lines or one JSON array.

    Raises:
        DatasetRejected: `empty`, `unknown_encoding`, `not_json`, `unknown_format`, `mixed_formats`, `too_many_rows`
            or `no_valid_rows`; nothing of the file can be used then.
    """
    text, encoding = decode(data)
    invalid: list[InvalidRow] = []
    rows: list[ParsedRow] = []
    members: list[tuple[int, set[str]]] = []
    shape: DatasetFormat | None = None
    others: list[tuple[int, DatasetFormat]] = []
    for line, item in _items(text):
        if len(rows) + len(invalid) >= MAX_ROWS:
            raise DatasetRejected(f"more than {MAX_ROWS} rows; split the file", code="too_many_rows")
        if isinstance(item, RowRefused):
            invalid.append(InvalidRow(line, item.code, item.detail))
            continue
        if not isinstance(item, dict):
            invalid.append(InvalidRow(line, "not_object", f"a row is an object, not {type(item).__name__}"))
            continue
        found = detect(item)
        if found is None:
            keys = ", ".join(sorted(map(str, item))[:8])
            invalid.append(InvalidRow(line, "unknown_shape", f"no known format has the fields: {keys[:200]}"))
            continue
        shape = shape or found
        if found is not shape:
            others.append((line, found))
            continue
        try:
            content = canonical(item, shape)
        except RowRefused as refused:
            invalid.append(InvalidRow(line, refused.code, refused.detail))
        else:
            rows.append(ParsedRow(line, content, row_digest(content)))
            members.append((line, members_of(item, shape, content)))
    if shape is not None and others:
        raise DatasetRejected(
            f"the file mixes formats: it starts as '{shape}', line {others[0][0]} is '{others[0][1]}'; "
            "upload one file per format",
            code="mixed_formats",
            errors=[FieldError(f"line {line}", f"is '{found}'", "mixed_formats") for line, found in others[:50]],
        )
    if shape is None or not rows:
        known_none = shape is None and any(row.code == "unknown_shape" for row in invalid)
        raise DatasetRejected(
            "no row is of a known format" if known_none else "no row of the file can be used",
            code="unknown_format" if known_none else "no_valid_rows",
            errors=[FieldError(f"line {row.line}", row.detail, row.code) for row in invalid[:50]],
        )
    return replace(_finish(shape, encoding, rows, invalid), untrained=untrained(members))


def _finish(shape: DatasetFormat, encoding: str, rows: list[ParsedRow], invalid: list[InvalidRow]) -> ParsedDataset:
    first: dict[str, int] = {}
    duplicates = []
    languages: Counter[str] = Counter()
    whole = hashlib.sha256(shape.encode())
    for row in rows:
        whole.update(bytes.fromhex(row.digest))
        if row.digest in first:
            duplicates.append((row.line, first[row.digest]))
        first.setdefault(row.digest, row.line)
        reply = row.content.get("chosen") or row.content["messages"][-1]["content"]
        languages[language_of(reply).value] += 1
    return ParsedDataset(shape, encoding, whole.hexdigest(), rows, invalid, duplicates, dict(sorted(languages.items())))


def _items(text: str) -> Iterator[tuple[int, Any]]:
    """(line, value or RowRefused) of each row."""
    return _array_items(text) if _is_array(text) else _line_items(text)


def _is_array(text: str) -> bool:
    """Whether the rows are elements of one array. Lines of which the first happens to be a whole array are lines."""
    body = text.strip(_SPACE)
    if not body.startswith("["):
        return False
    first, _, rest = body.partition("\n")
    try:
        return not (rest and isinstance(json.loads(first), list))
    except (ValueError, RecursionError):
        return True


def _line_items(text: str) -> Iterator[tuple[int, Any]]:
    # Not splitlines(): it would break rows at U+2028 and U+0085, which JSON strings may hold.
    lines = text.split("\n")
    if len(lines) > 1 and _whole_object(text):
        raise DatasetRejected(
            "the file is one JSON object; rows come as JSON lines or as one JSON array", code="not_json"
        )
    for number, raw in enumerate(lines, start=1):
        line = raw.strip(_SPACE)
        if not line:
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, RowRefused("not_json", f"not JSON: {error}"[:200])


def _whole_object(text: str) -> bool:
    """A pretty-printed single object: as lines it would give one nonsense report per line."""
    if not text.lstrip(_SPACE).startswith("{") or text.lstrip(_SPACE)[1:].lstrip(" \t\r")[:1] != "\n":
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _array_items(text: str) -> Iterator[tuple[int, Any]]:
    """Elements of a JSON array, read one by one so that each knows its line."""
    decoder = json.JSONDecoder()
    position = text.index("[") + 1
    line, counted = 1, 0

    def broken(detail: str) -> DatasetRejected:
        at = text.count("\n", 0, position) + 1
        return DatasetRejected(
            f"the JSON array breaks off at line {at}: {detail}",
            code="not_json",
            errors=[FieldError(f"line {at}", detail, "not_json")],
        )

    position = _skip(text, position)
    if text[position : position + 1] == "]":
        raise DatasetRejected("the array is empty", code="empty")
    while True:
        line += text.count("\n", counted, position)
        counted = position
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise broken(str(error)[:200]) from error
        yield line, value
        position = _skip(text, position)
        mark = text[position : position + 1]
        if mark == "]":
            if text[position + 1 :].strip(_SPACE):
                raise broken("text after the end of the array")
            return
        if mark != ",":
            raise broken("a comma or ] is missing")
        position = _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position
