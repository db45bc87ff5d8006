"""The judge in a run and its calibration: pairs from an evaluation, and what people said of pairs like them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.access import Principal
from core.audit import record
from core.database import Database
from core.errors import InvalidInput
from core.settings import TuningSettings
from core.tables.lineage import JudgeCalibration
from core.types import Scope
from tuning.items import CANDIDATE, Evaluation, EvaluationItem
from tuning.rubric import Calibration, Complete, Ensemble, Pair, ask_over_http, calibrate


def pairs_of(items: Sequence[EvaluationItem], evaluation: Evaluation, against: str) -> list[Pair]:
    """Answers of the candidate and of `against` to the held-out items that both answered."""
    found = []
    for item in items:
        ours, theirs = (evaluation.systems[name].get(item.id) for name in (CANDIDATE, against))
        if item.source != "held_out" or ours is None or theirs is None or ours.text is None or theirs.text is None:
            continue
        passages, _, question = item.prompt[-1].content.rpartition("Question: ")
        found.append(Pair(item.id, question, passages, ours.text, theirs.text))
    return found


def may_gate(session: Session, tenant_id: str, judge: str) -> bool:
    """Whether this very judge was calibrated here, and agreed with people well enough the last time."""
    figures = session.scalar(
        select(JudgeCalibration.figures)
        .where(JudgeCalibration.tenant_id == tenant_id, JudgeCalibration.judge == judge)
        .order_by(JudgeCalibration.created_at.desc(), JudgeCalibration.id.desc())
        .limit(1)
    )
    return bool(figures and figures.get("may_gate"))


class JudgeService:
    """Calibrates the ensemble of the settings."""

    def __init__(self, db: Database, settings: TuningSettings, complete: Complete = ask_over_http) -> None:
        self._db = db
        self._settings = settings
        self._complete = complete

    def calibrate(self, principal: Principal, pairs: Sequence[Pair], people: Mapping[str, float]) -> Calibration:
        """Judge pairs that people have judged, and keep how well both agree.

        people: by pair id, above 0 where the candidate was better in their eyes, below where worse.

        Raises:
            InvalidInput: `no_judges`, `judge_not_independent`.
        """
        principal.require(Scope.ADMIN)
        if not self._settings.judges:
            raise InvalidInput("the settings name no judges (`tuning.judges`)", code="no_judges")
        ensemble = Ensemble(self._settings.judges, self._settings.tuned_model_family, self._complete)
        found = calibrate(ensemble.judge(pairs), people)
        with self._db.write() as session:
            session.add(
                JudgeCalibration(tenant_id=principal.tenant_id, judge=found.judge[:200], figures=found.to_json())
            )
            record(
                session, tenant_id=principal.tenant_id, actor=principal.actor, action="judge.calibrate",
                object_id=found.judge[:120], detail=found.to_json(),
            )  # fmt: skip
        return found
