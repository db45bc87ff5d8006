"""Whose turn it is, found by indexes: neither a long queue nor a long list of delayed jobs makes it slower.

Conditions stand as literals here, as the partial indexes of `jobs` have them.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, exists, func, select, text
from sqlalchemy.orm import Session

from core.tables.jobs import DELAYED, READY, Job

_READY: ColumnElement[bool] = text(READY)  # type: ignore[assignment]
_DELAYED: ColumnElement[bool] = text(DELAYED)  # type: ignore[assignment]


def tenants_waiting(session: Session, task: str, due: datetime) -> set[str]:
    """Tenants with a queued job of a task that may begin at `due`."""
    waiting: set[str] = set(session.scalars(_tenants(task, _READY)))
    delayed = _tenants(task, _DELAYED).subquery()
    come = exists().where(Job.task == task, Job.tenant_id == delayed.c.tenant_id, Job.not_before <= due, _DELAYED)
    return waiting | set(session.scalars(select(delayed.c.tenant_id).where(come)))


def first_waiting(session: Session, task: str, tenant_id: str, due: datetime) -> Job | None:
    """The job of a tenant that comes next, locked; one that another worker is taking is passed over."""
    own = and_(Job.task == task, Job.tenant_id == tenant_id)
    queries = (
        select(Job).where(own, _READY).order_by(Job.priority, Job.created_at, Job.id),
        select(Job).where(own, _DELAYED, Job.not_before <= due).order_by(Job.not_before),
    )
    found = [session.scalars(query.limit(1).with_for_update(skip_locked=True)).one_or_none() for query in queries]
    return min(
        (job for job in found if job is not None), key=lambda job: (job.priority, job.created_at, job.id), default=None
    )


def _tenants(task: str, condition: ColumnElement[bool]) -> Select[tuple[str]]:
    """Each tenant once, from one to the next along the index: DISTINCT would read every job that waits."""
    first = select(func.min(Job.tenant_id).label("tenant_id")).where(Job.task == task, condition)
    steps = first.cte("waiting", recursive=True)
    following = select(func.min(Job.tenant_id)).where(Job.task == task, Job.tenant_id > steps.c.tenant_id, condition)
    steps = steps.union_all(select(following.correlate(steps).scalar_subquery()).where(steps.c.tenant_id.is_not(None)))
    return select(steps.c.tenant_id).where(steps.c.tenant_id.is_not(None))
