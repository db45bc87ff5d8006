"""Feedback as training data, curated answers, withdrawn consent."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.schemas.base import Moment, RequestBody, ResponseBody
from api.schemas.datasets import UploadedDatasetBody
from tuning.service import FAMILY_PATTERN


class HarvestRequest(RequestBody):
    """Make training sets from feedback given with consent, and from curated answers."""

    name: str = Field("feedback", min_length=1, max_length=120)
    family: str | None = Field(
        None, pattern=FAMILY_PATTERN, description="Family of the sets; default: the default one."
    )
    since: Moment | None = Field(None, description="Only what is newer.")
    shapes: list[Literal["messages", "preference", "unpaired"]] = Field(
        ["messages", "preference", "unpaired"], min_length=1
    )


class HarvestAnswer(ResponseBody):
    """The sets, one a shape that has rows, and every feedback that made no row with the reason."""

    datasets: list[UploadedDatasetBody]
    left_out: list[dict[str, Any]]


class CuratedPassage(RequestBody):
    """A text that a curated answer rests on; `document_id` ties the answer to the document's life and access."""

    text: str = Field(min_length=1, max_length=8_000)
    title: str | None = Field(None, max_length=512)
    document_id: str | None = Field(None, max_length=48)


class NewCurated(RequestBody):
    """An answer to give to a question from now on, until a champion has learnt it."""

    question: str = Field(min_length=1, max_length=8_000)
    answer: str = Field(min_length=1, max_length=16_000)
    groups: list[str] | None = Field(None, max_length=100, description="Who may be told; null is the whole tenant.")
    passages: list[CuratedPassage] = Field(default_factory=list, max_length=20)


class CuratedBody(ResponseBody):
    """A curated answer."""

    id: str
    question: str
    answer: str
    groups: list[Any] | None
    passages: list[Any]
    created_by: str
    created_at: datetime
    retired_at: datetime | None
    retired_reason: str | None


class CuratedList(ResponseBody):
    """A page of curated answers, newest first."""

    items: list[CuratedBody]
    next_cursor: str | None


class WithdrawnBody(ResponseBody):
    """Consent taken back: the rows that left, and the adapter versions that saw them."""

    feedback_id: str
    rows_retired: int
    adapters: list[str]
