"""A whole tenant: its documents as any document goes, its files, then every row of every table that is its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import delete, func, insert, literal, select, update

from core.database import Database, ReadSession, WriteSession
from core.errors import Conflict, Postponed
from core.jobs import JobLease, JobStore
from core.repositories.blobs import run_blobs
from core.settings import Settings
from core.tables import (
    AdapterVersion,
    ApiKey,
    AuditEntry,
    Base,
    Dataset,
    Document,
    ErasedDocument,
    Erasure,
    Job,
    TuningRun,
)
from core.tables.base import utc_now
from core.types import DocumentStatus, JobStatus
from erasure.rows import ERASED, rows_of
from erasure.storage import folder_digest, remove_folders, unused_adapters
from erasure.tally import Tally, digest_of
from ingest.removal import Removal

_UNFINISHED = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)
_KEPT = frozenset({"erasures", "erased_documents", "audit"})
"""Tables of which rows stay: who asked for what and when, and which ids are gone. None of it is text of the tenant."""
_AT_ONCE = 500


class TenantEraser:
    """Erases tenants. Every step may be repeated."""

    def __init__(self, db: Database, jobs: JobStore, removal: Removal, settings: Settings) -> None:
        self._db = db
        self._jobs = jobs
        self._removal = removal
        self._settings = settings

    def plan(self, tenant_id: str) -> dict[str, Any]:
        """Rows of each table, and files."""
        with self._db.read() as session:
            counts = {}
            for table in Base.metadata.sorted_tables:
                of_tenant = rows_of(table, tenant_id)
                if of_tenant is not None:
                    counts[table.name] = session.scalar(select(func.count()).select_from(table).where(of_tenant)) or 0
            versions = self._versions(session, tenant_id)
            runs = self._runs(session, tenant_id)
        folders = [run_id for run_id in runs if (self._settings.runs_dir / run_id).is_dir()]
        return {
            "counts": {name: count for name, count in counts.items() if count},
            "run_folders_here": len(folders),
            "adapters": [{"version": version.version, "sha256": version.digest} for version in versions],
        }

    def close(self, session: WriteSession, erasure: Erasure) -> None:
        """From this commit on nobody enters, and nothing is found."""
        tenant_id = erasure.subject_tenant_id
        now = utc_now()
        session.execute(
            update(ApiKey).where(ApiKey.tenant_id == tenant_id, ApiKey.revoked_at.is_(None)).values(revoked_at=now)
        )
        known = select(ErasedDocument.document_id)
        session.execute(
            insert(ErasedDocument).from_select(
                ["document_id", "tenant_id", "erasure_id", "erased_at"],
                select(
                    Document.id, Document.tenant_id, literal(erasure.id), literal(now, ErasedDocument.erased_at.type)
                ).where(Document.tenant_id == tenant_id, Document.id.not_in(known)),
            )
        )
        session.execute(
            update(Document)
            .where(Document.tenant_id == tenant_id)
            .values(status=DocumentStatus.DELETING.value, error=None, active_generation=None, updated_at=now)
        )

    def erase(
        self, lease: JobLease, erasure: Erasure, write: Callable[[], Any], drop: Callable[[], None], tally: Tally
    ) -> None:
        """Everything of it that this process reaches; the row of the tenant last. drop: deletes blobs noted in the job.

        Raises:
            Postponed: `erasure_waits_for_jobs`.
        """
        tenant_id = erasure.subject_tenant_id
        self._wait_for_jobs(tenant_id)
        self._documents(lease, tenant_id, write, drop, tally)
        self._files(lease, tenant_id, write, drop, tally)
        for table in reversed(Base.metadata.sorted_tables):
            of_tenant = rows_of(table, tenant_id)
            if of_tenant is None or table.name in _KEPT:
                continue
            keys = list(table.primary_key.columns)
            while True:
                lease.check()
                with write() as session:
                    rows = session.execute(select(table).where(of_tenant).limit(_AT_ONCE)).mappings().all()
                    for row in rows:
                        name = "/".join(str(row[key]) for key in keys)
                        tally.add(table.name, name, digest_of(dict(row)))
                        session.execute(delete(table).where(*(key == row[key] for key in keys)))
                if len(rows) < _AT_ONCE:
                    break
        self._audit(erasure, write, tally)

    def _wait_for_jobs(self, tenant_id: str) -> None:
        with self._db.read() as session:
            jobs = session.execute(
                select(Job.id, Job.status, Job.irrevocable).where(
                    Job.tenant_id == tenant_id, Job.status.in_(_UNFINISHED)
                )
            ).all()
        for job_id, _status, irrevocable in jobs:
            if not irrevocable:
                with suppress(Conflict):  # it has just ended
                    self._jobs.request_cancel(job_id, tenant_id)
        if any(status == JobStatus.RUNNING.value for _, status, _ in jobs):
            raise Postponed("jobs of the tenant still run", code="erasure_waits_for_jobs", extra={"retry_after_s": 2})

    def _documents(
        self, lease: JobLease, tenant_id: str, write: Callable[[], Any], drop: Callable[[], None], tally: Tally
    ) -> None:
        of_it = Document.tenant_id == tenant_id
        while True:
            with self._db.read() as session:
                left = session.scalar(select(func.count()).select_from(Document).where(of_it)) or 0
                batch = session.scalars(select(Document.id).where(of_it).order_by(Document.id).limit(_AT_ONCE)).all()
            if not batch:
                return
            done = tally.count("documents")
            lease.progress("documents", 0.1 + 0.3 * done / (done + left))
            for document_id in batch:
                lease.check()
                self._removal.points(tenant_id, document_id)
                with write() as session:
                    if session.get(Document, document_id) is not None:
                        tally.add("documents", document_id, digest_of(document_id))
                    self._removal.rows(session, lease, document_id)
                drop()

    def _files(
        self, lease: JobLease, tenant_id: str, write: Callable[[], Any], drop: Callable[[], None], tally: Tally
    ) -> None:
        """Blobs, run folders and adapters, each named in the tally before it goes, and found again after a death."""
        with self._db.read() as session:
            runs = self._runs(session, tenant_id)
            versions = [version.id for version in self._versions(session, tenant_id)]
        adapters = unused_adapters(self._db, versions)
        folders = [(self._settings.runs_dir, run_id) for run_id in runs]
        folders += [(self._settings.adapters_dir, digest) for digest in adapters]
        for root, name in folders:
            lease.check()
            digest = folder_digest(root / name)
            if digest is not None:
                with write():
                    tally.add(f"{root.name}_folders", name, digest)
                remove_folders(root, [name])
        with write() as session:
            sources = session.execute(
                select(Dataset.id, Dataset.source_sha256).where(Dataset.tenant_id == tenant_id)
            ).all()
            session.execute(update(Dataset).where(Dataset.tenant_id == tenant_id).values(source_sha256=None))
            of_runs = list(run_blobs(session))
            session.execute(update(TuningRun).where(TuningRun.tenant_id == tenant_id).values(progress={ERASED: True}))
            named = {digest for _, digest in sources if digest is not None}
            lease.note(blobs=sorted(named | {digest for run_id, digest in of_runs if run_id in set(runs)}))
        drop()

    def _audit(self, erasure: Erasure, write: Callable[[], Any], tally: Tally) -> None:
        """Its own entries, and those of the operator on it, keep who did what and when."""
        own = AuditEntry.tenant_id == erasure.subject_tenant_id
        about = AuditEntry.object_id == erasure.subject_tenant_id
        with write() as session:
            for entry in session.scalars(select(AuditEntry).where(own | about).execution_options(yield_per=_AT_ONCE)):
                if set(entry.detail) != {ERASED}:
                    tally.add("audit", entry.id, digest_of({"object_id": entry.object_id, "detail": entry.detail}))
            session.execute(
                update(AuditEntry).where(about).values(detail={ERASED: erasure.id}),
                execution_options={"synchronize_session": False},
            )
            session.execute(
                update(AuditEntry).where(own).values(detail={ERASED: erasure.id}, object_id=None),
                execution_options={"synchronize_session": False},
            )

    @staticmethod
    def _runs(session: ReadSession, tenant_id: str) -> list[str]:
        return list(session.scalars(select(TuningRun.id).where(TuningRun.tenant_id == tenant_id)))

    @staticmethod
    def _versions(session: ReadSession, tenant_id: str) -> list[AdapterVersion]:
        query = select(AdapterVersion).where(AdapterVersion.tenant_id == tenant_id)
        return list(session.scalars(query.order_by(AdapterVersion.created_at)))
