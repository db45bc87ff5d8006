"""Cursors for lists ordered by (created_at, id), newest first: stable while rows are added."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, and_, or_

from core.errors import FieldError, InvalidInput
from core.moments import as_utc

MAX_LIMIT = 200
_MAX_CURSOR_CHARS = 1_000
_ORDINAL = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})")

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """One page of a list; `next_cursor` is None on the last."""

    items: list[Row]
    next_cursor: str | None


def encode_cursor(created_at: datetime, row_id: str) -> str:
    """Opaque cursor that stands after one row."""
    data = json.dumps([created_at.isoformat(), row_id], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[datetime, str]:
    """Read a cursor.

    Raises:
        InvalidInput: it is none of ours.
    """
    try:
        if len(cursor) > _MAX_CURSOR_CHARS:
            raise ValueError("too long")
        created_at, row_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        moment = datetime.fromisoformat(created_at)
        if moment.tzinfo is None or not isinstance(row_id, str) or "\x00" in row_id:
            raise ValueError("not a cursor")
        row_id.encode("utf-8")  # JSON may hold half of a surrogate pair, which no database takes
        return as_utc(moment), row_id
    except (ValueError, TypeError, RecursionError) as error:
        raise _invalid_cursor() from error


def encode_ordinal(generation: int, ordinal: int) -> str:
    """Cursor within one document: stands after a chunk."""
    return f"{generation}.{ordinal}"


def decode_ordinal(cursor: str) -> tuple[int, int]:
    """(generation, ordinal) of such a cursor.

    Raises:
        InvalidInput: it is none of ours.
    """
    match = _ORDINAL.fullmatch(cursor)
    if match is None:
        raise _invalid_cursor()
    return int(match[1]), int(match[2])


def _invalid_cursor() -> InvalidInput:
    return InvalidInput(
        "`cursor` must be the `next_cursor` of an earlier page",
        code="invalid_cursor",
        errors=[FieldError("cursor", "not a cursor of this service")],
    )


def after_cursor(created_at: Any, row_id: Any, cursor: str | None) -> ColumnElement[bool] | None:
    """SQL condition for rows behind the cursor, for columns ordered newest first; None without a cursor."""
    if cursor is None:
        return None
    moment, last_id = decode_cursor(cursor)
    return or_(created_at < moment, and_(created_at == moment, row_id < last_id))


def newest_page(query: Select[Row], of: Any, cursor: str | None, limit: int) -> Select[Row]:
    """The rows behind a cursor, newest first, one more than a page holds: for `cut_page`. of: their mapped class.

    Raises:
        InvalidInput: `invalid_cursor`, `invalid_limit`.
    """
    behind = after_cursor(of.created_at, of.id, cursor)
    if behind is not None:
        query = query.where(behind)
    return query.order_by(of.created_at.desc(), of.id.desc()).limit(checked_limit(limit) + 1)


def cut_page(rows: Sequence[Row], limit: int) -> Page[Row]:
    """Make a page of up to `limit` rows out of `limit + 1` that were read; rows have `created_at` and `id`."""
    items = list(rows[:limit])
    if len(rows) <= limit or not items:
        return Page(items, None)
    last: Any = items[-1]
    return Page(items, encode_cursor(last.created_at, last.id))


def checked_limit(limit: int) -> int:
    """Raise InvalidInput unless 1 <= limit <= MAX_LIMIT."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(
            f"`limit` must be between 1 and {MAX_LIMIT}",
            code="invalid_limit",
            errors=[FieldError("limit", f"{limit} is out of range")],
        )
    return limit
