"""A tuning run as it is shown: its row, job, family and version together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from core.tables.adapters import AdapterFamily, AdapterVersion
from core.tables.jobs import Job
from core.tables.tuning import TuningRun


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with its job and result."""

    id: str
    family: str
    method: str
    recipe: str
    recipe_values: dict[str, Any]
    dataset_ids: list[str]
    dataset_version: str | None
    parent: str | None
    """FAMILY@VERSION that training started from; None is the base."""
    schedule_id: str | None
    requested_by: str | None
    status: str
    """That of the job."""
    progress: dict[str, Any]
    warnings: list[dict[str, str]]
    """[{code, detail}]: what the request was told of its sets."""
    loss_curve: list[dict[str, Any]]
    gate_report: dict[str, Any] | None
    adapter_version: str | None
    """FAMILY@VERSION, once registered."""
    adapter_status: str | None
    reasons: list[str]
    job: Job | None
    created_at: datetime


def view_of(session: Session, run: TuningRun) -> RunView:
    """A run as it stands now."""
    family = session.get_one(AdapterFamily, run.family_id)
    version = session.get(AdapterVersion, run.adapter_version_id) if run.adapter_version_id else None
    job = session.get(Job, run.job_id) if run.job_id else None
    return RunView(
        id=run.id,
        family=family.name,
        method=run.method,
        recipe=str(run.recipe.get("name", "")),
        recipe_values=run.recipe,
        dataset_ids=run.dataset_ids,
        dataset_version=run.dataset_version,
        parent=_parent_name(session, run, family),
        schedule_id=run.schedule_id,
        requested_by=run.requested_by,
        status=job.status if job is not None else "unknown",
        progress=run.progress,
        warnings=list(run.progress.get("warnings", [])),
        loss_curve=run.loss_curve,
        gate_report=run.gate_report,
        adapter_version=f"{family.name}@{version.version}" if version is not None else None,
        adapter_status=version.status if version is not None else None,
        reasons=list(version.reasons) if version is not None else [],
        job=job,
        created_at=run.created_at,
    )


def _parent_name(session: Session, run: TuningRun, family: AdapterFamily) -> str | None:
    parent = session.get(AdapterVersion, run.parent_version_id) if run.parent_version_id else None
    return f"{family.name}@{parent.version}" if parent is not None else None
