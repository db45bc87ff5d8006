"""Training sets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from api.schemas.base import ResponseBody


class DatasetBody(ResponseBody):
    """A training set. `report.invalid` names every row that cannot be used by line, with a code.

    `source_sha256` is of the uploaded file; null for a set that the service made (feedback, a teacher).
    """

    id: str
    name: str
    format: str
    row_count: int
    invalid_count: int
    report: dict[str, Any]
    content_sha256: str
    source_sha256: str | None
    created_at: datetime


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
