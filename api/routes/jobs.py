"""Jobs: list, watch, cancel, retry."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy import ColumnElement, exists, not_, or_, select

from api.errors import request_id_of
from api.paging import PageQuery
from api.schemas.jobs import JobBody, JobList, RetriedJobs
from api.security import Caller, GuardedRoute, ServicesOf, needs
from api.services import Services
from api.streaming import EventStream, sse
from core.access import Principal, access_filter, documents_visible
from core.errors import Conflict, NotFound
from core.notify import job_topic
from core.paging import cut_page, newest_page
from core.tables import Document, Job
from core.types import JobKind, JobStatus, Scope

router = APIRouter(route_class=GuardedRoute, prefix="/v1/jobs", tags=["jobs"])

FINAL: Final = frozenset({JobStatus.SUCCEEDED.value, JobStatus.FAILED.value, JobStatus.CANCELLED.value})
REREAD_S: Final = 1.0
"""Writers in other processes wake nobody here, so the row is read again so often."""
KEEP_ALIVE_S: Final = 15.0
"""A comment is sent after so long without a change, so that proxies keep the connection."""

_READ = needs(Scope.INGEST, Scope.QUERY, Scope.TUNE)
_WRITE = needs(Scope.INGEST, Scope.TUNE)


def jobs_visible(principal: Principal, *, to_move: bool = False) -> ColumnElement[bool]:
    """Jobs of the tenant that the caller may see, or cancel and retry.

    Who may only query sees no job about a document that it may not read; who may ingest sees every job, because its own
    uploads may be for groups that it is not in, but moves only those about documents that it may read. A job whose
    document is gone stays visible: that is how the end of a deletion is seen.
    """
    own = Job.tenant_id == principal.tenant_id
    if principal.allows(Scope.INGEST) and not to_move:
        return own
    visible = exists().where(Document.id == Job.subject_id, documents_visible(access_filter(principal)))
    present = exists().where(Document.id == Job.subject_id)
    return own & or_(not_(present), visible)


def read_job(services: Services, caller: Principal, job_id: str, *, to_move: bool = False) -> JobBody:
    """One job.

    Raises:
        NotFound: absent, another tenant's, or about a document that the caller may not read.
    """
    with services.db.read() as session:
        job = session.scalar(select(Job).where(Job.id == job_id, jobs_visible(caller, to_move=to_move)))
    if job is None:
        raise NotFound(f"no job {job_id!r}")
    return JobBody.model_validate(job)


@router.get("", dependencies=[_READ])
def list_jobs(
    caller: Caller,
    services: ServicesOf,
    page: PageQuery,
    status: Annotated[JobStatus | None, Query()] = None,
    kind: Annotated[JobKind | None, Query()] = None,
    code: Annotated[str | None, Query(max_length=80, description="Error code of failed jobs.")] = None,
    document_id: Annotated[str | None, Query(max_length=48)] = None,
) -> JobList:
    """Jobs, newest first."""
    query = select(Job).where(jobs_visible(caller))
    if status is not None:
        query = query.where(Job.status == status.value)
    if kind is not None:
        query = query.where(Job.kind == kind.value)
    if code is not None:
        query = query.where(Job.error["code"].as_string() == code)
    if document_id is not None:
        query = query.where(Job.subject_id == document_id)
    query = newest_page(query, Job, page.cursor, page.limit)
    with services.db.read() as session:
        rows = session.scalars(query).all()
    cut = cut_page(rows, page.limit)
    return JobList(items=[JobBody.model_validate(job) for job in cut.items], next_cursor=cut.next_cursor)


@router.post("/retry", status_code=202, dependencies=[_WRITE])
def retry_jobs(
    request: Request,
    caller: Caller,
    services: ServicesOf,
    code: Annotated[str, Query(min_length=1, max_length=80, description="Error code of the failed jobs.")],
) -> RetriedJobs:
    """Retry every failed job with one error code, up to 1000 at a time."""
    with services.db.read() as session:
        query = select(Job.id).where(
            jobs_visible(caller, to_move=True),
            Job.status == JobStatus.FAILED.value,
            Job.error["code"].as_string() == code,
        )
        found = session.scalars(query.order_by(Job.created_at).limit(1000)).all()
    request_id = request_id_of(request.scope)
    retried = []
    for job_id in found:
        try:
            job = services.jobs.retry(job_id, caller.tenant_id, actor=caller.actor, request_id=request_id)
        except (Conflict, NotFound):
            continue  # somebody else retried or removed it meanwhile
        retried.append(JobBody.model_validate(job))
    return RetriedJobs(items=retried)


@router.get("/{job_id}", dependencies=[_READ])
def get_job(job_id: str, caller: Caller, services: ServicesOf) -> JobBody:
    """One job."""
    return read_job(services, caller, job_id)


@router.post("/{job_id}/cancel", status_code=202, dependencies=[_WRITE])
def cancel_job(job_id: str, request: Request, caller: Caller, services: ServicesOf) -> JobBody:
    """Ask a job to stop; a queued one is cancelled at once, a running one at its next step."""
    read_job(services, caller, job_id, to_move=True)
    services.jobs.request_cancel(job_id, caller.tenant_id, actor=caller.actor, request_id=request_id_of(request.scope))
    return read_job(services, caller, job_id)


@router.post("/{job_id}/retry", status_code=202, dependencies=[_WRITE])
def retry_job(job_id: str, request: Request, caller: Caller, services: ServicesOf) -> JobBody:
    """Queue a failed or cancelled job again, with fresh budgets."""
    read_job(services, caller, job_id, to_move=True)
    services.jobs.retry(job_id, caller.tenant_id, actor=caller.actor, request_id=request_id_of(request.scope))
    return read_job(services, caller, job_id)


@router.get(
    "/{job_id}/events",
    dependencies=[_READ],
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def watch_job(job_id: str, request: Request, caller: Caller, services: ServicesOf) -> EventStream:
    """Events `job` with the whole job on each change, until it has ended. Each holds all, so Last-Event-ID is moot."""
    first = await run_in_threadpool(read_job, services, caller, job_id)
    return EventStream(request, _job_events(services, caller, first))


async def _job_events(services: Services, caller: Principal, job: JobBody) -> AsyncGenerator[bytes, None]:
    number = 0
    silent_s = 0.0
    with services.notifier.subscribe_async(job_topic(job.id)) as subscription:
        yield _job_event(job, number)
        while job.status not in FINAL and not services.draining.is_set():
            came = await subscription.wait(REREAD_S)
            try:
                newest = await run_in_threadpool(read_job, services, caller, job.id)
            except NotFound:
                return  # access was taken away meanwhile, or its tenant is gone
            if newest != job:
                number += 1
                silent_s = 0.0
                job = newest
                yield _job_event(job, number)
            elif not came:
                silent_s += REREAD_S
                if silent_s >= KEEP_ALIVE_S:
                    silent_s = 0.0
                    yield b": still here\n\n"


def _job_event(job: JobBody, number: int) -> bytes:
    return sse("job", job.model_dump(mode="json"), event_id=str(number))
