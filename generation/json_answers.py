"""JSON answers: how the model is told of a format, and what a citation of a JSON answer is.

Each string or number in the answer is a claim of its own; its span is that of the value as it stands in the answer's
text, without the quotes. Keys, `true`, `false` and `null` claim nothing that could be found in a passage.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.types import AnswerFormat, Citation, Passage
from generation.citations import MARKER, cite_claim, informative_weight

PROMPT_SUFFIX: Final = "+json-1"
"""Added to the prompt version of answers that were asked for in a format: their question says so."""
_LONGEST_HINT_CHARS: Final = 1_500
_TOKEN: Final = re.compile(
    r'"(?P<string>(?:[^"\\]|\\.)*+)(?:"(?P<key>\s{0,80}:)?|(?P<cut>\\?\Z))|(?P<number>-?\d++(?:\.\d++)?(?:[eE][+-]?\d++)?)',
    re.DOTALL,
)


def format_hint(answer_format: AnswerFormat) -> str:
    """A line that tells the shape; measured on the embedded model, an answer without it reads five times as badly."""
    if answer_format.schema is None:
        return "JSON: {...}"
    schema = json.loads(answer_format.schema)
    shape = _shape(schema, schema)
    return f"JSON: {shape}" if len(shape) <= _LONGEST_HINT_CHARS else "JSON: {...}"


def _shape(schema: Any, root: dict[str, Any]) -> str:
    if not isinstance(schema, dict):
        return "..."
    if isinstance(schema.get("$ref"), str):
        place: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            place = place.get(part, {}) if isinstance(place, dict) else {}
        return _shape(place, root)
    if "enum" in schema or "const" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema.get("enum", [schema.get("const")]))
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list):
        return " | ".join(_shape(option, root) for option in options)
    if isinstance(schema.get("properties"), dict):
        members = (
            f"{json.dumps(name, ensure_ascii=False)}: {_shape(inner, root)}"
            for name, inner in schema["properties"].items()
        )
        return "{" + ", ".join(members) + "}"
    if schema.get("type") == "array":
        return f"[{_shape(schema.get('items'), root)}, ...]"
    kinds = schema.get("type", "...")
    return " | ".join(map(str, kinds)) if isinstance(kinds, list) else str(kinds)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value in a JSON text: text[start:end] is its source without quotes, `value` what it says."""

    start: int
    end: int
    value: str


def leaves(text: str) -> Iterator[Leaf]:
    """Strings and numbers of a JSON text that are values, in order; of one that was cut off, those that are whole."""
    for match in _TOKEN.finditer(text):
        if match["number"] is not None:
            yield Leaf(match.start(), match.end(), match["number"])
        elif match["key"] is None and match["cut"] is None:
            start, end = match.span("string")
            try:
                value = json.loads(f'"{match["string"]}"', strict=False)
            except ValueError:
                continue
            yield Leaf(start, end, value)


def cite_json(answer: str, passages: Sequence[Passage], *, question: str = "") -> list[Citation]:
    """Citations of a JSON answer, in the order of its values.

    A value with markers (`25 days [1]`) cites the passages that it names, verified or not, as in plain answers. A value
    without one is cited where a passage carries it, best passage first; one that none carries has no citation.
    """
    citations: list[Citation] = []
    for leaf in leaves(answer):
        claim = MARKER.sub("", leaf.value).strip()
        named = [
            int(number)
            for match in MARKER.finditer(leaf.value)
            for number in re.findall(r"\d+", unicodedata.normalize("NFKC", match.group(1)))
        ]
        for number in dict.fromkeys(named):
            if claim and 1 <= number <= len(passages):
                found = cite_claim(claim, (leaf.start, leaf.end), number, passages[number - 1], question)
                citations.append(found)
        if named or informative_weight(claim) < 2:  # a single digit stands everywhere
            continue
        for number, passage in enumerate(passages, start=1):
            found = cite_claim(claim, (leaf.start, leaf.end), number, passage, question)
            if found.verified:
                citations.append(found)
                break
    return citations
