"""The job that plans an erasure and carries it out. Every step may be done again: a killed attempt is simply redone.

Order matters. First nothing new may come of what is to be forgotten: it is hidden, and what works on it ends. Then the
rows go, those last that say where the others are; then documents, files, segments, and the pages of the database. The
text that was searched for stays in the request until the last row is gone, and no longer.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import select

from core import audit
from core.database import Database, WriteSession, insert_new
from core.errors import Conflict, NotFound, Postponed
from core.jobs import JobLease, JobStore
from core.ports import BlobStore, Engine
from core.queue import Task
from core.repositories.blobs import drop_unnamed
from core.repositories.documents import lock_document
from core.settings import Settings
from core.tables import AdapterVersion, ChunkRow, Document, DocumentGeneration, ErasedDocument, Erasure, Job
from core.tables.base import utc_now
from core.types import JobKind, JobStatus
from erasure.certificate import make_certificate, version_facts
from erasure.find import Found, Wanted, documents_with, files_with, find_traces, in_parts
from erasure.rows import RowEraser
from erasure.storage import (
    drop_run_folders,
    folder_digest,
    purge_database,
    purge_index,
    remove_folders,
    unused_adapters,
)
from erasure.tally import Tally, digest_of
from erasure.tenant import TenantEraser
from erasure.versions import VersionRetirement
from ingest.removal import Removal, hide
from tuning.service import TuningService

if TYPE_CHECKING:
    from retrieval.live import Retrieval

log = structlog.stdlib.get_logger(__name__)

TEXT, TENANT = "text", "tenant"
PLANNING, PLANNED, ERASING, WAITING, DONE = "planning", "planned", "erasing", "waiting", "done"
_MOST_PASSES = 5
_LOOK_AGAIN_S = 2
_TRAINING_S, _STUCK_S = 15, 300
_UNFINISHED = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)
_SHOWN = 1000
"""Ids of a kind that a plan names."""


class ErasureRunner:
    """Works on jobs of the kind ERASURE, in a process that can write the index."""

    def __init__(
        self,
        db: Database,
        blobs: BlobStore,
        jobs: JobStore,
        retrieval: Retrieval,
        settings: Settings,
        tuning: TuningService,
        engine: Callable[[], Engine | None],
    ) -> None:
        """engine: asked when an adapter must be proven before it takes another's place; None where there is none."""
        self._db = db
        self._blobs = blobs
        self._jobs = jobs
        self._retrieval = retrieval
        self._settings = settings
        self._removal = Removal(db, blobs, retrieval)
        self._versions = VersionRetirement(db, settings, engine, tuning)
        self._tenant = TenantEraser(db, jobs, self._removal, settings)

    def run(self, lease: JobLease) -> None:
        """Do one attempt.

        Raises:
            NotFound: there is no such erasure.
            Cancelled, Interrupted, LeaseLost: see JobLease. Cancelled only before anything was erased.
            Postponed: `erasure_waits_for_jobs`, `erasure_waits_for_training`, `erasure_database_busy`.
            Unavailable: index, blob store or engine do not answer; it goes on when they do.
        """
        erasure = self._read(lease.subject_id)
        if erasure.status == PLANNING:
            lease.progress("plan", 0.0)
            self._plan(lease, erasure)
        if lease.arguments.get("plan_only") or erasure.status == DONE:
            return
        if erasure.status == PLANNED:
            self._begin(lease, erasure)
        if "purged" not in erasure.found:
            self._erase(lease, erasure)
        self._finish(lease, erasure)

    def _read(self, erasure_id: str) -> Erasure:
        with self._db.read() as session:
            erasure = session.get(Erasure, erasure_id)
        if erasure is None:
            raise NotFound(f"no erasure '{erasure_id}'")
        return erasure

    def _plan(self, lease: JobLease, erasure: Erasure) -> None:
        """Find everything, change nothing."""
        if erasure.kind == TENANT:
            plan, found = self._tenant.plan(erasure.subject_tenant_id), {}
        else:
            wanted = self._wanted(erasure, lease.check)
            traces = self._traces(wanted, lease.check)
            found = {
                "documents": sorted(wanted.documents),
                "runs": sorted(traces.runs),
                "versions": sorted(traces.versions),
            }
            plan = self._told(wanted, traces)
        with lease.write() as session:
            row = session.get_one(Erasure, erasure.id)
            row.plan, row.found, row.status = plan, found, PLANNED
        erasure.plan, erasure.found, erasure.status = plan, found, PLANNED

    def _wanted(self, erasure: Erasure, step: Callable[[], None]) -> Wanted:
        documents = frozenset(erasure.selector.get("documents", ())) | frozenset(erasure.found.get("documents", ()))
        text = erasure.selector.get("text")
        if text is not None:
            documents |= documents_with(self._db, self._blobs, erasure.subject_tenant_id, text, step)
        return Wanted(erasure.subject_tenant_id, documents, text)

    def _traces(self, wanted: Wanted, step: Callable[[], None]) -> Found:
        with self._db.read() as session:
            found = find_traces(session, wanted)
        if wanted.text is not None:
            found.datasets |= files_with(self._db, self._blobs, wanted.tenant_id, wanted.text, step)
        return found

    def _told(self, wanted: Wanted, found: Found) -> dict[str, Any]:
        counts = {"documents": 0, "chunks": 0, **found.counts()}
        with self._db.read() as session:
            for some in in_parts(wanted.documents):
                counts["documents"] += len(session.scalars(select(Document.id).where(Document.id.in_(some))).all())
                counts["chunks"] += len(
                    session.scalars(select(ChunkRow.id).where(ChunkRow.document_id.in_(some))).all()
                )
            versions = version_facts(session, sorted(found.versions))
        folders = [run_id for run_id in sorted(found.runs) if (self._settings.runs_dir / run_id).is_dir()]
        return {
            "counts": counts,
            "documents": sorted(wanted.documents)[:_SHOWN],
            "runs": sorted(found.runs)[:_SHOWN],
            "run_folders_here": len(folders),
            "adapters": versions,
        }

    def _begin(self, lease: JobLease, erasure: Erasure) -> None:
        """The point of no return: nobody finds it from this commit on, and nothing more is made of it."""
        lease.check()
        with lease.write() as session:
            lease.go_past_return()
            row = session.get_one(Erasure, erasure.id)
            row.status, row.begun_at = ERASING, utc_now()
            if erasure.kind == TENANT:
                self._tenant.close(session, erasure)
            for document_id in erasure.found.get("documents", ()):
                self._hide(session, erasure, document_id)
            audit.record(
                session, tenant_id=erasure.tenant_id, actor=erasure.asked_by, action="erasure.begin",
                object_id=erasure.id, detail={"kind": erasure.kind, "retire": erasure.retire},
            )  # fmt: skip
        erasure.status, erasure.begun_at = row.status, row.begun_at

    def _hide(self, session: WriteSession, erasure: Erasure, document_id: str) -> None:
        insert_new(
            session, ErasedDocument, document_id=document_id, tenant_id=erasure.subject_tenant_id,
            erasure_id=erasure.id, erased_at=utc_now(),
        )  # fmt: skip
        document = lock_document(session, document_id)
        if document is not None and document.tenant_id == erasure.subject_tenant_id:
            hide(session, self._jobs, document, running_too=True)

    def _erase(self, lease: JobLease, erasure: Erasure) -> None:
        tally = Tally(erasure.tally)
        step = lease.check
        purged: dict[str, Any]

        @contextmanager
        def write() -> Iterator[WriteSession]:
            with lease.write() as session:
                yield session
                row = session.get_one(Erasure, erasure.id)
                row.tally = erasure.tally = tally.to_json()

        def drop() -> None:
            """Delete the blobs noted in the job, outside of any transaction; a later attempt goes on here."""
            noted = lease.arguments.get("blobs", ())
            if noted:
                dropped = drop_unnamed(self._db, self._blobs, noted)
                with write():
                    for digest in dropped:
                        tally.add("blobs", digest, digest)
                    lease.note(blobs=[])

        drop()
        if erasure.kind == TENANT:
            self._tenant.erase(lease, erasure, write, drop, tally)
        else:
            self._erase_traces(lease, erasure, write, drop, tally)
        lease.progress("files", 0.5)
        drop_run_folders(self._db, self._settings.runs_dir)
        lease.progress("index", 0.6)
        purged = {"index": purge_index(self._retrieval, step)}
        lease.progress("database", 0.8)
        if "text" in erasure.selector:  # past here nothing asks for it: it must not outlive what it was searched for in
            self._forget_text(lease, erasure)
        purge_database(self._db, lease.sleep, step)
        purged["database"] = True
        erasure.found = {**erasure.found, "purged": purged}
        self._keep_found(lease, erasure)

    def _erase_traces(
        self, lease: JobLease, erasure: Erasure, write: Callable[[], Any], drop: Callable[[], None], tally: Tally
    ) -> None:
        """Pass after pass, until one finds nothing: what was under way at the first has ended by the second."""

        def release(digests: Iterable[str]) -> None:
            lease.note(blobs=sorted({*lease.arguments.get("blobs", ()), *digests}))

        for number in range(_MOST_PASSES):
            lease.progress("find", 0.05 + 0.05 * number)
            wanted = self._wanted(erasure, lease.check)
            traces = self._traces(wanted, lease.check)
            self._remember(lease, erasure, wanted, traces)
            self._wait_for_jobs(erasure, wanted, traces)
            lease.progress("rows", 0.1 + 0.05 * number)
            eraser = RowEraser(self._db, write, release, wanted, erasure.id, tally)
            eraser.erase(traces, lease.check)
            drop()
            self._folders(lease, erasure, tally, write)
            for document_id in sorted(wanted.documents):
                lease.check()
                self._document(lease, write, wanted.tenant_id, document_id, tally)
                drop()
            kept = eraser.mask_rest()
            if kept:
                erasure.found = {**erasure.found, "names": kept}
                self._keep_found(lease, erasure)
            if number and not traces.rows_left():
                return
        log.warning("erasure.passes_spent", erasure=erasure.id)

    def _remember(self, lease: JobLease, erasure: Erasure, wanted: Wanted, traces: Found) -> None:
        """Ids first, then the rows that lead to them; what was found late is hidden as well."""
        found = dict(erasure.found)
        fresh = wanted.documents - set(found.get("documents", ()))
        for name, ids in (("documents", wanted.documents), ("runs", traces.runs), ("versions", traces.versions)):
            found[name] = sorted({*found.get(name, ()), *ids})
        erasure.found = found
        with lease.write() as session:
            session.get_one(Erasure, erasure.id).found = found
            for document_id in sorted(fresh):
                self._hide(session, erasure, document_id)

    def _wait_for_jobs(self, erasure: Erasure, wanted: Wanted, traces: Found) -> None:
        """Cancel what works on it, and wait for that to end; and for what may be reading it without saying so yet.

        Raises:
            Postponed: `erasure_waits_for_jobs`.
        """
        tenant = Job.tenant_id == erasure.subject_tenant_id
        with self._db.read() as session:
            ours = {*wanted.documents, *traces.runs}
            working = [
                job
                for some in in_parts(ours)
                for job in session.execute(
                    select(Job.id, Job.status, Job.kind).where(
                        tenant, Job.subject_id.in_(some), Job.status.in_(_UNFINISHED)
                    )
                )
            ]
            preparing = session.scalars(
                select(Job.id).where(
                    tenant,
                    Job.task.in_([Task.TUNING_PREPARE.value, Task.DATASET_BUILD.value]),
                    Job.status == JobStatus.RUNNING.value,
                )
            ).all()
        for job_id, _status, kind in working:
            if kind in {JobKind.TUNING.value, JobKind.INGEST.value}:
                with suppress(Conflict):  # it has just ended
                    self._jobs.request_cancel(job_id, erasure.subject_tenant_id)
        running = [job_id for job_id, status, _kind in working if status == JobStatus.RUNNING.value] + list(preparing)
        if running:
            raise Postponed(
                f"{len(running)} job(s) still work on it, {running[0]} first",
                code="erasure_waits_for_jobs",
                extra={"retry_after_s": _LOOK_AGAIN_S},
            )

    def _document(
        self, lease: JobLease, write: Callable[[], Any], tenant_id: str, document_id: str, tally: Tally
    ) -> None:
        """Its points, its rows, and a note of its blobs."""
        with self._db.read() as session:
            document = session.get(Document, document_id)
            if document is None or document.tenant_id != tenant_id:
                return
        self._removal.points(tenant_id, document_id)
        with write() as session:
            document = session.get(Document, document_id)
            if document is None:
                return
            sources = session.scalars(
                select(DocumentGeneration.source_sha256)
                .where(DocumentGeneration.document_id == document_id)
                .order_by(DocumentGeneration.generation)
            ).all()
            tally.add("documents", document_id, digest_of(list(sources)))
            for chunk_id, text in session.execute(
                select(ChunkRow.id, ChunkRow.text).where(ChunkRow.document_id == document_id).order_by(ChunkRow.id)
            ):
                tally.add("chunks", chunk_id, digest_of(text))
            self._removal.rows(session, lease, document_id)

    def _folders(self, lease: JobLease, erasure: Erasure, tally: Tally, write: Callable[[], Any]) -> None:
        """Work folders on this machine; their digests are stored before they go."""
        done = set(erasure.found.get("folders", ()))
        for run_id in sorted(set(erasure.found.get("runs", ())) - done):
            lease.check()
            digest = folder_digest(self._settings.runs_dir / run_id)
            with write() as session:
                if digest is not None:
                    tally.add("run_folders", run_id, digest)
                done.add(run_id)
                erasure.found = {**erasure.found, "folders": sorted(done)}
                session.get_one(Erasure, erasure.id).found = erasure.found
        remove_folders(self._settings.runs_dir, sorted(done))

    def _forget_text(self, lease: JobLease, erasure: Erasure) -> None:
        text = str(erasure.selector["text"])
        erasure.selector = {"text_sha256": text_sha256(text)}
        with lease.write() as session:
            session.get_one(Erasure, erasure.id).selector = erasure.selector

    def _keep_found(self, lease: JobLease, erasure: Erasure) -> None:
        with lease.write() as session:
            session.get_one(Erasure, erasure.id).found = erasure.found

    def _finish(self, lease: JobLease, erasure: Erasure) -> None:
        """Versions that saw it, then the certificate.

        Raises:
            Postponed: `erasure_waits_for_training`.
        """
        lease.progress("adapters", 0.9)
        if erasure.kind != TENANT:
            waiting = self._versions.advance(lease, erasure)
            held = {version for one in waiting for version in self._serving(erasure, one.family_id)}
            gone = set(erasure.found.get("versions", ())) - held
            remove_folders(self._settings.adapters_dir, unused_adapters(self._db, gone))
            if waiting:
                with lease.write() as session:
                    session.get_one(Erasure, erasure.id).status = WAITING
                stuck = next((one.problem for one in waiting if one.problem), None)
                raise Postponed(
                    f"{len(waiting)} version(s) serve until a clean training has passed the gate"
                    + (f" ({stuck})" if stuck else ""),
                    code="erasure_waits_for_training",
                    extra={"retry_after_s": _STUCK_S if stuck else _TRAINING_S},
                )
        with lease.write() as session:
            row = session.get_one(Erasure, erasure.id)
            row.status, row.finished_at = DONE, utc_now()
            session.flush()
            row.certificate = make_certificate(session, row, self._settings, self._db)
            audit.record(
                session, tenant_id=row.tenant_id, actor=row.asked_by, action="erasure.finish", object_id=row.id,
                detail={"certificate": row.certificate["sha256"]},
            )  # fmt: skip
            lease.succeed()

    def _serving(self, erasure: Erasure, family_id: str) -> list[str]:
        with self._db.read() as session:
            return list(
                session.scalars(
                    select(AdapterVersion.id).where(
                        AdapterVersion.family_id == family_id,
                        AdapterVersion.id.in_(erasure.found.get("versions", ())),
                        AdapterVersion.status != "retired",
                    )
                )
            )


def text_sha256(text: str) -> str:
    """How a text is named where it must not stand: the SHA-256 of its NFC form in UTF-8."""
    return hashlib.sha256(unicodedata.normalize("NFC", text).encode()).hexdigest()
