"""Filters on documents: what a request may ask for, read and checked once, and which documents they leave.

The semantics are written in docs/filters.md. A filter can only narrow what the caller may read. It is resolved to
documents in SQL before the index is searched, so that a rare value is found however many passages rank above it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, exists, select

from core.access import documents_visible
from core.database import ReadSession
from core.errors import FieldError, InvalidInput
from core.moments import as_utc
from core.tables.documents import Document, DocumentGroup
from core.types import AccessFilter, DocumentStatus

MAX_KEYS = 20
MAX_VALUES = 100
MAX_CHARS = 500
_BOUNDS = ("gt", "gte", "lt", "lte")
_DATE_COLUMNS = {"created_at": Document.created_at, "updated_at": Document.updated_at}
_METADATA = "metadata."
_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})-(\d{1,2})|/(\d{1,2})/(\d{1,2})|年(\d{1,2})月(\d{1,2})日)")

Scalar = str | int | float | bool | None
Moment = tuple[datetime, datetime]
"""First instant of a date or time, and the first instant after it; equal for a time."""


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The value, or one of a list's values, is among these; None stands for a missing key."""

    values: tuple[Scalar, ...]

    def holds(self, value: Any) -> bool:
        """Whether a document's value passes."""
        own = value if isinstance(value, list) else [value]
        if None in self.values and (value is None or value == []):
            return True
        return any(_same(mine, wanted) for mine in own for wanted in self.values if wanted is not None)


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds that must all hold; `missing` says whether documents without a comparable value pass."""

    bounds: Mapping[str, float | Moment]
    missing: bool

    def holds(self, value: Any) -> bool:
        """Whether a document's value, or one of a list's, passes."""
        own = [found for item in (value if isinstance(value, list) else [value]) if (found := self._read(item))]
        return any(self._inside(found) for found in own) if own else self.missing

    def of_dates(self) -> bool:
        """Whether the bounds are dates."""
        return any(isinstance(bound, tuple) for bound in self.bounds.values())

    def _read(self, value: Any) -> tuple[Any, Any] | None:
        if self.of_dates():
            return read_moment(value) if isinstance(value, str) else None
        return (value, value) if _is_number(value) else None

    def _inside(self, value: tuple[Any, Any]) -> bool:
        first, _ = value
        for name, bound in self.bounds.items():
            start, end = bound if isinstance(bound, tuple) else (bound, bound)
            instant = start == end
            holds = {
                "gte": first >= start,
                "gt": first > start if instant else first >= end,
                "lt": first < start,
                "lte": first <= start if instant else first < end,
            }[name]
            if not holds:
                return False
        return True


Condition = AnyOf | Range


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions by key; all must hold."""

    columns: Mapping[str, Condition]
    """On `document_id`, `filename`, `groups`, `created_at`, `updated_at`."""
    metadata: Mapping[str, Condition]


def parse_filters(raw: Mapping[str, Any]) -> Filters:
    """Filters of a request.

    Raises:
        InvalidInput: `filter_invalid`; `errors` names each key and what is wrong with it.
    """
    errors: list[FieldError] = []
    columns: dict[str, Condition] = {}
    metadata: dict[str, Condition] = {}
    if len(raw) > MAX_KEYS:
        errors.append(FieldError("filters", f"{len(raw)} keys; at most {MAX_KEYS} are taken"))
    for key, wanted in list(raw.items())[:MAX_KEYS]:
        try:
            if key in _DATE_COLUMNS:
                columns[key] = _range(wanted, dates_only=True)
            elif key in {"document_id", "filename", "groups"}:
                columns[key] = _any_of(wanted, strings_only=True)
            else:
                name = key.removeprefix(_METADATA)
                if not name or len(key) > MAX_CHARS:
                    raise _Wrong(f"a key has 1 to {MAX_CHARS} characters")
                metadata[name] = _range(wanted) if isinstance(wanted, dict) else _any_of(wanted)
        except _Wrong as reason:
            errors.append(FieldError(f"filters.{key[:100]}", str(reason)))
    if errors:
        raise InvalidInput("the filters cannot be used; see docs/filters.md", code="filter_invalid", errors=errors)
    return Filters(columns, metadata)


def matching_documents(session: ReadSession, access: AccessFilter, filters: Filters) -> frozenset[str]:
    """Ids of the readable documents that pass. Metadata is compared here: it is JSON of the caller's own types."""
    conditions = [documents_visible(access), Document.status != DocumentStatus.DELETING, *_in_sql(filters)]
    if not filters.metadata:
        return frozenset(session.scalars(select(Document.id).where(*conditions)))
    rows = session.execute(select(Document.id, Document.metadata_).where(*conditions))
    return frozenset(
        document_id
        for document_id, metadata in rows
        if all(condition.holds(metadata.get(key)) for key, condition in filters.metadata.items())
    )


def read_moment(text: str) -> Moment | None:
    """A date (2025-03-31, 2025/3/31, 2025年3月31日) or an RFC 3339 time, without a zone in UTC; None for any other."""
    plain = unicodedata.normalize("NFKC", text).strip()
    found = _DATE.fullmatch(plain)
    try:
        if found:
            year, month, day = (int(part) for part in found.groups() if part is not None)
            start = datetime.combine(date(year, month, day), time(), UTC)
            return start, start + timedelta(days=1)
        moment = datetime.fromisoformat(plain) if len(plain) > 10 else None
    except (ValueError, OverflowError):
        return None
    if moment is None:
        return None
    try:
        moment = as_utc(moment)
    except ValueError:
        return None
    return moment, moment


class _Wrong(Exception):
    """What is wrong with one condition."""


def _in_sql(filters: Filters) -> Iterator[ColumnElement[bool]]:
    for key, condition in filters.columns.items():
        if isinstance(condition, Range):
            yield from _date_bounds(_DATE_COLUMNS[key], condition)
        elif key == "groups":
            yield exists().where(
                DocumentGroup.document_id == Document.id, DocumentGroup.group_name.in_(condition.values)
            )
        else:
            yield (Document.id if key == "document_id" else Document.filename).in_(condition.values)


def _date_bounds(column: Any, condition: Range) -> Iterator[ColumnElement[bool]]:
    for name, bound in condition.bounds.items():
        assert isinstance(bound, tuple)
        start, end = bound
        if name == "gte":
            yield column >= start
        elif name == "gt":
            yield column > start if start == end else column >= end
        elif name == "lt":
            yield column < start
        else:
            yield column <= start if start == end else column < end


def _any_of(wanted: Any, *, strings_only: bool = False) -> AnyOf:
    values = wanted if isinstance(wanted, list) else [wanted]
    if not values or len(values) > MAX_VALUES:
        raise _Wrong(f"a list has 1 to {MAX_VALUES} values")
    for value in values:
        if isinstance(value, str) and len(value) > MAX_CHARS:
            raise _Wrong(f"a value has at most {MAX_CHARS} characters")
        if not isinstance(value, str) and (
            strings_only or not (value is None or isinstance(value, bool | int | float))
        ):
            raise _Wrong("text is needed" if strings_only else "a value is text, a number, true, false or null")
    return AnyOf(tuple(values))


def _range(wanted: Any, *, dates_only: bool = False) -> Range:
    if not isinstance(wanted, dict):
        raise _Wrong('a range is needed, such as {"gte": "2025-04-01"}')
    unknown = sorted(set(wanted) - {*_BOUNDS, "missing"})
    bounds: dict[str, float | Moment] = {}
    for name in _BOUNDS:
        if name in wanted:
            value = wanted[name]
            bound = read_moment(value) if isinstance(value, str) and len(value) <= MAX_CHARS else None
            if bound is None and (dates_only or not _is_number(value)):
                raise _Wrong(f"'{name}' is neither a date nor a time" + ("" if dates_only else " nor a number"))
            bounds[name] = value if bound is None else bound
    missing = wanted.get("missing", False)
    if unknown or not bounds or not isinstance(missing, bool):
        raise _Wrong('a range has some of "gt", "gte", "lt", "lte", and may have "missing": true or false')
    if dates_only and "missing" in wanted:
        raise _Wrong('every document has this date: "missing" says nothing')
    if len({isinstance(bound, tuple) for bound in bounds.values()}) > 1:
        raise _Wrong("bounds are all dates or all numbers")
    return Range(bounds, missing)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _same(mine: Any, wanted: Scalar) -> bool:
    """Equal in value and kind: text after NFKC, 1 is not true."""
    if isinstance(mine, str) and isinstance(wanted, str):
        return unicodedata.normalize("NFKC", mine) == unicodedata.normalize("NFKC", wanted)
    return isinstance(mine, bool) == isinstance(wanted, bool) and not isinstance(mine, str) and mine == wanted
