"""Training sets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from api.schemas.base import RequestBody, ResponseBody, Warned
from tuning.service import FAMILY_PATTERN


class DatasetChange(RequestBody):
    """What to change of a set; what is left out stays."""

    family: str | None = Field(None, pattern=FAMILY_PATTERN, description="Whose runs take it when they name no sets.")
    retired: bool | None = Field(None, description="Out of force: no new run takes it; false takes it back.")
    reason: str | None = Field(None, max_length=200, description="Why it is retired.")


class DatasetBody(ResponseBody):
    """A training set. `report.invalid` names every row that cannot be used by line, with a code.

    `row_count` counts the rows that a run would take, `retired_count` the others. `source_sha256` is of the uploaded
    file; null for a set that the service made (feedback, a teacher).
    """

    id: str
    name: str
    family: str
    format: str
    row_count: int
    retired_count: int
    invalid_count: int
    report: dict[str, Any]
    content_sha256: str
    source_sha256: str | None
    warnings: list[Warned]
    created_at: datetime
    retired_at: datetime | None
    retired_reason: str | None


class UploadedDatasetBody(DatasetBody):
    """Answer to an upload. `created` is false when the same valid rows were here already; `report` is of this file."""

    created: bool


class DatasetList(ResponseBody):
    """A page of training sets, newest first."""

    items: list[DatasetBody]
    next_cursor: str | None


class DatasetRowBody(ResponseBody):
    """One valid row in canonical form, with its lineage."""

    id: str
    ordinal: int
    line: int
    content: dict[str, Any]
    content_sha256: str
    lineage: dict[str, Any]
    retired_at: datetime | None
    retired_reason: str | None


class DatasetRowList(ResponseBody):
    """A page of rows in file order."""

    items: list[DatasetRowBody]
    next_cursor: str | None
