"""Calibrations of the judges."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from api.schemas.base import RequestBody, ResponseBody
from api.schemas.jobs import JobBody


class LabelledPair(RequestBody):
    """Two answers and which one people preferred."""

    id: str = Field(min_length=1, max_length=100)
    question: str = Field(min_length=1, max_length=8_000)
    passages: str = Field("", max_length=32_000)
    candidate: str = Field(max_length=16_000)
    reference: str = Field(max_length=16_000)
    label: float = Field(ge=-5, le=5, description="Above 0: the candidate was better. 0: equal. Below: worse.")


class CalibrateRequest(RequestBody):
    """Pairs that people have judged."""

    pairs: list[LabelledPair] = Field(min_length=1, max_length=200)


class CalibrationBody(ResponseBody):
    """A calibration with its job. `figures` are empty until it has ended; `may_gate` in them says what it was for."""

    id: str
    judge: str
    status: str
    figures: dict[str, Any]
    job: JobBody | None
    created_at: datetime


class CalibrationList(ResponseBody):
    """A page of calibrations, newest first."""

    items: list[CalibrationBody]
    next_cursor: str | None
