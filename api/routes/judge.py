"""Calibration of the judges that the settings name."""

from __future__ import annotations

from fastapi import APIRouter, Request

from api.errors import request_id_of
from api.paging import PageQuery
from api.schemas.judge import CalibrateRequest, CalibrationBody, CalibrationList
from api.security import Caller, GuardedRoute, ServicesOf, needs
from api.services import Services
from core.errors import InvalidInput
from core.types import Scope
from tuning.judging import JudgeService
from tuning.rubric import Pair

router = APIRouter(route_class=GuardedRoute, prefix="/v1/admin/judge/calibrations", tags=["tuning"])

_ADMIN = needs(Scope.ADMIN)


@router.post("", status_code=202, dependencies=[_ADMIN])
def calibrate(body: CalibrateRequest, request: Request, caller: Caller, services: ServicesOf) -> CalibrationBody:
    """Queue a calibration: the judges judge what people have judged; they may gate if both certainly agree."""
    if len({pair.id for pair in body.pairs}) < len(body.pairs):
        raise InvalidInput("two pairs have the same id", code="invalid_pairs")
    pairs = [Pair(one.id, one.question, one.passages, one.candidate, one.reference) for one in body.pairs]
    people = {one.id: one.label for one in body.pairs}
    made = _judges(services).create(caller, pairs, people, request_id=request_id_of(request.scope))
    return CalibrationBody.model_validate(made)


@router.get("", dependencies=[_ADMIN])
def list_calibrations(caller: Caller, services: ServicesOf, page: PageQuery) -> CalibrationList:
    """Calibrations, newest first."""
    found = _judges(services).list(caller, limit=page.limit, cursor=page.cursor)
    items = [CalibrationBody.model_validate(one) for one in found.items]
    return CalibrationList(items=items, next_cursor=found.next_cursor)


@router.get("/{calibration_id}", dependencies=[_ADMIN])
def get_calibration(calibration_id: str, caller: Caller, services: ServicesOf) -> CalibrationBody:
    """One calibration, with its figures once it has ended."""
    return CalibrationBody.model_validate(_judges(services).get(caller, calibration_id))


def _judges(services: Services) -> JudgeService:
    return JudgeService(services.db, services.jobs, services.settings.tuning)
