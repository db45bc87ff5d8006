"""Answers that people wrote: curated ones, and feedback as training data."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request, Response
from sqlalchemy import select

from api.errors import request_id_of
from api.paging import PageQuery
from api.schemas.curated import (
    CuratedBody,
    CuratedList,
    HarvestAnswer,
    HarvestRequest,
    NewCurated,
    WithdrawnBody,
)
from api.schemas.datasets import UploadedDatasetBody
from api.security import Caller, GuardedRoute, ServicesOf, needs
from core.access import access_filter
from core.audit import record
from core.errors import Forbidden, InvalidInput, NotFound
from core.paging import after_cursor, cut_page, encode_cursor
from core.repositories.derived import readable_curated
from core.repositories.documents import visible_document
from core.repositories.lineage import SourceKind, retire_rows, versions_that_saw
from core.tables import AdapterFamily, CuratedAnswer, Feedback
from core.tables.base import utc_now
from core.types import Scope
from generation.curated import question_key
from tuning.datasets.feedback import FeedbackHarvester
from tuning.datasets.formats import DatasetFormat

router = APIRouter(route_class=GuardedRoute, tags=["curated"])


@router.post("/v1/datasets/from-feedback", status_code=201, dependencies=[needs(Scope.TUNE)])
def harvest(body: HarvestRequest, caller: Caller, services: ServicesOf) -> HarvestAnswer:
    """Make training sets from feedback: approved answers and corrections, pairs of a correction and what it corrects,
    unpaired votes. The same feedback again is the same set.
    """
    if body.since is not None and body.since.tzinfo is None:
        raise InvalidInput("`since` needs a time zone", code="invalid_time")
    found = FeedbackHarvester(services.db, services.datasets).harvest(
        caller,
        name=body.name,
        family=body.family,
        since=body.since,
        shapes=[DatasetFormat(shape) for shape in body.shapes],
    )
    return HarvestAnswer(
        datasets=[
            UploadedDatasetBody(
                **{**asdict(one.dataset), "report": one.report, "warnings": one.warnings, "created": one.created}
            )
            for one in found.datasets
        ],
        left_out=[asdict(one) for one in found.left_out],
    )


@router.post("/v1/admin/curated", status_code=201, dependencies=[needs(Scope.TUNE)])
def add_curated(body: NewCurated, request: Request, caller: Caller, services: ServicesOf) -> CuratedBody:
    """Give this answer to this question from now on; a newer one for the same question goes first."""
    with services.db.write() as session:
        passages = []
        for passage in body.passages:
            shown = passage.model_dump(exclude_none=True)
            if passage.document_id is not None:
                document = visible_document(session, access_filter(caller), passage.document_id)
                shown["generation"] = document.active_generation or document.latest_generation
            passages.append(shown)
        row = CuratedAnswer(
            tenant_id=caller.tenant_id,
            question=body.question.strip(),
            question_key=question_key(body.question),
            answer=body.answer.strip(),
            groups=sorted(set(body.groups)) if body.groups is not None else None,
            passages=passages,
            created_by=caller.actor,
        )
        session.add(row)
        session.flush()
        record(
            session, tenant_id=caller.tenant_id, actor=caller.actor, action="curated.create", object_id=row.id,
            detail={"question": row.question[:200]}, request_id=request_id_of(request.scope),
        )  # fmt: skip
    return CuratedBody.model_validate(row)


@router.get("/v1/admin/curated", dependencies=[needs(Scope.TUNE)])
def list_curated(caller: Caller, services: ServicesOf, page: PageQuery) -> CuratedList:
    """Curated answers that the caller may read, newest first; retired ones say why."""
    query = select(CuratedAnswer).where(CuratedAnswer.tenant_id == caller.tenant_id)
    query = query.order_by(CuratedAnswer.created_at.desc(), CuratedAnswer.id.desc()).limit(page.limit + 1)
    found: list[CuratedAnswer] = []
    behind = after_cursor(CuratedAnswer.created_at, CuratedAnswer.id, page.cursor)
    with services.db.read() as session:
        while len(found) <= page.limit:
            read = session.scalars(query if behind is None else query.where(behind)).all()
            found += readable_curated(session, caller, read)
            if len(read) <= page.limit:
                break
            behind = after_cursor(
                CuratedAnswer.created_at, CuratedAnswer.id, encode_cursor(read[-1].created_at, read[-1].id)
            )
        cut = cut_page(found, page.limit)
        return CuratedList(items=[CuratedBody.model_validate(row) for row in cut.items], next_cursor=cut.next_cursor)


@router.delete("/v1/admin/curated/{curated_id}", status_code=204, dependencies=[needs(Scope.TUNE)])
def retire_curated(curated_id: str, request: Request, caller: Caller, services: ServicesOf) -> Response:
    """Take a curated answer back; rows made from it leave the next dataset version."""
    with services.db.write() as session:
        row = session.get(CuratedAnswer, curated_id, with_for_update=True)
        if row is None or row.tenant_id != caller.tenant_id or not readable_curated(session, caller, [row]):
            raise NotFound(f"no curated answer '{curated_id}'")
        if row.retired_at is None:
            row.retired_at, row.retired_reason = utc_now(), f"by {caller.actor}"
            retired = retire_rows(
                session, caller.tenant_id, SourceKind.CURATED, curated_id, "the curated answer was taken back"
            )
            record(
                session, tenant_id=caller.tenant_id, actor=caller.actor, action="curated.retire",
                object_id=curated_id, detail={"training_rows_retired": retired},
                request_id=request_id_of(request.scope),
            )  # fmt: skip
    return Response(status_code=204)


@router.post("/v1/answers/{answer_id}/feedback/{feedback_id}/withdraw", dependencies=[needs(Scope.FEEDBACK)])
def withdraw_consent(
    answer_id: str, feedback_id: str, request: Request, caller: Caller, services: ServicesOf
) -> WithdrawnBody:
    """Take back the consent to train on a feedback: its rows leave the next dataset version, and the adapter versions
    that saw them are named. By the key that gave it, or an admin.
    """
    with services.db.write() as session:
        row = session.get(Feedback, feedback_id, with_for_update=True)
        if row is None or row.tenant_id != caller.tenant_id or row.answer_id != answer_id:
            raise NotFound(f"no feedback '{feedback_id}'")
        if row.key_id != caller.key_id and not caller.allows(Scope.ADMIN):
            raise Forbidden("another key gave this feedback", extra={"scope": Scope.ADMIN.value})
        row.consent = False
        retired = retire_rows(session, caller.tenant_id, SourceKind.FEEDBACK, feedback_id, "consent was withdrawn")
        seen = versions_that_saw(session, caller.tenant_id, SourceKind.FEEDBACK, feedback_id)
        names = [f"{session.get_one(AdapterFamily, version.family_id).name}@{version.version}" for version in seen]
        record(
            session, tenant_id=caller.tenant_id, actor=caller.actor, action="feedback.withdraw", object_id=feedback_id,
            detail={"training_rows_retired": retired, "adapters": names}, request_id=request_id_of(request.scope),
        )  # fmt: skip
    return WithdrawnBody(feedback_id=feedback_id, rows_retired=retired, adapters=names)
