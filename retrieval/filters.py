"""Filters on documents: what a request may ask for, read and checked once, and which documents they leave.

The semantics are written in docs/filters.md. A filter can only narrow what the caller may read. It is resolved to
documents in SQL before the index is searched, so that a rare value is found however many passages rank above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select

from core.access import documents_visible
from core.database import ReadSession
from core.document_values import key_hash, moment_number, number_of, value_hash
from core.errors import FieldError, InvalidInput
from core.moments import Moment, read_moment
from core.tables.documents import Document, DocumentGroup, DocumentValue
from core.types import AccessFilter, DocumentStatus

MAX_KEYS = 20
MAX_VALUES = 100
MAX_CHARS = 500
_BOUNDS = ("gt", "gte", "lt", "lte")
_DATE_COLUMNS = {"created_at": Document.created_at, "updated_at": Document.updated_at}
_COUNTED = 200
_METADATA = "metadata."

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The value, or one of a list's values, is among these; None stands for a missing key."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds that must all hold; `missing` says whether documents without a comparable value pass."""

    bounds: Mapping[str, float | Moment]
    missing: bool

    def of_dates(self) -> bool:
        """Whether the bounds are dates."""
        return any(isinstance(bound, tuple) for bound in self.bounds.values())


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
    """Ids of the readable documents that pass.

    What their metadata holds is asked of `document_values`: the rarest condition gives the candidates, and the others
    are looked up for each, so the work is that of the documents found and not of those there are.
    """
    conditions = [documents_visible(access), Document.status != DocumentStatus.DELETING, *_in_sql(filters)]
    query = select(Document.id)
    tests = [_Test.of(access.tenant_id, key, condition) for key, condition in filters.metadata.items()]
    finding = [test for test in tests if test.missing is None]
    if finding:
        rarest = min(finding, key=lambda test: test.count(session)) if len(tests) > 1 else finding[0]
        held = select(DocumentValue.document_id).where(rarest.rows).distinct().subquery()
        query = query.join(held, held.c.document_id == Document.id)
        tests.remove(rarest)
    return frozenset(session.scalars(query.where(*conditions, *(test.holds() for test in tests))))


@dataclass(frozen=True, slots=True, eq=False)
class _Test:
    """A condition on metadata, over rows of `document_values`."""

    rows: ColumnElement[bool]
    """Rows one of which must be the document's."""
    missing: ColumnElement[bool] | None
    """Rows none of which is, where a document may as well lack the value."""

    @classmethod
    def of(cls, tenant_id: str, key: str, condition: Condition) -> _Test:
        under = DocumentValue.key == key_hash(tenant_id, key)
        if isinstance(condition, AnyOf):
            hashes = {value_hash(tenant_id, key, wanted) for wanted in condition.values if wanted is not None}
            return cls(
                and_(under, DocumentValue.value.in_(sorted(hashes))), under if None in condition.values else None
            )
        column: Any = DocumentValue.moment if condition.of_dates() else DocumentValue.number
        known = and_(under, column.is_not(None))
        return cls(and_(known, *_bounds(column, condition)), known if condition.missing else None)

    def count(self, session: ReadSession) -> int:
        """How many rows there are, looking at no more than 200: enough to see which condition is rare."""
        some = select(DocumentValue.document_id).where(self.rows).limit(_COUNTED).subquery()
        return session.scalar(select(func.count()).select_from(some)) or 0

    def holds(self) -> ColumnElement[bool]:
        """On `documents`."""
        own = DocumentValue.document_id == Document.id
        held = exists().where(own, self.rows)
        return held if self.missing is None else or_(held, ~exists().where(own, self.missing))


class _Wrong(Exception):
    """What is wrong with one condition."""


def _in_sql(filters: Filters) -> Iterator[ColumnElement[bool]]:
    for key, condition in filters.columns.items():
        if isinstance(condition, Range):
            yield from _bounds(_DATE_COLUMNS[key], condition)
        elif key == "groups":
            yield exists().where(
                DocumentGroup.document_id == Document.id, DocumentGroup.group_name.in_(condition.values)
            )
        else:
            yield (Document.id if key == "document_id" else Document.filename).in_(condition.values)


def _bounds(column: Any, condition: Range) -> Iterator[ColumnElement[bool]]:
    """On a column of times (`DateTime`), or of moments or numbers as `document_values` has them."""
    as_stored: Any = moment_number if column is DocumentValue.moment else lambda time: time
    for name, bound in condition.bounds.items():
        start, end = map(as_stored, bound) if isinstance(bound, tuple) else (number_of(bound),) * 2
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
    return number_of(value) is not None
