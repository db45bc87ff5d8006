"""Points in time as callers write them: in UTC, or refused. The first and last days of the calendar overflow there."""

from __future__ import annotations

from datetime import UTC, datetime


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
