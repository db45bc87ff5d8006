"""What becomes of adapter versions that saw what is forgotten: retired now, or once a clean training has passed.

A clean training is the earlier run once more: its recipe, its sets as they are without the erased rows, from the last
version of its line that never saw them, else from the base.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.access import in_the_name_of
from core.database import Database, WriteSession
from core.errors import TsumugiError
from core.jobs import JobLease
from core.ports import Engine
from core.settings import Settings
from core.tables import AdapterAlias, AdapterVersion, Erasure, Job, TuningRun
from core.types import AdapterStatus, JobStatus
from generation.adapters.retire import retire_versions
from tuning.service import Requester, TuningService

log = structlog.stdlib.get_logger(__name__)

NOW = "now"
AFTER_RETRAIN = "after_retrain"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A family whose tainted version serves on, and why."""

    family_id: str
    run_id: str | None
    problem: str | None
    """Code: the training cannot be had, or has not passed; somebody has to look."""


class VersionRetirement:
    """Retires the versions of one erasure. Every step may be repeated."""

    def __init__(
        self, db: Database, settings: Settings, engine: Callable[[], Engine | None], tuning: TuningService
    ) -> None:
        self._db = db
        self._settings = settings
        self._engine = engine
        self._tuning = tuning

    def advance(self, lease: JobLease, erasure: Erasure) -> list[Waiting]:
        """Retire what may be retired, ask for clean trainings where these come first; what has to wait."""
        versions = erasure.found.get("versions", [])
        waiting = []
        with self._db.read() as session:
            families = _by_family(session, versions)
            serving = {family: _serving(session, family, ids) for family, ids in families.items()}
        for family_id, tainted in families.items():
            champion, replacement, going = serving[family_id], None, tainted
            if erasure.retire == AFTER_RETRAIN and champion is not None:
                told = self._retrain(lease, erasure, family_id, champion, tainted)
                replacement = self._passed(told)
                if replacement is None:
                    waiting.append(Waiting(family_id, told.get("run_id"), self._problem(told)))
                    going = tainted - {champion}  # what does not serve need not wait
            if going:
                retire_versions(
                    self._db, self._settings, self._engine(), family_id, going, replacement_id=replacement,
                    actor=erasure.asked_by, reason=f"erasure {erasure.id}",
                )  # fmt: skip
        return waiting

    def _retrain(
        self, lease: JobLease, erasure: Erasure, family_id: str, champion_id: str, tainted: set[str]
    ) -> dict[str, Any]:
        """The training asked for in this family: {run_id} or {problem}."""
        told = erasure.retrains.get(family_id)
        if told is not None and "run_id" in told:
            return dict(told)
        with lease.write() as session:
            row = session.get_one(Erasure, erasure.id)
            try:
                with session.begin_nested():
                    told = {"run_id": self._ask(session, row, champion_id, tainted)}
            except TsumugiError as error:
                told = {"problem": error.code, "detail": error.detail}
                log.warning("erasure.no_training", erasure=erasure.id, code=error.code, detail=error.detail)
            row.retrains = {**row.retrains, family_id: told}
            erasure.retrains = row.retrains
        return told

    def _ask(self, session: WriteSession, erasure: Erasure, champion_id: str, tainted: set[str]) -> str:
        version = session.get_one(AdapterVersion, champion_id)
        run = session.get_one(TuningRun, version.run_id)
        requester = Requester(in_the_name_of(run.tenant_id, run.reader_groups), erasure.asked_by)
        return self._tuning.again(session, requester, run, _clean_ancestor(session, run, tainted)).id

    def _passed(self, told: Mapping[str, Any]) -> str | None:
        """Version that the training made, if the gate let it through."""
        with self._db.read() as session:
            run = session.get(TuningRun, told.get("run_id") or "")
            version = session.get(AdapterVersion, run.adapter_version_id or "") if run is not None else None
            passed = version is not None and version.status == AdapterStatus.CANDIDATE.value
            return version.id if version is not None and passed else None

    def _problem(self, told: Mapping[str, Any]) -> str | None:
        if told.get("problem"):
            return str(told["problem"])
        with self._db.read() as session:
            run = session.get(TuningRun, told["run_id"])
            job = session.get(Job, run.job_id) if run is not None and run.job_id else None
        if run is None or job is None:
            return "run_gone"
        if job.status in {JobStatus.FAILED.value, JobStatus.CANCELLED.value}:
            return str((job.error or {}).get("code", job.status))
        return "gate_failed" if job.status == JobStatus.SUCCEEDED.value else None


def _by_family(session: Session, version_ids: list[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    query = select(AdapterVersion.family_id, AdapterVersion.id).where(AdapterVersion.id.in_(version_ids))
    for family_id, version_id in session.execute(query):
        found[family_id].add(version_id)
    return dict(found)


def _serving(session: Session, family_id: str, version_ids: set[str]) -> str | None:
    """The champion, where it is one of these."""
    champion = session.scalar(
        select(AdapterAlias.version_id).where(AdapterAlias.family_id == family_id, AdapterAlias.alias == "champion")
    )
    return champion if champion in version_ids else None


def _clean_ancestor(session: Session, run: TuningRun, tainted: set[str]) -> AdapterVersion | None:
    """The nearest version that a run's line of training goes back to and that is not tainted; None is the base."""
    seen: set[str] = set()
    parent_id = run.parent_version_id
    while parent_id is not None and parent_id not in seen:
        seen.add(parent_id)
        parent = session.get(AdapterVersion, parent_id)
        if parent is None:
            return None
        if parent.id not in tainted and parent.status == AdapterStatus.CANDIDATE.value:
            return parent
        before = session.get(TuningRun, parent.run_id) if parent.run_id else None
        parent_id = before.parent_version_id if before is not None else None
    return None
