"""Erasures as the API sees them: asked for, planned, begun, shown. The work is a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core import audit
from core.access import Principal
from core.database import Database, WriteSession
from core.errors import Conflict, Forbidden, InvalidInput, NotFound
from core.jobs import JobStore
from core.names import one_spelling
from core.paging import Page, cut_page, newest_page
from core.tables import AuditEntry, DatasetRow, Document, Erasure, Job, RowSource, RunDocument, TuningRun
from core.tenants import DEFAULT_TENANT, find_tenant
from core.types import JobKind, JobStatus, Scope
from erasure.runner import DONE, PLANNED, PLANNING, TENANT, TEXT, text_sha256
from erasure.versions import NOW

DOCUMENT = "document"
MIN_TEXT_CHARS = 2
MAX_TEXT_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Request:
    """What to forget; exactly one of the first four."""

    document_id: str | None = None
    external_id: str | None = None
    tenant: str | None = None
    text: str | None = None
    retire: str = NOW
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ErasureView:
    """An erasure as callers see it: never with the text that it searches for."""

    id: str
    kind: str
    status: str
    """planning, planned, erasing, waiting, done; or cancelled or failed, as its job is."""
    selector: dict[str, Any]
    retire: str
    plan: dict[str, Any] | None
    erased: dict[str, int]
    """How much of each kind is gone."""
    retrains: dict[str, Any]
    certificate: dict[str, Any] | None
    asked_by: str
    created_at: Any
    begun_at: Any
    finished_at: Any
    job: Job | None


class ErasureService:
    """Erasures through the eyes of an admin: of the own tenant, or of any for the operator."""

    def __init__(self, db: Database, jobs: JobStore) -> None:
        self._db = db
        self._jobs = jobs

    def create(
        self, principal: Principal, asked: Request, *, operator: bool, request_id: str | None = None
    ) -> ErasureView:
        """Queue the plan, and what follows it unless this is a dry run.

        Raises:
            Forbidden: not an admin; a whole tenant is for the operator.
            InvalidInput: `erasure_selector`: none or several are given; `invalid_text`.
            NotFound: this tenant never had such a document, or there is no such tenant.
            Conflict: `tenant_is_default`.
        """
        principal.require(Scope.ADMIN)
        given = [name for name in ("document_id", "external_id", "tenant", "text") if getattr(asked, name) is not None]
        if len(given) != 1:
            raise InvalidInput("give exactly one of document_id, external_id, tenant and text", code="erasure_selector")
        if asked.tenant is not None and not operator:
            raise Forbidden("a tenant is erased by an admin key of the default tenant", extra={"scope": Scope.ADMIN})
        with self._db.write() as session:
            kind, selector, subject = self._selected(session, principal, asked)
            erasure = Erasure(
                tenant_id=principal.tenant_id,
                subject_tenant_id=subject,
                kind=kind,
                selector=selector,
                retire=asked.retire,
                asked_by=principal.actor,
                status=PLANNING,
            )
            session.add(erasure)
            session.flush()
            self._queue(session, erasure, plan_only=asked.dry_run)
            audit.record(
                session, tenant_id=principal.tenant_id, actor=principal.actor, action="erasure.create",
                object_id=erasure.id, detail={"kind": kind, "retire": asked.retire, "dry_run": asked.dry_run},
                request_id=request_id,
            )  # fmt: skip
        return self.get(principal, erasure.id)

    def start(self, principal: Principal, erasure_id: str, *, request_id: str | None = None) -> ErasureView:
        """Carry out what was only planned; it is planned anew first, as things stand now.

        Raises:
            NotFound: there is none.
            Conflict: `erasure_begun`: it is under way or done.
        """
        principal.require(Scope.ADMIN)
        with self._db.write() as session:
            erasure = _find(session, principal, erasure_id, locked=True)
            job = session.get(Job, erasure.job_id) if erasure.job_id else None
            ended = job is None or job.status in {JobStatus.SUCCEEDED.value, JobStatus.CANCELLED.value}
            if erasure.status not in {PLANNING, PLANNED} or not ended:
                raise Conflict(f"erasure '{erasure_id}' is {erasure.status}", code="erasure_begun")
            erasure.status = PLANNING
            self._queue(session, erasure, plan_only=False)
            audit.record(
                session, tenant_id=principal.tenant_id, actor=principal.actor, action="erasure.start",
                object_id=erasure.id, detail={}, request_id=request_id,
            )  # fmt: skip
        return self.get(principal, erasure_id)

    def change(
        self, principal: Principal, erasure_id: str, retire: str, *, request_id: str | None = None
    ) -> ErasureView:
        """Change what becomes of versions that saw it, while they have not been retired.

        Raises:
            NotFound: there is none.
            Conflict: `erasure_done`.
        """
        principal.require(Scope.ADMIN)
        with self._db.write() as session:
            erasure = _find(session, principal, erasure_id, locked=True)
            if erasure.status == DONE:
                raise Conflict(f"erasure '{erasure_id}' is done", code="erasure_done")
            before, erasure.retire = erasure.retire, retire
            job = session.get(Job, erasure.job_id, with_for_update=True) if erasure.job_id else None
            if job is not None and job.status == JobStatus.QUEUED.value:
                job.not_before = None  # it need not wait for a training any more; the sweep sends it
            audit.record(
                session, tenant_id=principal.tenant_id, actor=principal.actor, action="erasure.change",
                object_id=erasure.id, detail={"retire": {"from": before, "to": retire}}, request_id=request_id,
            )  # fmt: skip
        return self.get(principal, erasure_id)

    def get(self, principal: Principal, erasure_id: str) -> ErasureView:
        """One erasure.

        Raises:
            NotFound: there is none.
        """
        principal.require(Scope.ADMIN)
        with self._db.read() as session:
            return _view(session, _find(session, principal, erasure_id))

    def list(self, principal: Principal, *, limit: int = 50, cursor: str | None = None) -> Page[ErasureView]:
        """Newest first."""
        principal.require(Scope.ADMIN)
        query = select(Erasure).where(Erasure.tenant_id == principal.tenant_id)
        query = newest_page(query, Erasure, cursor, limit)
        with self._db.read() as session:
            return cut_page([_view(session, row) for row in session.scalars(query)], limit)

    def _queue(self, session: WriteSession, erasure: Erasure, *, plan_only: bool) -> None:
        job = self._jobs.create(
            session, tenant_id=erasure.tenant_id, kind=JobKind.ERASURE, subject_id=erasure.id,
            arguments={"plan_only": plan_only}, priority=3,
        )  # fmt: skip
        erasure.job_id = job.id

    @staticmethod
    def _selected(session: WriteSession, principal: Principal, asked: Request) -> tuple[str, dict[str, Any], str]:
        """(kind, selector, tenant whose data it is)."""
        own = principal.tenant_id
        if asked.tenant is not None:
            tenant = find_tenant(session, asked.tenant)
            if tenant.name == DEFAULT_TENANT:
                raise Conflict("the default tenant stays: the operator's keys belong to it", code="tenant_is_default")
            return TENANT, {"tenant": tenant.id}, tenant.id
        if asked.text is not None:
            text = asked.text.strip()
            if not MIN_TEXT_CHARS <= len(text) <= MAX_TEXT_CHARS:
                raise InvalidInput(f"a text has {MIN_TEXT_CHARS} to {MAX_TEXT_CHARS} characters", code="invalid_text")
            return TEXT, {"text": text}, own
        if asked.document_id is not None:
            if not _was_here(session, own, asked.document_id):
                raise NotFound(f"no document '{asked.document_id}'")
            return DOCUMENT, {"documents": [asked.document_id]}, own
        documents = _named(session, own, str(asked.external_id))
        if not documents:
            raise NotFound("no document has or had this external id")
        return DOCUMENT, {"documents": documents}, own


def _named(session: Session, tenant_id: str, external_id: str) -> list[str]:
    """Documents of that external id, in any collection, and those that had it when they were deleted."""
    here = select(Document.id).where(Document.tenant_id == tenant_id, Document.external_id == external_id)
    deleted = select(AuditEntry.object_id).where(
        AuditEntry.tenant_id == tenant_id,
        AuditEntry.action == "document.delete",
        AuditEntry.detail["external_id"].as_string() == one_spelling(external_id),
    )
    return sorted({str(one) for query in (here, deleted) for one in session.scalars(query) if one is not None})


def _was_here(session: Session, tenant_id: str, document_id: str) -> bool:
    """Whether a tenant has a document or any record of one that it had."""
    records = (
        select(Document.id).where(Document.id == document_id, Document.tenant_id == tenant_id),
        select(AuditEntry.id).where(AuditEntry.object_id == document_id, AuditEntry.tenant_id == tenant_id),
        select(RowSource.row_id)
        .join(DatasetRow, DatasetRow.id == RowSource.row_id)
        .where(RowSource.source_id == document_id, DatasetRow.tenant_id == tenant_id),
        select(RunDocument.run_id)
        .join(TuningRun, TuningRun.id == RunDocument.run_id)
        .where(RunDocument.document_id == document_id, TuningRun.tenant_id == tenant_id),
    )
    return any(session.execute(query.limit(1)).first() is not None for query in records)


def _find(session: Session, principal: Principal, erasure_id: str, *, locked: bool = False) -> Erasure:
    erasure = session.get(Erasure, erasure_id, with_for_update=locked or None)
    if erasure is None or erasure.tenant_id != principal.tenant_id:
        raise NotFound(f"no erasure '{erasure_id}'")
    return erasure


def _view(session: Session, erasure: Erasure) -> ErasureView:
    job = session.get(Job, erasure.job_id) if erasure.job_id else None
    ended_badly = job is not None and job.status in {JobStatus.FAILED.value, JobStatus.CANCELLED.value}
    selector = {name: value for name, value in erasure.selector.items() if name != "text"}
    if "text" in erasure.selector:
        selector["text_sha256"] = text_sha256(str(erasure.selector["text"]))
    return ErasureView(
        id=erasure.id,
        kind=erasure.kind,
        status=job.status if ended_badly and job is not None and erasure.status != DONE else erasure.status,
        selector=selector,
        retire=erasure.retire,
        plan=erasure.plan,
        erased={kind: int(entry["count"]) for kind, entry in erasure.tally.items()},
        retrains=erasure.retrains,
        certificate=erasure.certificate,
        asked_by=erasure.asked_by,
        created_at=erasure.created_at,
        begun_at=erasure.begun_at,
        finished_at=erasure.finished_at,
        job=job,
    )
