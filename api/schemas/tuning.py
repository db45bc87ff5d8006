"""Tuning runs and schedules. What a request may say is defined by the services; here it is only made safe to store."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError

from api.schemas.base import RequestBody, ResponseBody, Warned
from api.schemas.jobs import JobBody
from core.errors import FieldError, InvalidInput
from tuning.kinds import Method
from tuning.recipe_parts import MergeRecipe, MergeSource
from tuning.schedule_rules import Conditions, RunTemplate, ScheduleRequest
from tuning.service import FAMILY_PATTERN, TuningRequest


class TuningRunRequest(RequestBody, TuningRequest):
    """A run to queue."""


class MergeRequest(RequestBody, MergeRecipe):
    """Versions to make one candidate of."""

    sources: tuple[MergeSource, ...] = Field(min_length=2, max_length=16, description="The versions and their weights.")
    dataset_ids: list[str] | None = Field(
        None, max_length=100, description="Sets that the gate's items are made from; default: those of the family."
    )

    def as_run(self, family: str) -> TuningRequest:
        """The run that makes it.

        Raises:
            InvalidInput: `invalid_request`: the family of the path is no name of one.
        """
        how = self.model_dump(mode="json", exclude={"dataset_ids"})
        try:
            return TuningRequest(
                family=family, method=Method.MERGE.value, dataset_ids=self.dataset_ids, overrides={"merge": how}
            )
        except ValidationError as error:
            fields = [FieldError(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors()]
            raise InvalidInput("the merge cannot be asked for", code="invalid_request", errors=fields) from error


class TuningRunBody(ResponseBody):
    """A run with its job, and, as they come, its loss curve, gate report and adapter version."""

    id: str
    family: str
    method: str
    recipe: str
    recipe_values: dict[str, Any]
    dataset_ids: list[str]
    dataset_version: str | None
    parent: str | None
    schedule_id: str | None
    requested_by: str | None
    status: str
    progress: dict[str, Any]
    warnings: list[Warned]
    loss_curve: list[dict[str, Any]]
    gate_report: dict[str, Any] | None
    adapter_version: str | None
    adapter_status: str | None
    reasons: list[Any]
    job: JobBody | None
    created_at: datetime


class TuningRunList(ResponseBody):
    """A page of runs, newest first."""

    items: list[TuningRunBody]
    next_cursor: str | None


class NewSchedule(RequestBody, ScheduleRequest):
    """A schedule to add: cron in a time zone, conditions, and the run that it asks for."""


class ScheduleChange(RequestBody):
    """Fields of a schedule to change; those left out stay, also those of `conditions` and `request`.

    A condition that may be null is lifted by null.
    """

    family: str | None = Field(None, pattern=FAMILY_PATTERN)
    cron: str | None = Field(None, max_length=120)
    timezone: str | None = Field(None, max_length=64)
    conditions: Conditions | None = None
    request: RunTemplate | None = None
    enabled: bool | None = None

    def changes(self) -> dict[str, Any]:
        """What was given, as JSON values; a field given as null counts as left out, but not a member of one."""
        given = self.model_dump(mode="json", exclude_unset=True)
        return {name: value for name, value in given.items() if value is not None}


class ScheduleBody(ResponseBody):
    """A schedule. `last_outcome` says what beat decided the last time, and why."""

    id: str
    family: str
    cron: str
    timezone: str
    conditions: dict[str, Any]
    request: dict[str, Any]
    enabled: bool
    next_at: datetime | None
    last_checked_at: datetime | None
    last_outcome: dict[str, Any] | None
    last_run_id: str | None
    created_at: datetime


class ScheduleList(ResponseBody):
    """A page of schedules, newest first."""

    items: list[ScheduleBody]
    next_cursor: str | None
