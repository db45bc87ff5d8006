"""Calibration of the judges that the settings name."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from api.schemas.base import RequestBody
from api.security import Caller, GuardedRoute, ServicesOf, needs
from core.errors import InvalidInput
from core.types import Scope
from tuning.judging import JudgeService
from tuning.rubric import Pair

router = APIRouter(route_class=GuardedRoute, prefix="/v1/admin/judge", tags=["tuning"])


class LabelledPair(RequestBody):
    """Two answers and which one people preferred."""

    id: str = Field(min_length=1, max_length=100)
    question: str = Field(min_length=1, max_length=8_000)
    passages: str = Field("", max_length=32_000)
    candidate: str = Field(max_length=16_000)
    reference: str = Field(max_length=16_000)
    label: float = Field(ge=-5, le=5, description="Above 0: the candidate was better. 0: equal. Below: worse.")


class CalibrateRequest(RequestBody):
    """Pairs that people have judged."""

    pairs: list[LabelledPair] = Field(min_length=1, max_length=200)


@router.post("/calibrations", status_code=201, dependencies=[needs(Scope.ADMIN)])
def calibrate(body: CalibrateRequest, caller: Caller, services: ServicesOf) -> dict[str, Any]:
    """Have the judges judge what people have judged; they may gate if both agree well enough. Takes a while: each pair
    is put to each model twice.
    """
    if len({pair.id for pair in body.pairs}) < len(body.pairs):
        raise InvalidInput("two pairs have the same id", code="invalid_pairs")
    pairs = [Pair(one.id, one.question, one.passages, one.candidate, one.reference) for one in body.pairs]
    people = {one.id: one.label for one in body.pairs}
    return JudgeService(services.db, services.settings.tuning).calibrate(caller, pairs, people).to_json()
