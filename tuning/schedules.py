"""Schedules: cron in a time zone plus conditions. Beat asks `run_due`; what it decided is kept as `last_outcome`.

Claiming a due schedule, judging its conditions and queueing the run happen in one transaction, so that two beats cannot
both act on one moment and a crash in between loses nothing. A moment missed while the service was down runs once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.access import Principal, in_the_name_of, kept_groups
from core.audit import record
from core.database import Database, WriteSession, lock_name
from core.errors import Conflict, FieldError, InvalidInput, NotFound, TsumugiError
from core.paging import Page, cut_page, newest_page
from core.tables.base import new_id, utc_now
from core.tables.jobs import Job
from core.tables.tuning import Schedule, TuningRun
from core.types import JobKind, JobStatus, Scope
from tuning.drift import measure_drift
from tuning.schedule_rules import Conditions, ScheduleRequest, next_moment
from tuning.service import Requester, TuningService, family_named
from tuning.sets import count_rows

LOOK_AGAIN = timedelta(minutes=5)
"""When a schedule that found the worker or its family busy is judged again."""
CLOCK_WENT_BACK = timedelta(hours=1)
"""A last look that lies further ahead than this was made under a wrong clock, and so was the next moment."""

_RUNNING = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule as callers see it."""

    id: str
    family: str
    cron: str
    timezone: str
    conditions: dict[str, Any]
    request: dict[str, Any]
    enabled: bool
    next_at: datetime | None
    last_checked_at: datetime | None
    last_outcome: dict[str, Any] | None
    last_run_id: str | None
    created_at: datetime


class SchedulesService:
    """Schedules through the eyes of a principal, and the step that beat takes."""

    def __init__(self, db: Database, tuning: TuningService) -> None:
        self._db = db
        self._tuning = tuning

    def create(
        self, principal: Principal, body: ScheduleRequest | Mapping[str, Any], *, request_id: str | None = None
    ) -> ScheduleView:
        """Add a schedule; its first moment is the next one of its cron.

        Raises:
            InvalidInput: `errors` names fields; `invalid_cron`, `invalid_timezone`.
        """
        principal.require(Scope.TUNE)
        asked = _parse(body)
        schedule = Schedule(id=new_id("sch"), tenant_id=principal.tenant_id, reader_groups=kept_groups(principal))
        _apply(schedule, asked, utc_now())
        with self._db.write() as session:
            session.add(schedule)
            _record(session, principal, schedule, "schedule.create", request_id)
        return _view(schedule)

    def update(
        self, principal: Principal, schedule_id: str, changes: Mapping[str, Any], *, request_id: str | None = None
    ) -> ScheduleView:
        """Change some fields, and of `conditions` and `request` some members; `next_at` is worked out anew.

        Raises:
            NotFound, InvalidInput: as for `get` and `create`.
        """
        principal.require(Scope.TUNE)
        with self._db.write() as session:
            schedule = _find(session, principal.tenant_id, schedule_id)
            _apply(schedule, _parse(_changed(_body(schedule), changes)), utc_now())
            schedule.reader_groups = kept_groups(principal)
            _record(session, principal, schedule, "schedule.update", request_id)
        return _view(schedule)

    def delete(self, principal: Principal, schedule_id: str, *, request_id: str | None = None) -> None:
        """Drop a schedule; runs it made stay.

        Raises:
            NotFound: there is none in this tenant.
        """
        principal.require(Scope.TUNE)
        with self._db.write() as session:
            schedule = _find(session, principal.tenant_id, schedule_id)
            _record(session, principal, schedule, "schedule.delete", request_id)
            session.delete(schedule)

    def list(self, principal: Principal, *, limit: int = 50, cursor: str | None = None) -> Page[ScheduleView]:
        """Newest first."""
        principal.require(Scope.TUNE)
        query = select(Schedule).where(Schedule.tenant_id == principal.tenant_id)
        query = newest_page(query, Schedule, cursor, limit)
        with self._db.read() as session:
            return cut_page([_view(schedule) for schedule in session.scalars(query)], limit)

    def get(self, principal: Principal, schedule_id: str) -> ScheduleView:
        """One schedule.

        Raises:
            NotFound: there is none in this tenant.
        """
        principal.require(Scope.TUNE)
        with self._db.read() as session:
            return _view(_find(session, principal.tenant_id, schedule_id))

    def run_now(self, principal: Principal, schedule_id: str, *, request_id: str | None = None) -> ScheduleView:
        """Queue its run now, whatever the conditions say; `last_run_id` names it.

        Raises:
            NotFound: there is none in this tenant.
            Conflict: `run_in_progress`, a run of the family is queued or running.
            InvalidInput: its request cannot be run any more.
        """
        principal.require(Scope.TUNE)
        with self._db.write() as session:
            schedule = _find(session, principal.tenant_id, schedule_id)
            busy = _run_in_progress(session, schedule)
            if busy is not None:
                raise Conflict(f"run '{busy}' of '{schedule.family}' has not ended", code="run_in_progress")
            requester = Requester(principal, principal.actor, principal.key_id, schedule.id, request_id=request_id)
            self._queue(session, schedule, requester)
            schedule.last_outcome = {"reason": "run_now", "run_id": schedule.last_run_id, "at": utc_now().isoformat()}
        return _view(schedule)

    def due(self, now: datetime) -> Sequence[str]:
        """Ids of enabled schedules whose moment has come, oldest first."""
        with self._db.read() as session:
            return session.scalars(
                select(Schedule.id)
                .where(Schedule.enabled.is_(True), Schedule.next_at.is_not(None), Schedule.next_at <= now)
                .order_by(Schedule.next_at)
            ).all()

    def run_due(self, now: datetime | None = None) -> Sequence[ScheduleView]:
        """Judge every due schedule once; returns those judged, each with its outcome. Safe from several processes."""
        moment = now or utc_now()
        self._mend_after_wrong_clock(moment)
        judged = []
        for schedule_id in self.due(moment):
            with self._db.write() as session:
                schedule = session.scalars(
                    select(Schedule).where(Schedule.id == schedule_id).with_for_update(skip_locked=True)
                ).one_or_none()
                if schedule is None or not schedule.enabled or schedule.next_at is None or schedule.next_at > moment:
                    continue  # another beat was faster
                schedule.last_checked_at = moment
                upcoming = next_moment(schedule.cron, schedule.timezone, moment)
                outcome, again = self._judge(session, schedule, moment)
                # What only had to wait is not lost: it is judged again when the wait is over.
                schedule.next_at = upcoming if again is None else min(upcoming, again)
                schedule.last_outcome = {**outcome, "at": moment.isoformat()}
            judged.append(_view(schedule))
        return judged

    def _mend_after_wrong_clock(self, now: datetime) -> None:
        """After a clock that was ahead is set right, schedules would sleep until it gets there again."""
        with self._db.read() as session:
            ahead = session.scalars(
                select(Schedule.id).where(Schedule.enabled.is_(True), Schedule.last_checked_at > now + CLOCK_WENT_BACK)
            ).all()
        for schedule_id in ahead:
            with self._db.write() as session:
                schedule = session.get(Schedule, schedule_id, with_for_update=True)
                if schedule is None or schedule.last_checked_at is None or schedule.last_checked_at <= now:
                    continue
                schedule.next_at = next_moment(schedule.cron, schedule.timezone, now)
                schedule.last_checked_at = now
                schedule.last_outcome = {"reason": "clock_went_back", "at": now.isoformat()}

    def _judge(
        self, session: WriteSession, schedule: Schedule, now: datetime
    ) -> tuple[dict[str, Any], datetime | None]:
        """Queue the run, or say why not; and when to judge again, if before the next moment of the cron."""
        conditions = Conditions.model_validate(schedule.conditions)
        quiet = conditions.quiet_hours
        until = quiet.ends_at(now, ZoneInfo(schedule.timezone)) if quiet is not None else None
        if until is not None:
            return {"reason": "quiet_hours", "until": until.isoformat()}, until
        _lock_family(session, schedule)
        busy = _run_in_progress(session, schedule)
        if busy is not None:
            return {"reason": "run_in_progress", "run_id": busy}, None
        last = _last_run(session, schedule)
        if last is not None and conditions.cool_down_hours:
            cool = last + timedelta(hours=conditions.cool_down_hours)
            if now < cool:
                return {"reason": "cooling_down", "until": cool.isoformat()}, cool
        if conditions.free_worker:
            other = session.scalar(
                select(Job.id).where(Job.kind == JobKind.TUNING.value, Job.status.in_(_RUNNING)).limit(1)
            )
            if other is not None:
                return {"reason": "worker_busy"}, now + LOOK_AGAIN
        try:
            fresh = self._new_rows(session, schedule)
        except TsumugiError as error:
            return {"reason": "refused", "code": error.code, "detail": error.detail}, None
        if fresh < conditions.min_new_rows:
            return {"reason": "not_enough_new_rows", "new_rows": fresh, "needed": conditions.min_new_rows}, None
        drift = None
        if conditions.min_drift is not None:
            family = family_named(session, schedule.tenant_id, schedule.family)
            drift = measure_drift(session, family.id if family else None, now, conditions.drift_days)
            if drift.rise is None or drift.rise < conditions.min_drift:
                return {"reason": "no_drift", "needed": conditions.min_drift, **drift.to_json()}, None
        requester = Requester(_reader(schedule), f"schedule:{schedule.id}", schedule_id=schedule.id)
        try:
            self._queue(session, schedule, requester)
        except TsumugiError as error:
            return {"reason": "refused", "code": error.code, "detail": error.detail}, None
        outcome = {"reason": "started", "run_id": schedule.last_run_id, "new_rows": fresh}
        return outcome | (drift.to_json() if drift is not None else {}), None

    def _queue(self, session: WriteSession, schedule: Schedule, requester: Requester) -> None:
        checked = self._tuning.check(session, requester.reader, {"family": schedule.family, **schedule.request})
        schedule.last_run_id = self._tuning.add(session, requester, checked).id

    def _new_rows(self, session: WriteSession, schedule: Schedule) -> int:
        """Different rows that came since the family's last run, and that it did not have. A run that failed or was
        cancelled has used up nothing.
        """
        asked = {"family": schedule.family, **schedule.request}
        ids = self._tuning.sets_of(session, schedule.tenant_id, asked)
        family = family_named(session, schedule.tenant_id, schedule.family)
        last = None
        if family is not None:
            last = session.scalar(
                select(TuningRun)
                .join(Job, Job.id == TuningRun.job_id)
                .where(TuningRun.family_id == family.id, Job.status == JobStatus.SUCCEEDED.value)
                .order_by(TuningRun.created_at.desc())
                .limit(1)
            )
        if last is None:
            return count_rows(session, _reader(schedule), ids)
        return count_rows(session, _reader(schedule), ids, since=last.created_at, known=last.dataset_ids)


def _reader(schedule: Schedule) -> Principal:
    return in_the_name_of(schedule.tenant_id, schedule.reader_groups)


def _parse(body: ScheduleRequest | Mapping[str, Any]) -> ScheduleRequest:
    if isinstance(body, ScheduleRequest):
        return body
    try:
        return ScheduleRequest.model_validate(dict(body))
    except ValidationError as error:
        errors = [FieldError(".".join(map(str, e["loc"])), e["msg"], e["type"]) for e in error.errors()]
        raise InvalidInput("the schedule cannot be used", errors=errors) from error


def _body(schedule: Schedule) -> dict[str, Any]:
    return {
        "family": schedule.family,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "conditions": schedule.conditions,
        "request": schedule.request,
        "enabled": schedule.enabled,
    }


def _changed(body: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Body with the changes laid over it, one level deep: what a condition is not named with stays as it was."""
    merged = dict(body)
    for name, value in changes.items():
        before = merged.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[name] = {**before, **value}
        else:
            merged[name] = value
    return merged


def _apply(schedule: Schedule, asked: ScheduleRequest, now: datetime) -> None:
    schedule.family = asked.family
    schedule.cron = asked.cron
    schedule.timezone = asked.timezone
    schedule.conditions = asked.conditions.model_dump(mode="json")
    schedule.request = asked.request.model_dump(mode="json")
    schedule.enabled = asked.enabled
    upcoming = next_moment(asked.cron, asked.timezone, now)
    schedule.next_at = upcoming if asked.enabled else None


def _find(session: Session, tenant_id: str, schedule_id: str) -> Schedule:
    schedule = session.get(Schedule, schedule_id)
    if schedule is None or schedule.tenant_id != tenant_id:
        raise NotFound(f"no schedule '{schedule_id}'")
    return schedule


def _record(
    session: WriteSession, principal: Principal, schedule: Schedule, action: str, request_id: str | None
) -> None:
    record(
        session,
        tenant_id=schedule.tenant_id,
        actor=principal.actor,
        action=action,
        object_id=schedule.id,
        detail=_body(schedule),
        request_id=request_id,
    )


def _run_in_progress(session: Session, schedule: Schedule) -> str | None:
    """A run of the schedule's family that has not ended, whoever asked for it."""
    family = family_named(session, schedule.tenant_id, schedule.family)
    if family is None:
        return None
    return session.scalar(
        select(TuningRun.id)
        .join(Job, Job.id == TuningRun.job_id)
        .where(TuningRun.family_id == family.id, Job.status.in_(_RUNNING))
        .limit(1)
    )


def _lock_family(session: WriteSession, schedule: Schedule) -> None:
    """Two schedules of a family that fall due together are judged one after the other, whoever judges them.

    By name and not by row: before its first run a family has no row that could be locked.
    """
    lock_name(session, f"family:{schedule.tenant_id}:{schedule.family}")


def _last_run(session: Session, schedule: Schedule) -> datetime | None:
    """When the family's last run ended, whoever asked for it."""
    family = family_named(session, schedule.tenant_id, schedule.family)
    if family is None:
        return None
    return session.scalar(
        select(Job.finished_at)
        .join(TuningRun, TuningRun.job_id == Job.id)
        .where(TuningRun.family_id == family.id, Job.finished_at.is_not(None))
        .order_by(Job.finished_at.desc())
        .limit(1)
    )


def _view(schedule: Schedule) -> ScheduleView:
    return ScheduleView(
        id=schedule.id,
        family=schedule.family,
        cron=schedule.cron,
        timezone=schedule.timezone,
        conditions=schedule.conditions,
        request=schedule.request,
        enabled=schedule.enabled,
        next_at=schedule.next_at,
        last_checked_at=schedule.last_checked_at,
        last_outcome=schedule.last_outcome,
        last_run_id=schedule.last_run_id,
        created_at=schedule.created_at,
    )
