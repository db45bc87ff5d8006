"""Evaluations and sets of questions. A run asks the service as it serves, as the caller, in a job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from api.errors import request_id_of
from api.paging import PageQuery
from api.schemas.evaluations import (
    EvaluationBody,
    EvaluationList,
    EvaluationOutcomeBody,
    EvaluationOutcomeList,
    EvaluationSetBody,
    EvaluationSetList,
    NewEvaluation,
    NewEvaluationSet,
)
from api.security import Caller, GuardedRoute, ServicesOf, needs
from core.paging import MAX_LIMIT
from core.types import Scope
from generation.evaluation.outcome import Status
from generation.evaluation.service import RunRequest

router = APIRouter(route_class=GuardedRoute, prefix="/v1/admin", tags=["evaluations"])

_ADMIN = needs(Scope.ADMIN)


@router.post("/evaluation-sets", status_code=201, dependencies=[_ADMIN])
def add_set(body: NewEvaluationSet, request: Request, caller: Caller, services: ServicesOf) -> EvaluationSetBody:
    """Keep questions under a name."""
    stored = services.evaluations.add_set(
        caller, body.name, body.questions, request_id=request_id_of(request.scope)
    )  # fmt: skip
    return EvaluationSetBody.model_validate(stored)


@router.get("/evaluation-sets", dependencies=[_ADMIN])
def list_sets(caller: Caller, services: ServicesOf, page: PageQuery) -> EvaluationSetList:
    """Sets, newest first, without their questions."""
    found = services.evaluations.list_sets(caller, limit=page.limit, cursor=page.cursor)
    return EvaluationSetList(
        items=[EvaluationSetBody.model_validate(one) for one in found.items], next_cursor=found.next_cursor
    )


@router.get("/evaluation-sets/{set_id}", dependencies=[_ADMIN])
def get_set(set_id: str, caller: Caller, services: ServicesOf) -> EvaluationSetBody:
    """One set, by id or name, with its questions."""
    return EvaluationSetBody.model_validate(services.evaluations.get_set(caller, set_id))


@router.delete("/evaluation-sets/{set_id}", dependencies=[_ADMIN])
def delete_set(set_id: str, request: Request, caller: Caller, services: ServicesOf) -> EvaluationSetBody:
    """Remove a set; runs over it stay."""
    removed = services.evaluations.delete_set(caller, set_id, request_id=request_id_of(request.scope))
    return EvaluationSetBody.model_validate(removed)


@router.post("/evaluations", status_code=202, dependencies=[_ADMIN])
def start_evaluation(body: NewEvaluation, request: Request, caller: Caller, services: ServicesOf) -> EvaluationBody:
    """Queue a run. Its answers count for nothing else: no feedback, no drift, no canary."""
    wanted = RunRequest(
        questions=body.questions, set_name=body.set, name=body.name, kinds=body.kinds, limit=body.limit,
        adapter=body.adapter, collection=body.collection, compare_to=body.compare_to,
    )  # fmt: skip
    run = services.evaluations.create(caller, wanted, request_id=request_id_of(request.scope))
    return EvaluationBody.model_validate(run)


@router.get("/evaluations", dependencies=[_ADMIN])
def list_evaluations(
    caller: Caller, services: ServicesOf, page: PageQuery, name: Annotated[str | None, Query(max_length=200)] = None
) -> EvaluationList:
    """Runs, newest first."""
    found = services.evaluations.list(caller, name=name, limit=page.limit, cursor=page.cursor)
    return EvaluationList(
        items=[EvaluationBody.model_validate(one) for one in found.items], next_cursor=found.next_cursor
    )


@router.get("/evaluations/{run_id}", dependencies=[_ADMIN])
def get_evaluation(
    run_id: str,
    caller: Caller,
    services: ServicesOf,
    compare_to: Annotated[str | None, Query(max_length=48, description="Compare with this run instead.")] = None,
) -> EvaluationBody:
    """One run with its report and what changed since another run."""
    return EvaluationBody.model_validate(services.evaluations.get(caller, run_id, compare_to=compare_to))


@router.get("/evaluations/{run_id}/outcomes", dependencies=[_ADMIN])
def list_outcomes(
    run_id: str,
    caller: Caller,
    services: ServicesOf,
    status: Status | None = None,
    kind: Annotated[str | None, Query(max_length=60)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="`next_after` of the page before.")] = 0,
) -> EvaluationOutcomeList:
    """Each question that was asked, with its answer, citations and verdict."""
    found, next_after = services.evaluations.outcomes(
        caller, run_id, status=status, kind=kind, limit=limit, after=after
    )
    return EvaluationOutcomeList(
        items=[EvaluationOutcomeBody.model_validate(one) for one in found], next_after=next_after
    )


@router.post("/evaluations/{run_id}/cancel", status_code=202, dependencies=[_ADMIN])
def cancel_evaluation(run_id: str, request: Request, caller: Caller, services: ServicesOf) -> EvaluationBody:
    """Ask a run to stop; it reports what it has asked so far."""
    run = services.evaluations.cancel(caller, run_id, request_id=request_id_of(request.scope))
    return EvaluationBody.model_validate(run)


@router.delete("/evaluations/{run_id}", dependencies=[_ADMIN])
def delete_evaluation(run_id: str, request: Request, caller: Caller, services: ServicesOf) -> EvaluationBody:
    """Remove a run that has ended, with its answers."""
    removed = services.evaluations.delete(caller, run_id, request_id=request_id_of(request.scope))
    return EvaluationBody.model_validate(removed)
