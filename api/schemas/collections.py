"""Collections."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from api.schemas.base import RequestBody, ResponseBody
from api.schemas.jobs import JobBody


class CollectionRequest(RequestBody):
    """A collection's name: letters, digits, spaces, dots, dashes or underscores."""

    name: str = Field(min_length=1, max_length=99)


class CollectionBody(ResponseBody):
    """A collection. `documents`: those in it that the caller may read."""

    id: str
    name: str
    documents: int
    created_at: datetime


class CollectionList(ResponseBody):
    """A page of collections, newest first."""

    items: list[CollectionBody]
    next_cursor: str | None


class DeletedCollection(ResponseBody):
    """A deleted collection's name, and the job that removes what is left of its documents."""

    name: str
    job: JobBody
