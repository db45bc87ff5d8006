"""Points in time as callers write them: in UTC, or refused. The first and last days of the calendar overflow there."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, date, datetime, time, timedelta

_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})-(\d{1,2})|/(\d{1,2})/(\d{1,2})|年(\d{1,2})月(\d{1,2})日)")

Moment = tuple[datetime, datetime]
"""First instant of a date or time, and the first instant after it; equal for a time."""


def as_utc(moment: datetime) -> datetime:
    """A time in UTC; one without a zone is taken for UTC.

    Raises:
        ValueError: its UTC is before year 1 or after year 9999.
    """
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is out of range") from error


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
