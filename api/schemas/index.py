"""Index versions as operators see them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from api.schemas.base import RequestBody, ResponseBody
from api.schemas.jobs import JobBody


class IndexBuildRequest(RequestBody):
    """What the new version is to be made of, over the settings; all of it left out means the settings as they are."""

    retrieval: dict[str, Any] = Field(
        default_factory=dict, description="`embedder`, `lexical`, `bridge`, `tenant_shards`."
    )
    embedding: dict[str, Any] = Field(default_factory=dict, description="As in the section `embedding`, but the key.")
    ingest: dict[str, Any] = Field(default_factory=dict, description="`chunk_tokens` and the other `chunk_` settings.")


class IndexSwitchRequest(RequestBody):
    """Which version is to serve."""

    version: str = Field(min_length=1, max_length=48)
    reason: str | None = Field(None, max_length=1_000)


class IndexRollbackRequest(RequestBody):
    """Why the version before is to serve again."""

    reason: str | None = Field(None, max_length=1_000)


class IndexVersionBody(ResponseBody):
    """One version. `documents` of `documents_wanted` are in it whole; equal numbers and `ready` mean it can serve."""

    version: str
    status: str
    active: bool
    configured: bool
    """Whether the settings of today make this version."""
    calibrated: bool
    """Whether its refusals were calibrated with its embedder; `tsumugi calibrate` does it."""
    previous: str | None
    embedder: str
    documents: int
    documents_wanted: int
    spec: dict[str, Any]
    created_at: datetime
    activated_at: datetime | None
    job: JobBody | None


class IndexStatusBody(ResponseBody):
    """All versions, the serving one first. `configured`: the one that the settings of today make, if there is one."""

    serving: str
    configured: str | None
    versions: list[IndexVersionBody]


class IndexBuildBody(ResponseBody):
    """A build that was queued."""

    version: str
    job: JobBody


class TenantShardBody(ResponseBody):
    """A tenant's own shard in an index version. Until it `serves`, the shared one answers."""

    tenant_id: str
    tenant: str | None
    """Its name; None for a tenant that is gone, whose shard the next build of the version drops."""
    wanted: bool
    """Whether the tenant is to have it."""
    version: str
    serves: bool
    points: int
    left: int
    """Points of the tenant that are still in the shared shard as well; the job of the move drops them."""


class TenantShardsBody(ResponseBody):
    """Tenants with a shard of their own in a live version, or on their way to one."""

    items: list[TenantShardBody]


class TenantMoveBody(ResponseBody):
    """A move that was queued: a job for each index version that keeps tenants apart."""

    tenant_id: str
    tenant: str
    wanted: bool
    jobs: list[JobBody]


class IndexSwitchBody(ResponseBody):
    """A switch that was made."""

    from_version: str
    to_version: str
    effective_ms: float
