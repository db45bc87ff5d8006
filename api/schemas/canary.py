"""Policies, canary trials, shadows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from api.schemas.base import RequestBody, ResponseBody
from generation.canary.policy import Policy


class PolicyBody(RequestBody, Policy):
    """The whole policy of a family; what is left out has the default."""


class PolicyAnswer(ResponseBody):
    """The policy in force; `updated_at` is null for the defaults."""

    family: str
    policy: dict[str, Any]
    updated_at: datetime | None


class TrialBody(ResponseBody):
    """A canary from its start to its end. `figures`: shares and evidence by figure; `outcome` and `reason`: what came
    of it.
    """

    id: str
    version: str
    champion: str | None
    percent: int
    outcome: str
    reason: str | None
    policy: dict[str, Any]
    figures: dict[str, Any]
    slow_after_ms: float | None
    settled_until: datetime
    created_at: datetime
    ended_at: datetime | None


class TrialList(ResponseBody):
    """A page of trials, newest first."""

    items: list[TrialBody]
    next_cursor: str | None


class ShadowRequestBody(RequestBody):
    """Let a version answer unseen for a share of conversations."""

    version: str = Field(min_length=1, max_length=120)
    percent: int = Field(100, ge=1, le=100)
    force: bool = False
    reason: str | None = Field(None, max_length=2000)


class ShadowBody(ResponseBody):
    """The shadow of a family and its figures beside those of what was sent."""

    family: str
    version: str | None
    percent: int | None
    answers: int
    read: int
    errors: int
    figures: dict[str, Any]
