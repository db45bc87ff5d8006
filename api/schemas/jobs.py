"""Jobs as callers see them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import computed_field

from api.schemas.base import ResponseBody
from core.tables.base import utc_now


class JobBody(ResponseBody):
    """A unit of background work. `progress` runs from 0 to 1 within the current attempt."""

    id: str
    kind: str
    status: str
    stage: str | None
    progress: float
    attempt: int
    error: dict[str, Any] | None
    subject_id: str
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def waiting_for(self) -> str | None:
        """Code of what a queued job waits for, such as `index_unreachable`; it goes on by itself. `error` says more."""
        return str(self.error["code"]) if self.status == "queued" and self.error else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def queued_s(self) -> float:
        """Seconds from its making to its first start, or until now: a matter of load, not of the document."""
        return _seconds(self.created_at, self.started_at or self.finished_at)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def work_s(self) -> float | None:
        """Seconds from its first start to its end, or until now, retries included; None before it has started."""
        return None if self.started_at is None else _seconds(self.started_at, self.finished_at)


def _seconds(start: datetime, end: datetime | None) -> float:
    return round(max(0.0, ((end or utc_now()) - start).total_seconds()), 3)


class JobList(ResponseBody):
    """A page of jobs, newest first."""

    items: list[JobBody]
    next_cursor: str | None


class RetriedJobs(ResponseBody):
    """Jobs that were queued again."""

    items: list[JobBody]
