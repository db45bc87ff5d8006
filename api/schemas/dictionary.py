"""Bodies of the dictionary's routes."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from api.schemas.base import RequestBody, ResponseBody

Groups = list[list[str]]


class DictionaryRequest(RequestBody):
    """A whole dictionary."""

    groups: Groups = Field(
        description="Words that stand for one another, 2 to 20 a group.",
        examples=[[["有休", "年次有給休暇", "PTO"], ["KS-50", "pressure sensor"]]],
    )


class DictionaryBody(ResponseBody):
    """A tenant's dictionary."""

    groups: Groups
    updated_at: datetime | None
    updated_by: str | None
