"""Erasures as requests and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.schemas.base import RequestBody, ResponseBody
from api.schemas.jobs import JobBody

Retire = Literal["now", "after_retrain"]
RETIRE = (
    "What becomes of adapter versions that saw it: retired `now`, or `after_retrain`, when a clean training from the "
    "last version that never saw it has passed the gate."
)


class ErasureRequest(RequestBody):
    """What to forget: exactly one of `document_id`, `external_id`, `tenant` and `text`."""

    document_id: str | None = Field(None, max_length=48, description="A document, also one that was deleted before.")
    external_id: str | None = Field(None, max_length=512, description="The documents that have or had it.")
    tenant: str | None = Field(None, max_length=100, description="Operator only: a whole tenant, by name or id.")
    text: str | None = Field(
        None, max_length=2_000, description="Whatever holds this text, such as a person's name; whole documents too."
    )
    retire: Retire = Field("now", description=RETIRE)
    dry_run: bool = Field(False, description="Only plan; `POST .../start` carries it out.")


class ErasureChange(RequestBody):
    """What may be changed until it is done."""

    retire: Retire = Field(description=RETIRE)


class ErasureBody(ResponseBody):
    """An erasure. `status`: planning, planned, erasing, waiting, done; or failed or cancelled, as its job is."""

    id: str
    kind: str
    status: str
    selector: dict[str, Any]
    """What it is about; a text as its SHA-256."""
    retire: str
    plan: dict[str, Any] | None
    """What was held where: counts and ids."""
    erased: dict[str, int]
    retrains: dict[str, Any]
    certificate: dict[str, Any] | None
    asked_by: str
    created_at: datetime
    begun_at: datetime | None
    """From then on it cannot be cancelled."""
    finished_at: datetime | None
    job: JobBody | None


class ErasureList(ResponseBody):
    """A page of erasures, newest first."""

    items: list[ErasureBody]
    next_cursor: str | None
