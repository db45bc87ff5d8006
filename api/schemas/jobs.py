"""Jobs as callers see them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from api.schemas.base import ResponseBody


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


class JobList(ResponseBody):
    """A page of jobs, newest first."""

    items: list[JobBody]
    next_cursor: str | None


class RetriedJobs(ResponseBody):
    """Jobs that were queued again."""

    items: list[JobBody]
