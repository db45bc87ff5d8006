"""Adapter families, versions, history."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from api.schemas.base import RequestBody, ResponseBody, Warned


class PromoteRequest(RequestBody):
    """Let a version serve, to everybody or to a share of conversations. `force` needs a `reason`."""

    version: str = Field(min_length=1, max_length=120)
    canary_percent: int | None = Field(None, ge=1, le=99)
    force: bool = False
    reason: str | None = Field(None, max_length=2000)


class RollbackRequest(RequestBody):
    """Go back to `to`, or to the champion before; when there is none, the base answers."""

    to: str | None = Field(None, min_length=1, max_length=120)
    reason: str = Field(min_length=1, max_length=2000)


class VersionBody(ResponseBody):
    """An immutable version with the verdict on it."""

    id: str
    family: str
    version: str
    name: str
    digest: str
    status: str
    reasons: list[Any]
    source: str
    run_id: str | None
    manifest: dict[str, Any]
    gate_report: dict[str, Any] | None
    created_at: datetime


class FamilyBody(ResponseBody):
    """A family. `aliases` says which version serves: {champion: {version, percent, revision, updated_at}, canary}."""

    family: str
    champion: str | None
    canary: str | None
    aliases: dict[str, Any]
    versions: list[VersionBody]
    created_at: datetime


class FamilyList(ResponseBody):
    """A page of families."""

    items: list[FamilyBody]
    next_cursor: str | None


class MovedAlias(ResponseBody):
    """What a promote or rollback did. `effective_ms`: from the call to the moment when new requests get the target.

    `answers_plain_asks`: whether asks that name no model are answered by this family. Where not, `warnings` says
    so, and how this family is asked.
    """

    model_config = ConfigDict(from_attributes=True, populate_by_name=True)

    from_version: str | None = Field(serialization_alias="from")
    to: str | None
    alias: str
    effective_ms: float
    family: str
    champion: str | None
    canary: str | None
    aliases: dict[str, Any]
    answers_plain_asks: bool
    warnings: list[Warned]


class AliasEventBody(ResponseBody):
    """One move of an alias."""

    id: str
    action: str
    alias: str
    from_version: str | None
    to_version: str | None
    reason: str | None
    forced: bool
    actor: str
    revision: int
    effective_ms: float | None
    created_at: datetime


class AliasEventList(ResponseBody):
    """A page of history, newest first."""

    items: list[AliasEventBody]
    next_cursor: str | None
