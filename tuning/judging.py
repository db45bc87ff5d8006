"""The judge in a run and its calibration: pairs from an evaluation, and what people said of pairs like them.

A calibration puts each pair to each model twice, which takes minutes: it is a job. A judge that is down makes the job,
like a run, wait and try again; it never counts against the answers that were to be judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.access import Principal
from core.audit import record
from core.database import Database
from core.errors import InvalidInput, NotFound
from core.jobs import JobLease, JobStore
from core.paging import Page, cut_page, newest_page
from core.settings import TuningSettings
from core.tables.base import new_id
from core.tables.jobs import Job
from core.tables.lineage import JudgeCalibration
from core.types import JobKind, Scope
from tuning.items import CANDIDATE, Evaluation, EvaluationItem
from tuning.rubric import Complete, Ensemble, Pair, ask_over_http, calibrate

log = structlog.stdlib.get_logger(__name__)

_ASKED = "asked"
"""Key of `figures` under which a calibration that has not ended keeps what it was asked."""
_LOOKED_AT = 20


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
    newest = session.scalars(
        select(JudgeCalibration.figures)
        .where(JudgeCalibration.tenant_id == tenant_id, JudgeCalibration.judge == judge[:200])
        .order_by(JudgeCalibration.created_at.desc(), JudgeCalibration.id.desc())
        .limit(_LOOKED_AT)
    )
    ended = next((figures for figures in newest if _ASKED not in figures), None)
    # One from before bounds were asked for has none, and is to be made anew.
    return bool(ended and ended.get("may_gate") and ended.get("spearman_low") is not None)


@dataclass(frozen=True, slots=True)
class CalibrationView:
    """A calibration with its job."""

    id: str
    judge: str
    status: str
    """That of the job; `succeeded` where it came before calibrations were jobs."""
    figures: dict[str, Any]
    """`tuning.rubric.Calibration`, once it has ended; until then empty."""
    job: Job | None
    created_at: datetime


class JudgeService:
    """Calibrations of the ensemble of the settings, through the eyes of an admin."""

    def __init__(self, db: Database, jobs: JobStore, settings: TuningSettings) -> None:
        self._db = db
        self._jobs = jobs
        self._settings = settings

    def create(
        self,
        principal: Principal,
        pairs: Sequence[Pair],
        people: Mapping[str, float],
        *,
        request_id: str | None = None,
    ) -> CalibrationView:
        """Queue a calibration on pairs that people have judged.

        people: by pair id, above 0 where the candidate was better in their eyes, below where worse.

        Raises:
            InvalidInput: `no_judges`, `judge_not_independent`.
        """
        principal.require(Scope.ADMIN)
        judge = ensemble_of(self._settings).name[:200]
        calibration_id = new_id("jdg")
        asked = {"pairs": [asdict(pair) for pair in pairs], "people": dict(people), "actor": principal.actor}
        with self._db.write() as session:
            session.add(
                JudgeCalibration(id=calibration_id, tenant_id=principal.tenant_id, judge=judge, figures={_ASKED: asked})
            )
            self._jobs.create(
                session, tenant_id=principal.tenant_id, kind=JobKind.CALIBRATION, subject_id=calibration_id, priority=7
            )
            record(
                session, tenant_id=principal.tenant_id, actor=principal.actor, action="judge.calibrate",
                object_id=calibration_id, detail={"judge": judge, "pairs": len(pairs)}, request_id=request_id,
            )  # fmt: skip
        return self.get(principal, calibration_id)

    def get(self, principal: Principal, calibration_id: str) -> CalibrationView:
        """One calibration.

        Raises:
            NotFound: there is none in this tenant.
        """
        principal.require(Scope.ADMIN)
        with self._db.read() as session:
            row = session.get(JudgeCalibration, calibration_id)
            if row is None or row.tenant_id != principal.tenant_id:
                raise NotFound(f"no calibration '{calibration_id}'")
            return _view(session, row)

    def list(self, principal: Principal, *, limit: int = 50, cursor: str | None = None) -> Page[CalibrationView]:
        """Newest first."""
        principal.require(Scope.ADMIN)
        query = select(JudgeCalibration).where(JudgeCalibration.tenant_id == principal.tenant_id)
        query = newest_page(query, JudgeCalibration, cursor, limit)
        with self._db.read() as session:
            rows = session.scalars(query)
            return cut_page([_view(session, row) for row in rows], limit)


class JudgeCalibrator:
    """Works on jobs of the kind CALIBRATION."""

    def __init__(self, db: Database, settings: TuningSettings, complete: Complete = ask_over_http) -> None:
        self._db = db
        self._settings = settings
        self._complete = complete

    def run(self, lease: JobLease) -> None:
        """Judge the pairs of a calibration and keep how well judges and people agree; the pairs are kept no longer.

        Raises:
            Unavailable: `judge_unavailable`: tried again later.
            InvalidInput: `no_judges`, `judge_not_independent`: the settings have changed.
            NotFound: it is gone.
        """
        with self._db.read() as session:
            row = session.get(JudgeCalibration, lease.subject_id)
            if row is None or row.tenant_id != lease.tenant_id:
                raise NotFound(f"no calibration '{lease.subject_id}'")
            asked = row.figures.get(_ASKED)
        if asked is None:
            return  # died between keeping the figures and saying so
        pairs = [Pair(**pair) for pair in asked["pairs"]]
        ensemble = ensemble_of(self._settings, self._complete)
        done = 0

        def step() -> None:
            nonlocal done
            lease.check()
            lease.progress("judge", done / len(pairs))
            done += 1

        found = calibrate(ensemble.judge(pairs, step), asked["people"])
        with lease.write() as writing:
            ended = writing.get_one(JudgeCalibration, lease.subject_id)
            ended.judge, ended.figures = found.judge[:200], found.to_json()
            lease.succeed()
        log.info("judge.calibrated", judge=found.judge, may_gate=found.may_gate, reason=found.reason)


def ensemble_of(settings: TuningSettings, complete: Complete = ask_over_http) -> Ensemble:
    """The judges of the settings.

    Raises:
        InvalidInput: `no_judges`, `judge_not_independent`.
    """
    if not settings.judges:
        raise InvalidInput("the settings name no judges (`tuning.judges`)", code="no_judges")
    return Ensemble(settings.judges, settings.tuned_model_family, complete)


def _view(session: Session, row: JudgeCalibration) -> CalibrationView:
    job = session.scalar(select(Job).where(Job.subject_id == row.id, Job.kind == JobKind.CALIBRATION.value))
    return CalibrationView(
        id=row.id,
        judge=row.judge,
        status=job.status if job is not None else "succeeded",
        figures={} if _ASKED in row.figures else row.figures,
        job=job,
        created_at=row.created_at,
    )
