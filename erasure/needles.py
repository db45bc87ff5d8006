"""What is searched for in stored text and JSON: ids as they are, a text in every form in which it may be stored."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, func, or_
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import SQLCoreOperations

MASK = "█"
"""Put in the place of a text where the value around it stays; one character, so that no column gets too short."""
_AT_ONCE = 50


def spellings(text: str) -> tuple[str, ...]:
    """A text in the Unicode forms in which people and programs write it: NFC, NFD and NFKC."""
    forms = (text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC")))
    return tuple(dict.fromkeys(forms))


def stored_forms(text: str) -> tuple[str, ...]:
    """`spellings`, also as JSON escapes them, and as JSON within JSON does."""
    found = list(spellings(text))
    for spelling in spellings(text):
        for ascii_only in (True, False):
            once = json.dumps(spelling, ensure_ascii=ascii_only)[1:-1]
            found += [once, json.dumps(once, ensure_ascii=ascii_only)[1:-1]]
    return tuple(dict.fromkeys(found))


def mention(
    session: Session, columns: Iterable[SQLCoreOperations[Any]], needles: Sequence[str]
) -> Iterator[ColumnElement[bool]]:
    """Conditions, each on some of the needles: one of the columns, as text, holds one of them. Case counts."""
    place = func.instr if session.get_bind().dialect.name == "sqlite" else func.strpos
    texts = [cast(column, Text) for column in columns]
    for start in range(0, len(needles), _AT_ONCE):
        some = needles[start : start + _AT_ONCE]
        yield or_(*(place(text, needle) > 0 for text in texts for needle in some))


def masked(value: Any, forms: Sequence[str]) -> Any:
    """A stored value without the text, wherever it hides in it."""
    if isinstance(value, str):
        for form in forms:
            value = value.replace(form, MASK)
        return value
    if isinstance(value, dict):
        return {masked(key, forms): masked(item, forms) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item, forms) for item in value]
    return value
