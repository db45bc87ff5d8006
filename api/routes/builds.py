"""Training sets written or revised by a teacher. A build is cancelled and retried through its job."""

from __future__ import annotations

from fastapi import APIRouter, Request

from api.errors import request_id_of
from api.paging import PageQuery
from api.schemas.builds import BuildBody, BuildList, NewBuild
from api.security import Caller, GuardedRoute, ServicesOf, needs
from core.types import Scope
from tuning.teacher.builds import BuildService

router = APIRouter(route_class=GuardedRoute, prefix="/v1/dataset-builds", tags=["datasets"])

_TUNE = needs(Scope.TUNE)


@router.post("", status_code=202, dependencies=[_TUNE])
def start_build(body: NewBuild, request: Request, caller: Caller, services: ServicesOf) -> BuildBody:
    """Queue a build: rows from documents, or a set revised by principles. Nothing is trained on it by itself."""
    builds = BuildService(services.db, services.jobs, services.settings.tuning)
    built = builds.create(caller, body.model_dump(mode="json"), request_id=request_id_of(request.scope))
    return BuildBody.model_validate(built)


@router.get("", dependencies=[_TUNE])
def list_builds(caller: Caller, services: ServicesOf, page: PageQuery) -> BuildList:
    """Builds, newest first."""
    builds = BuildService(services.db, services.jobs, services.settings.tuning)
    found = builds.list(caller, limit=page.limit, cursor=page.cursor)
    return BuildList(items=[BuildBody.model_validate(one) for one in found.items], next_cursor=found.next_cursor)


@router.get("/{build_id}", dependencies=[_TUNE])
def get_build(build_id: str, caller: Caller, services: ServicesOf) -> BuildBody:
    """One build with its report and the sets that it made."""
    builds = BuildService(services.db, services.jobs, services.settings.tuning)
    return BuildBody.model_validate(builds.get(caller, build_id))
