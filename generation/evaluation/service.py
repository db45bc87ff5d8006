"""Sets and runs of evaluations through the eyes of a principal; what belongs to another tenant does not exist."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select

from core.access import Principal
from core.audit import record
from core.database import Database, ReadSession, WriteSession, lock_name
from core.errors import Conflict, InvalidInput, NotFound
from core.jobs import JobStore
from core.jobs.store import FINAL
from core.paging import Page, checked_limit, cut_page, newest_page
from core.tables.base import new_id
from core.tables.documents import Collection
from core.tables.evaluations import EvaluationOutcome, EvaluationRun, EvaluationSet
from core.tables.jobs import Job
from core.types import JobKind, JobStatus, Scope
from generation.asking import Routing
from generation.evaluation.compare import Row, changed_conditions, compare
from generation.evaluation.outcome import Status
from generation.evaluation.questions import Question, chosen, parse_questions

DEFAULT_NAME = "questions"


@dataclass(frozen=True, slots=True)
class SetView:
    """A stored set; `questions` is None in lists."""

    id: str
    name: str
    question_count: int
    created_at: datetime
    questions: builtins.list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with its job. `report` and `comparison` are None until it has ended, the latter in lists as well."""

    id: str
    name: str
    status: str
    """That of the job."""
    question_count: int
    options: dict[str, Any]
    conditions: dict[str, Any]
    report: dict[str, Any] | None
    compared_with: str | None
    comparison: dict[str, Any] | None
    job: Job | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What to ask, and how. Exactly one of `questions` and `set_name` (a name or an id)."""

    questions: Sequence[Any] | None = None
    set_name: str | None = None
    name: str | None = None
    kinds: Sequence[str] = ()
    limit: int | None = None
    adapter: str | None = None
    collection: str | None = None
    compare_to: str | None = None


class EvaluationService:
    """Evaluations of one service."""

    def __init__(self, db: Database, jobs: JobStore, routing: Routing) -> None:
        self._db = db
        self._jobs = jobs
        self._routing = routing

    def add_set(
        self, principal: Principal, name: str, questions: Sequence[Any], *, request_id: str | None = None
    ) -> SetView:
        """Store a set.

        Raises:
            InvalidInput: a question cannot be used.
            Conflict: `evaluation_set_exists`.
        """
        principal.require(Scope.ADMIN)
        checked = parse_questions(questions)
        with self._db.write() as session:
            lock_name(session, f"evaluation-set:{principal.tenant_id}:{name}")
            if _set_of(session, principal, name) is not None:
                raise Conflict(f"there is already a set '{name}'; delete it first", code="evaluation_set_exists")
            row = EvaluationSet(
                tenant_id=principal.tenant_id,
                name=name,
                questions=[one.model_dump(mode="json") for one in checked],
                question_count=len(checked),
            )
            session.add(row)
            session.flush()
            self._audit(session, principal, "evaluation_set.create", row.id, {"name": name}, request_id)
        return _set_view(row, whole=True)

    def get_set(self, principal: Principal, name_or_id: str) -> SetView:
        """A set with its questions.

        Raises:
            NotFound: there is none in this tenant.
        """
        principal.require(Scope.ADMIN)
        with self._db.read() as session:
            return _set_view(_known_set(session, principal, name_or_id), whole=True)

    def list_sets(self, principal: Principal, *, limit: int = 50, cursor: str | None = None) -> Page[SetView]:
        """Newest first, without their questions."""
        principal.require(Scope.ADMIN)
        query = select(EvaluationSet).where(EvaluationSet.tenant_id == principal.tenant_id)
        query = newest_page(query, EvaluationSet, cursor, limit)
        with self._db.read() as session:
            rows = session.scalars(query).all()
        return cut_page([_set_view(row) for row in rows], limit)

    def delete_set(self, principal: Principal, name_or_id: str, *, request_id: str | None = None) -> SetView:
        """Remove a set; runs over it stay, as they hold their questions themselves.

        Raises:
            NotFound: there is none in this tenant.
        """
        principal.require(Scope.ADMIN)
        with self._db.write() as session:
            row = _known_set(session, principal, name_or_id)
            view = _set_view(row)
            session.delete(row)
            self._audit(session, principal, "evaluation_set.delete", row.id, {"name": row.name}, request_id)
        return view

    def create(self, principal: Principal, request: RunRequest, *, request_id: str | None = None) -> RunView:
        """Queue a run, to be compared with `compare_to`, else with the last ended run of the same name.

        Raises:
            InvalidInput: `no_questions`, `invalid_questions`, or not exactly one of questions and set.
            NotFound: no such set, run to compare with, collection or model.
        """
        principal.require(Scope.ADMIN)
        name, questions = self._questions(principal, request)
        if request.adapter is not None:
            self._routing.route(principal, request.adapter, None)
        run_id = new_id("evr")
        with self._db.write() as session:
            if request.collection is not None:
                _require_collection(session, principal, request.collection)
            before = (
                _known_run(session, principal, request.compare_to).id
                if request.compare_to is not None
                else _last_of(session, principal, name)
            )
            job = self._jobs.create(
                session, tenant_id=principal.tenant_id, kind=JobKind.EVALUATION, subject_id=run_id, priority=7
            )
            session.add(
                EvaluationRun(
                    id=run_id,
                    tenant_id=principal.tenant_id,
                    job_id=job.id,
                    name=name,
                    question_count=len(questions),
                    options={"adapter": request.adapter, "collection": request.collection},
                    asked_by={
                        "key_id": principal.key_id,
                        "scopes": sorted(principal.scopes),
                        "groups": sorted(principal.groups),
                    },
                    compared_with=before,
                )
            )
            session.flush()
            session.execute(
                insert(EvaluationOutcome),
                [
                    {
                        "run_id": run_id, "ordinal": number, "digest": one.digest,
                        "question": one.model_dump(mode="json"),
                    }
                    for number, one in enumerate(questions, start=1)
                ],
            )  # fmt: skip
            detail = {"name": name, "questions": len(questions)}
            self._audit(session, principal, "evaluation.run", run_id, detail, request_id)
        return self.get(principal, run_id)

    def get(self, principal: Principal, run_id: str, *, compare_to: str | None = None) -> RunView:
        """A run, compared with `compare_to`, else with the run that was chosen when it was made.

        Raises:
            NotFound: there is none in this tenant.
        """
        principal.require(Scope.ADMIN)
        with self._db.read() as session:
            run = _known_run(session, principal, run_id)
            before = _known_run(session, principal, compare_to) if compare_to is not None else None
            if before is None and run.compared_with is not None:
                before = session.get(EvaluationRun, run.compared_with)
            comparison = None
            if before is not None and run.report is not None:
                comparison = {
                    "run_id": before.id,
                    "created_at": before.created_at.isoformat(),
                    **compare(_rows(session, before.id), _rows(session, run.id)),
                    "conditions": changed_conditions(before.conditions, run.conditions),
                }
            return _run_view(run, session.get(Job, run.job_id), comparison)

    def list(
        self, principal: Principal, *, name: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[RunView]:
        """Newest first, without comparisons."""
        principal.require(Scope.ADMIN)
        query = select(EvaluationRun).where(EvaluationRun.tenant_id == principal.tenant_id)
        if name is not None:
            query = query.where(EvaluationRun.name == name)
        query = newest_page(query, EvaluationRun, cursor, limit)
        with self._db.read() as session:
            rows = session.scalars(query).all()
            return cut_page([_run_view(row, session.get(Job, row.job_id)) for row in rows], limit)

    def outcomes(
        self,
        principal: Principal,
        run_id: str,
        *,
        status: str | None = None,
        kind: str | None = None,
        limit: int = 50,
        after: int = 0,
    ) -> tuple[builtins.list[EvaluationOutcome], int | None]:
        """Outcomes of the questions that were asked, in their order, and `after` of the next page.

        Raises:
            NotFound: there is no such run in this tenant.
        """
        principal.require(Scope.ADMIN)
        with self._db.read() as session:
            run = _known_run(session, principal, run_id)
            query = select(EvaluationOutcome).where(
                EvaluationOutcome.run_id == run.id,
                EvaluationOutcome.ordinal > after,
                EvaluationOutcome.status.is_not(None) if status is None else EvaluationOutcome.status == status,
            )
            if kind is not None:
                query = query.where(EvaluationOutcome.question["kind"].as_string() == kind)
            rows = session.scalars(query.order_by(EvaluationOutcome.ordinal).limit(checked_limit(limit) + 1)).all()
        return list(rows[:limit]), rows[limit - 1].ordinal if len(rows) > limit else None

    def cancel(self, principal: Principal, run_id: str, *, request_id: str | None = None) -> RunView:
        """Ask a run to stop; what was asked so far stays.

        Raises:
            NotFound: there is none in this tenant.
            Conflict: it has ended.
        """
        principal.require(Scope.ADMIN)
        with self._db.write() as session:
            run = _known_run(session, principal, run_id)
            assert run.job_id is not None
            self._jobs.request_cancel(
                run.job_id, principal.tenant_id, actor=principal.actor, request_id=request_id, session=session
            )
        return self.get(principal, run_id)

    def delete(self, principal: Principal, run_id: str, *, request_id: str | None = None) -> RunView:
        """Remove a run with its answers.

        Raises:
            NotFound: there is none in this tenant.
            Conflict: `evaluation_running`: cancel it first.
        """
        view = self.get(principal, run_id)
        if view.job is not None and JobStatus(view.job.status) not in FINAL:
            raise Conflict(f"evaluation '{run_id}' is {view.status}; cancel it first", code="evaluation_running")
        with self._db.write() as session:
            session.execute(delete(EvaluationRun).where(EvaluationRun.id == run_id))
            self._audit(session, principal, "evaluation.delete", run_id, {"name": view.name}, request_id)
        return view

    def _questions(self, principal: Principal, request: RunRequest) -> tuple[str, builtins.list[Question]]:
        if (request.questions is None) == (request.set_name is None):
            raise InvalidInput("give either `questions` or `set`", code="invalid_questions")
        if request.set_name is not None:
            stored = self.get_set(principal, request.set_name)
            name, given = stored.name, parse_questions(stored.questions or [])
        else:
            name, given = request.name or DEFAULT_NAME, parse_questions(request.questions or [])
        return name, chosen(given, kinds=request.kinds, limit=request.limit)

    @staticmethod
    def _audit(
        session: WriteSession,
        principal: Principal,
        action: str,
        object_id: str,
        detail: Mapping[str, Any],
        request_id: str | None,
    ) -> None:
        record(
            session, tenant_id=principal.tenant_id, actor=principal.actor, action=action, object_id=object_id,
            detail=detail, request_id=request_id,
        )  # fmt: skip


def _set_of(session: ReadSession | WriteSession, principal: Principal, name_or_id: str) -> EvaluationSet | None:
    named = (EvaluationSet.name == name_or_id) | (EvaluationSet.id == name_or_id)
    return session.scalars(select(EvaluationSet).where(EvaluationSet.tenant_id == principal.tenant_id, named)).first()


def _known_set(session: ReadSession | WriteSession, principal: Principal, name_or_id: str) -> EvaluationSet:
    found = _set_of(session, principal, name_or_id)
    if found is None:
        raise NotFound(f"no evaluation set '{name_or_id}'")
    return found


def _known_run(session: ReadSession | WriteSession, principal: Principal, run_id: str) -> EvaluationRun:
    run = session.get(EvaluationRun, run_id)
    if run is None or run.tenant_id != principal.tenant_id:
        raise NotFound(f"no evaluation '{run_id}'")
    return run


def _require_collection(session: WriteSession, principal: Principal, name: str) -> None:
    named = select(Collection.id).where(Collection.tenant_id == principal.tenant_id, Collection.name == name)
    if session.scalar(named) is None:
        raise NotFound(f"no collection {name!r}", code="collection_not_found")


def _last_of(session: WriteSession, principal: Principal, name: str) -> str | None:
    return session.scalars(
        select(EvaluationRun.id)
        .join(Job, Job.id == EvaluationRun.job_id)
        .where(EvaluationRun.tenant_id == principal.tenant_id, EvaluationRun.name == name)
        .where(Job.status == JobStatus.SUCCEEDED.value)
        .order_by(EvaluationRun.created_at.desc(), EvaluationRun.id.desc())
        .limit(1)
    ).first()


def _rows(session: ReadSession, run_id: str) -> builtins.list[Row]:
    found = session.execute(
        select(
            EvaluationOutcome.question["id"].as_string(),
            EvaluationOutcome.question["question"].as_string(),
            EvaluationOutcome.digest,
            EvaluationOutcome.status,
            EvaluationOutcome.outcome["verified"].as_boolean(),
        )
        .where(EvaluationOutcome.run_id == run_id, EvaluationOutcome.status.is_not(None))
        .order_by(EvaluationOutcome.ordinal)
    )
    return [
        Row(name, text, digest, status or "", verified_wrong=status == Status.WRONG and bool(verified))
        for name, text, digest, status, verified in found
    ]


def _set_view(row: EvaluationSet, *, whole: bool = False) -> SetView:
    return SetView(row.id, row.name, row.question_count, row.created_at, list(row.questions) if whole else None)


def _run_view(run: EvaluationRun, job: Job | None, comparison: dict[str, Any] | None = None) -> RunView:
    return RunView(
        id=run.id,
        name=run.name,
        status=job.status if job is not None else "unknown",
        question_count=run.question_count,
        options=run.options,
        conditions=run.conditions,
        report=run.report,
        compared_with=run.compared_with,
        comparison=comparison,
        job=job,
        created_at=run.created_at,
    )
