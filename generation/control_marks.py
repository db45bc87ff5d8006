"""The marks by which a chat template tells its turns apart, found in what it writes: in tokens and in plain text.

Not every family has special tokens for its turns. Mixtral's `[INST]` is five tokens of ordinary text, and a model that
was trained on it obeys it from a passage as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_BRACKETED = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z][A-Z_]{1,40}\]|<<[A-Z/]{2,12}>>")
_LABEL = re.compile(r"(?m)^[ \t]*(#{1,6} ?[A-Za-z][A-Za-z ]{1,30}:?|[A-Z][A-Za-z]{2,30}:)[ \t]*$")


def written_marks(source: str, literals: Iterable[str]) -> set[str]:
    """Marks in the texts of a template's source, and in what it was seen to write around contents.

    `### Instruction:` or `USER:` count where a line of the literals is nothing but that: a word of ordinary text that
    a condition of the source compares with does not.
    """
    from jinja2 import Environment, TemplateSyntaxError

    texts = list(literals)
    labels = {found.group(1).strip() for text in texts for found in _LABEL.finditer(text)}
    try:
        tokens = list(Environment(autoescape=True).lex(source))
    except TemplateSyntaxError:
        tokens = []  # a tag that only transformers knows; what was written is still seen
    texts += [value.strip("'\"") for _, kind, value in tokens if kind in {"string", "data"}]
    return labels | {found.group() for text in texts for found in _BRACKETED.finditer(text)}


def control_pattern(marks: Collection[str]) -> re.Pattern[str]:
    """Matches a mark wherever it stands; white space alone, or one letter, is none."""
    spelt = sorted((mark for mark in marks if len(mark.strip()) > 1), key=lambda mark: (-len(mark), mark))
    return re.compile("|".join(map(re.escape, spelt)) or r"(?!)")
