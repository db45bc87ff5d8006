"""Training sets that a teacher writes or revises."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from api.schemas.base import RequestBody, ResponseBody
from api.schemas.jobs import JobBody
from tuning.teacher.requests import FromDataset, FromDocuments


class BuildFromDocuments(RequestBody, FromDocuments):
    """Questions that documents answer, with answers from them alone."""

    source: Literal["documents"]


class BuildFromDataset(RequestBody, FromDataset):
    """The answers of a set, rewritten where they break a principle."""

    source: Literal["dataset"]


NewBuild = Annotated[BuildFromDocuments | BuildFromDataset, Field(discriminator="source")]


class BuildBody(ResponseBody):
    """A build with its job. `report` counts what every check left out, and names it."""

    id: str
    name: str
    request: dict[str, Any]
    teacher: str
    status: str
    dataset_ids: list[str]
    report: dict[str, Any]
    job: JobBody | None
    created_at: datetime


class BuildList(ResponseBody):
    """A page of builds, newest first."""

    items: list[BuildBody]
    next_cursor: str | None
