"""Tuning runs and schedules."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.errors import request_id_of
from api.paging import PageQuery
from api.schemas.tuning import (
    NewSchedule,
    ScheduleBody,
    ScheduleChange,
    ScheduleList,
    TuningRunBody,
    TuningRunList,
    TuningRunRequest,
)
from api.security import Caller, GuardedRoute, ServicesOf, needs
from core.errors import NotFound
from core.types import Scope
from tuning.artefacts import MEDIA_TYPE

router = APIRouter(route_class=GuardedRoute, prefix="/v1/admin", tags=["tuning"])

_TUNE = needs(Scope.TUNE)


@router.post("/tuning-runs", status_code=202, dependencies=[_TUNE])
def start_run(body: TuningRunRequest, request: Request, caller: Caller, services: ServicesOf) -> TuningRunBody:
    """Queue a run: train, evaluate, put before the gate. Serving the result is a promotion: another request."""
    run = services.tuning.create_run(caller, body, request_id=request_id_of(request.scope))
    return TuningRunBody.model_validate(run)


@router.get("/tuning-runs", dependencies=[_TUNE])
def list_runs(
    caller: Caller,
    services: ServicesOf,
    page: PageQuery,
    family: Annotated[str | None, Query(max_length=64)] = None,
) -> TuningRunList:
    """Runs, newest first."""
    found = services.tuning.list(caller, limit=page.limit, cursor=page.cursor, family=family)
    return TuningRunList(
        items=[TuningRunBody.model_validate(run) for run in found.items], next_cursor=found.next_cursor
    )


@router.get("/tuning-runs/{run_id}", dependencies=[_TUNE])
def get_run(run_id: str, caller: Caller, services: ServicesOf) -> TuningRunBody:
    """One run with its loss curve, dataset version, gate report and adapter version."""
    return TuningRunBody.model_validate(services.tuning.get(caller, run_id))


@router.get("/tuning-runs/{run_id}/artefact", dependencies=[_TUNE], response_class=Response)
def get_artefact(run_id: str, caller: Caller, services: ServicesOf) -> Response:
    """What a run made for download (`progress.artefact`): a .tar of safetensors and their configuration."""
    artefact = services.tuning.get(caller, run_id).progress.get("artefact")
    if artefact is None:
        raise NotFound(f"run '{run_id}' has nothing to download", code="no_artefact")
    name = f"{run_id}.tar"
    return Response(
        services.blobs.get(artefact["digest"]),
        media_type=MEDIA_TYPE,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@router.post("/tuning-runs/{run_id}/cancel", status_code=202, dependencies=[_TUNE])
def cancel_run(run_id: str, request: Request, caller: Caller, services: ServicesOf) -> TuningRunBody:
    """Ask a run to stop."""
    run = services.tuning.cancel(caller, run_id, request_id=request_id_of(request.scope))
    return TuningRunBody.model_validate(run)


@router.post("/schedules", status_code=201, dependencies=[_TUNE])
def add_schedule(body: NewSchedule, request: Request, caller: Caller, services: ServicesOf) -> ScheduleBody:
    """Add a schedule."""
    schedule = services.schedules.create(caller, body, request_id=request_id_of(request.scope))
    return ScheduleBody.model_validate(schedule)


@router.get("/schedules", dependencies=[_TUNE])
def list_schedules(caller: Caller, services: ServicesOf, page: PageQuery) -> ScheduleList:
    """Schedules, newest first."""
    found = services.schedules.list(caller, limit=page.limit, cursor=page.cursor)
    return ScheduleList(
        items=[ScheduleBody.model_validate(item) for item in found.items], next_cursor=found.next_cursor
    )


@router.get("/schedules/{schedule_id}", dependencies=[_TUNE])
def get_schedule(schedule_id: str, caller: Caller, services: ServicesOf) -> ScheduleBody:
    """One schedule with the outcome of its last moment."""
    return ScheduleBody.model_validate(services.schedules.get(caller, schedule_id))


@router.patch("/schedules/{schedule_id}", dependencies=[_TUNE])
def change_schedule(
    schedule_id: str, body: ScheduleChange, request: Request, caller: Caller, services: ServicesOf
) -> ScheduleBody:
    """Change a schedule; its next moment is worked out anew."""
    changed = services.schedules.update(caller, schedule_id, body.changes(), request_id=request_id_of(request.scope))
    return ScheduleBody.model_validate(changed)


@router.delete("/schedules/{schedule_id}", status_code=204, dependencies=[_TUNE])
def delete_schedule(schedule_id: str, request: Request, caller: Caller, services: ServicesOf) -> Response:
    """Drop a schedule; runs that it made stay."""
    services.schedules.delete(caller, schedule_id, request_id=request_id_of(request.scope))
    return Response(status_code=204)


@router.post("/schedules/{schedule_id}/run-now", status_code=202, dependencies=[_TUNE])
def run_schedule_now(schedule_id: str, request: Request, caller: Caller, services: ServicesOf) -> TuningRunBody:
    """Queue the schedule's run now, whatever its conditions say; answers the run."""
    schedule = services.schedules.run_now(caller, schedule_id, request_id=request_id_of(request.scope))
    if schedule.last_run_id is None:
        raise NotFound(f"schedule {schedule_id!r} made no run")
    return TuningRunBody.model_validate(services.tuning.get(caller, schedule.last_run_id))
