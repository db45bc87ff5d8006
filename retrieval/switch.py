"""Building an index version beside the one that serves, switching to it, and going back. Each step is audited.

A switch is one transaction: it locks the version rows, checks that the target holds every visible document, and moves
`active`. Ingest locks the same rows before it shows a document, so nothing can fall between the two.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import structlog
from sqlalchemy import select

from core import audit
from core.database import Database, WriteSession
from core.errors import Conflict, NotFound, Unavailable
from core.jobs import JobStore
from core.keys import default_tenant_id
from core.ports import PlacesTenants
from core.repositories.index_versions import (
    LIVE,
    VersionStatus,
    active_version,
    chunks_held,
    documents_held,
    forget_version,
    lock_versions,
    missing_documents,
    void_version,
)
from core.settings import Settings
from core.tables.base import utc_now
from core.tables.jobs import Job
from core.tables.operations import Calibration, IndexVersion
from core.tables.tenancy import Tenant
from core.tenants import find_tenant
from core.types import JobKind, StoredVectors, TenantShard
from retrieval.build import same_index, settings_with
from retrieval.live import OpenVersion, Retrieval
from retrieval.opening import collection_of
from retrieval.relevance import SHIPPED_FOR

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Who:
    """Whom the trail names, and whose job it is."""

    tenant_id: str
    actor: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class VersionState:
    """A version as operators see it."""

    row: IndexVersion
    documents: int
    """Visible documents that it holds."""
    documents_wanted: int
    job: Job | None
    configured: bool
    """Whether the settings of today make this version."""
    calibrated: bool
    """Whether its refusals were calibrated with its embedder."""


@dataclass(frozen=True, slots=True)
class Switched:
    """A switch that was made."""

    before: str
    after: str
    effective_ms: float
    """Until the next search of this process was answered by the new version."""


class IndexService:
    """Index versions of one database."""

    def __init__(self, db: Database, jobs: JobStore, retrieval: Retrieval, settings: Settings) -> None:
        self._db = db
        self._jobs = jobs
        self._retrieval = retrieval
        self._settings = settings
        retrieval.on_lost = self._on_lost

    def status(self) -> list[VersionState]:
        """All versions, the serving one first, then by age."""
        with self._db.read() as session:
            query = select(IndexVersion).order_by(IndexVersion.active.desc(), IndexVersion.created_at.desc())
            rows = session.scalars(query).all()
            states = []
            for row in rows:
                held, wanted = documents_held(session, row.id)
                newest = select(Job).where(Job.subject_id == row.id, Job.kind == JobKind.INDEX.value)
                job = session.scalars(newest.order_by(Job.created_at.desc()).limit(1)).first()
                configured = bool(row.config) and same_index(self._settings, row.config)
                own = session.scalars(select(Calibration.id).where(Calibration.index_version == row.id)).first()
                calibrated = own is not None or row.spec["embedder"]["name"] == SHIPPED_FOR
                states.append(VersionState(row, held, wanted, job, configured, calibrated))
        return states

    def truncated(self) -> dict[str, int]:
        """Texts that were cut at the token limit since start, by embedder of the open versions."""
        return {version.embedder.name: version.embedder.truncated_total for version in self._retrieval.opened()}

    def vectors(self, version_id: str) -> Iterator[StoredVectors]:
        """The vectors of all points of a version that is kept up to date, for a backup.

        Raises:
            NotFound: `index_version_not_found`, at once and not when the first is asked for.
        """
        found = {version.id: version for version in self._retrieval.live()}.get(version_id)
        if found is None:
            raise NotFound(f"no index version '{version_id}' is kept up to date", code="index_version_not_found")
        return found.index.vectors()

    def build(self, config: Mapping[str, Any], who: Who) -> tuple[IndexVersion, Job]:
        """Register the version that the settings make with `config` over them, and queue the job that fills it.

        config: {"retrieval": {...}, "embedding": {...}, "ingest": {...}}; only what an index version depends on. The
        embedder is loaded here, so what cannot be built is refused at once. Building what is there resumes it.

        Raises:
            InvalidInput: `setting_unknown`, `setting_invalid`, `setting_missing`, `setting_conflict`.
            Unavailable: the embedder cannot be loaded or reached; `index_standalone`: shards need a cluster.
            Conflict: `index_build_running`, `index_version_dropping`.
        """
        asked = settings_with(self._settings, dict(config))
        wanted = self._retrieval.opener.describe(asked)
        if asked.retrieval.tenant_shards:
            from retrieval.index.collections import require_cluster

            require_cluster(asked.qdrant)
        with self._db.write() as session:
            rows = lock_versions(session)
            row = rows.get(wanted.id)
            if row is None:
                wanted.status = VersionStatus.BUILDING.value
                session.add(wanted)
                row = wanted
            elif row.status == VersionStatus.DROPPING.value:
                raise Conflict(
                    f"index version '{row.id}' is being dropped; build it when it is gone",
                    code="index_version_dropping",
                )
            elif row.status == VersionStatus.UNUSABLE.value:
                row.status, row.config = VersionStatus.BUILDING.value, wanted.config
            _require_idle(session, row.id)
            session.flush()
            job = self._jobs.create(session, tenant_id=who.tenant_id, kind=JobKind.INDEX, subject_id=row.id, priority=7)
            _record(session, who, "index.build", row.id, {"config": dict(config), "job_id": job.id})
        return row, job

    def switch(self, version_id: str, who: Who, *, reason: str | None = None) -> Switched:
        """Serve another version from the next search on. The one before stays up to date, for a rollback.

        Asked again for the version that serves, nothing is changed: the first answer may have been lost on its way.

        Raises:
            NotFound: `index_version_not_found`.
            Conflict: `index_version_not_ready`: it does not hold every visible document, or its points are not there.
            Unavailable: its index does not answer.
        """
        began = perf_counter()
        self._check_points(version_id)
        with self._db.write() as session:
            rows = lock_versions(session)
            if version_id in rows and rows[version_id].active:
                before = version_id
            else:
                before = self._move(session, rows, version_id)
                action = "index.rollback" if rows[before].previous == version_id else "index.switch"
                rows[version_id].previous = before
                _record(session, who, action, version_id, {"from": before, "to": version_id, "reason": reason})
        self._retrieval.refresh()
        effective_ms = (perf_counter() - began) * 1000
        self.settle()
        return Switched(before, version_id, effective_ms)

    def _check_points(self, version_id: str) -> None:
        """Refuse a version whose index was lost since it was filled, or lost a part."""
        with self._db.read() as session:
            row = session.get(IndexVersion, version_id)
            wanted = chunks_held(session, version_id)
        if row is None or row.active or row.status != VersionStatus.READY.value:
            return
        index = self._retrieval.open(row).index
        index.ensure()
        points = index.count()
        if points < wanted:
            raise Conflict(
                f"index version '{version_id}' holds {points} of {wanted} passages; `tsumugi index build` mends it",
                code="index_version_not_ready",
            )

    def tenant_shards(self) -> list[tuple[str, TenantShard]]:
        """(version, shard) of the tenants that have a shard of their own in a live version, or are on their way.

        Raises:
            Unavailable: an index does not answer.
        """
        return [
            (version.id, shard)
            for version in self._retrieval.live()
            if isinstance(version.index, PlacesTenants)
            for shard in version.index.tenant_shards()
        ]

    def keep_apart(self, name_or_id: str, apart: bool, who: Who) -> tuple[Tenant, list[Job]]:
        """Give a tenant a shard of its own in every live version that is made for that, or take it back.

        Jobs do it, one for each version, while everything serves. Asked again, they are queued again: they go on where
        the ones before were cut off, and change nothing that is done.

        Raises:
            NotFound: no such tenant.
            Conflict: `index_not_sharded`: no live version can keep tenants apart; `index_build_running`.
            Unavailable: an index does not answer.
        """
        versions = [
            version.id
            for version in self._retrieval.live()
            if isinstance(version.index, PlacesTenants) and version.index.keeps_apart
        ]
        if not versions:
            raise Conflict(
                "no index version keeps tenants in shards of their own: on a Qdrant cluster, build one with"
                " `tsumugi index build --set retrieval.tenant_shards=true`, switch to it, and ask again",
                code="index_not_sharded",
            )
        with self._db.write() as session:
            tenant = find_tenant(session, name_or_id)
            rows = lock_versions(session)
            jobs = []
            for version_id in versions:
                if version_id in rows and rows[version_id].status in LIVE:
                    _require_idle(session, version_id)
                    jobs.append(
                        self._jobs.create(
                            session, tenant_id=who.tenant_id, kind=JobKind.INDEX, subject_id=version_id, priority=5
                        )
                    )
            tenant.apart = apart
            action = "tenant.promote" if apart else "tenant.demote"
            detail = {"name": tenant.name, "jobs": [job.id for job in jobs]}
            _record(session, who, action, tenant.id, detail)
            session.flush()
            return tenant, jobs

    def rollback(self, who: Who, *, reason: str | None = None) -> Switched:
        """Serve the version that served before.

        Raises:
            Conflict: `no_previous_index`: there is none, or it was dropped; or see `switch`.
        """
        with self._db.read() as session:
            row = active_version(session)
            target = session.get(IndexVersion, row.previous) if row is not None and row.previous else None
        if target is None:
            raise Conflict("no index version served before this one", code="no_previous_index")
        return self.switch(target.id, who, reason=reason)

    def drop(self, version_id: str, who: Who) -> None:
        """Remove a version that does not serve: its points, its chunk rows, its row. Ingest stops writing it.

        With its index away the row stays, as `dropping`, and goes with the points when that is back.

        Raises:
            NotFound: `index_version_not_found`.
            Conflict: `index_version_serves`, or `index_build_running`: cancel its job first.
            Unavailable: `index_version_in_use`: a search on it has not ended.
        """
        with self._db.write() as session:
            row = lock_versions(session).get(version_id)
            if row is None:
                raise NotFound(f"no index version '{version_id}'", code="index_version_not_found")
            if row.active:
                raise Conflict(f"index version '{version_id}' serves; switch first", code="index_version_serves")
            busy = session.scalars(
                select(Job.id).where(Job.subject_id == version_id, Job.status.in_(("queued", "running")))
            ).first()
            if busy is not None:
                raise Conflict(f"job '{busy}' is building it; cancel that first", code="index_build_running")
            if row.status != VersionStatus.DROPPING.value:
                void_version(session, row)
                row.status = VersionStatus.DROPPING.value
                _record(session, who, "index.drop", version_id, {})
        self._finish_drop(version_id)

    def settle(self) -> None:
        """Finish what an index that was away left undone: drops, and the alias. Called at starts and now and then."""
        with self._db.read() as session:
            dropping = session.scalars(
                select(IndexVersion.id).where(IndexVersion.status == VersionStatus.DROPPING.value)
            ).all()
        try:
            for version_id in dropping:
                self._finish_drop(version_id)
            self.point_alias()
        except Unavailable as error:
            log.warning("index.not_settled", code=error.code, detail=error.detail)

    def fill_serving(self) -> Job | None:
        """Queue the fill of the serving version where it lacks documents and no job is at it."""
        with self._db.write() as session:
            row = next((row for row in lock_versions(session).values() if row.active), None)
            if row is None or not missing_documents(session, row.id, limit=1):
                return None
            return self._queue_fill(session, row)

    def _on_lost(self, session: WriteSession, row: IndexVersion) -> None:
        self._queue_fill(session, row)

    def _queue_fill(self, session: WriteSession, row: IndexVersion) -> Job | None:
        busy = select(Job.id).where(Job.subject_id == row.id, Job.status.in_(("queued", "running")))
        if session.scalars(busy).first() is not None:
            return None
        tenant_id = default_tenant_id(self._db)
        log.warning("index.fill_queued", version=row.id)
        return self._jobs.create(session, tenant_id=tenant_id, kind=JobKind.INDEX, subject_id=row.id, priority=3)

    def point_alias(self) -> None:
        """On a Qdrant server, let the alias that other programs read name the collection that serves, in one step."""
        from retrieval.index.server import ServerIndex

        index = self._retrieval.index
        if isinstance(index, ServerIndex):
            index.take_alias(self._settings.qdrant.collection)

    def _finish_drop(self, version_id: str) -> None:
        try:
            if not self._retrieval.forget(version_id, self._remove):
                self._remove_unopened(version_id)
        except Unavailable as error:
            if error.code == "index_version_in_use":
                raise
            log.warning("index.drop_waits", version=version_id, code=error.code, detail=error.detail)
            return
        with self._db.write() as session:
            row = lock_versions(session).get(version_id)
            if row is not None and row.status == VersionStatus.DROPPING.value:
                forget_version(session, row)

    def _remove_unopened(self, version_id: str) -> None:
        if self._settings.retrieval.index == "qdrant":
            from retrieval.index.collections import drop_collection

            drop_collection(self._settings.qdrant, collection_of(self._settings.qdrant, version_id))
        else:
            shutil.rmtree(self._settings.index_dir / version_id, ignore_errors=True)

    def _move(self, session: WriteSession, rows: Mapping[str, IndexVersion], version_id: str) -> str:
        target = rows.get(version_id)
        if target is None:
            raise NotFound(f"no index version '{version_id}'", code="index_version_not_found")
        lacking = missing_documents(session, version_id, limit=1)
        if target.status != VersionStatus.READY.value or lacking:
            raise Conflict(
                f"index version '{version_id}' is {target.status} and does not hold every document; build it first",
                code="index_version_not_ready",
            )
        before = next(row for row in rows.values() if row.active)
        before.active = False
        session.flush()
        target.active = True
        target.activated_at = utc_now()
        return before.id

    def _remove(self, version: OpenVersion) -> None:
        from retrieval.index.server import ServerIndex

        if isinstance(version.index, ServerIndex):
            version.index.drop()
            version.index.close()
        else:
            version.index.close()
            shutil.rmtree(self._settings.index_dir / version.id, ignore_errors=True)


def _require_idle(session: WriteSession, version_id: str) -> None:
    busy = select(Job.id).where(Job.subject_id == version_id, Job.status.in_(("queued", "running")))
    running = session.scalars(busy).first()
    if running is not None:
        raise Conflict(f"job '{running}' builds index version '{version_id}' already", code="index_build_running")


def _record(session: WriteSession, who: Who, action: str, version_id: str, detail: dict[str, Any]) -> None:
    audit.record(
        session,
        tenant_id=who.tenant_id,
        actor=who.actor,
        action=action,
        object_id=version_id,
        detail=detail,
        request_id=who.request_id,
    )
