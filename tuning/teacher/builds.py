"""Builds as the API sees them, and the job that does the work.

Each piece of work is stored when it is done, so an attempt that follows a dead worker asks the teacher for the rest
only. A teacher that fails on some pieces is asked again after the others; when a whole round brings nothing, the job
backs off like any other that meets an unavailable service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

import structlog
from sqlalchemy import insert, select

from core.access import Principal
from core.audit import record
from core.database import Database
from core.errors import DatasetRejected, InvalidInput, NotFound, Unavailable
from core.jobs import JobLease, JobStore
from core.paging import Page, cut_page, newest_page
from core.settings import TeacherSettings, TuningSettings
from core.tables.base import new_id
from core.tables.builds import DatasetBuild, DatasetBuildStep
from core.tables.datasets import Dataset
from core.tables.jobs import Job
from core.types import JobKind, Scope
from tuning.datasets.formats import DatasetFormat
from tuning.datasets.service import DatasetService
from tuning.datasets.storing import MadeRow
from tuning.endpoint import EndpointFailed, ask
from tuning.negatives import Search
from tuning.teacher.distil import Distiller
from tuning.teacher.piece import Asker, Outcome, Piece
from tuning.teacher.requests import FromDataset, FromDocuments, parse_build
from tuning.teacher.revise import Reviser

log = structlog.stdlib.get_logger(__name__)

MAX_NAMED = 1_000
"""Left-out pieces named in a report; the counts are of all."""
_TELL_S = 1.0
_WORK_SHARE = 0.95


class Ask(Protocol):
    """Asks a teacher once."""

    def __call__(self, model: TeacherSettings, messages: Sequence[Mapping[str, str]], *, max_tokens: int) -> str:
        """The text of its reply; raises EndpointFailed."""
        ...


class _Source(Protocol):
    """Where rows come from."""

    def plan(self) -> list[str]:
        """Ids of the pieces of work, in order."""
        ...

    def work(self, piece_id: str, ask: Asker) -> Outcome:
        """One piece; called from several threads."""
        ...

    def finish(self, outcomes: Sequence[tuple[str, Outcome]]) -> tuple[dict[str, list[MadeRow]], list[dict[str, Any]]]:
        """Rows by the name of their format, and what was left out at the end."""
        ...


@dataclass(frozen=True, slots=True)
class BuildView:
    """A build with its job."""

    id: str
    name: str
    request: dict[str, Any]
    teacher: str
    status: str
    """That of the job."""
    dataset_ids: list[str]
    report: dict[str, Any]
    """{pieces, rows: {format: n}, left_out: {code: n}, named: [{piece, code, detail}]} once it has ended."""
    job: Job | None
    created_at: datetime


class BuildService:
    """Builds through the eyes of a principal; what belongs to another tenant does not exist."""

    def __init__(self, db: Database, jobs: JobStore, settings: TuningSettings) -> None:
        self._db = db
        self._jobs = jobs
        self._settings = settings

    def create(self, principal: Principal, body: Mapping[str, Any], *, request_id: str | None = None) -> BuildView:
        """Check a request and queue it.

        Raises:
            InvalidInput: `errors` names fields; `no_teacher`, `dataset_not_supervised`, `nothing_to_build`.
            NotFound: no such collection or dataset.
        """
        principal.require(Scope.TUNE)
        request = parse_build(body)
        teacher = _teacher(self._settings)
        build_id = new_id("bld")
        piece = Piece(build_id, teacher.model, principal)
        if not _source(self._db, request, piece, None).plan():
            raise InvalidInput("there is nothing to build from: no passage or row is in reach", code="nothing_to_build")
        with self._db.write() as session:
            job = self._jobs.create(
                session, tenant_id=principal.tenant_id, kind=JobKind.DATASET, subject_id=build_id, priority=7
            )
            session.add(
                DatasetBuild(
                    id=build_id,
                    tenant_id=principal.tenant_id,
                    job_id=job.id,
                    name=request.name,
                    request=request.model_dump(mode="json"),
                    teacher=teacher.model,
                    asked_by={
                        "key_id": principal.key_id,
                        "scopes": sorted(principal.scopes),
                        "groups": sorted(principal.groups),
                    },
                )
            )
            record(
                session, tenant_id=principal.tenant_id, actor=principal.actor, action="dataset.build",
                object_id=build_id, detail={"source": request.source, "teacher": teacher.model}, request_id=request_id,
            )  # fmt: skip
        return self.get(principal, build_id)

    def get(self, principal: Principal, build_id: str) -> BuildView:
        """One build.

        Raises:
            NotFound: there is none in this tenant.
        """
        principal.require(Scope.TUNE)
        with self._db.read() as session:
            build = session.get(DatasetBuild, build_id)
            if build is None or build.tenant_id != principal.tenant_id:
                raise NotFound(f"no build '{build_id}'")
            return _shown(principal, build, session.get(Job, build.job_id))

    def list(self, principal: Principal, *, limit: int = 50, cursor: str | None = None) -> Page[BuildView]:
        """Newest first."""
        principal.require(Scope.TUNE)
        query = select(DatasetBuild).where(DatasetBuild.tenant_id == principal.tenant_id)
        query = newest_page(query, DatasetBuild, cursor, limit)
        with self._db.read() as session:
            return cut_page(
                [_shown(principal, one, session.get(Job, one.job_id)) for one in session.scalars(query)], limit
            )


def _shown(principal: Principal, build: DatasetBuild, job: Job | None) -> BuildView:
    """A build with what its report quotes only for whoever reads all that its asker could."""
    view = _view(build, job)
    asked = build.asked_by
    as_much = Scope.ADMIN.value not in asked["scopes"] and principal.groups.issuperset(asked["groups"])
    if as_much or principal.allows(Scope.ADMIN) or principal.key_id == asked["key_id"] or "named" not in view.report:
        return view
    return replace(view, report={**view.report, "named": []})


class DatasetBuilder:
    """Works on jobs of the kind DATASET, where the index lives."""

    def __init__(
        self,
        db: Database,
        datasets: DatasetService,
        settings: TuningSettings,
        search: Search | None = None,
        ask: Ask = ask,
    ) -> None:
        self._db = db
        self._datasets = datasets
        self._settings = settings
        self._search = search
        self._ask = ask

    def run(self, lease: JobLease) -> None:
        """Do what is not done yet, then store the sets.

        Raises:
            Unavailable: `teacher_unavailable`: a whole round of pieces brought nothing.
            DatasetRejected: `nothing_taught`: the checks left no row.
        """
        with self._db.read() as session:
            build = session.get(DatasetBuild, lease.subject_id)
            if build is None or build.tenant_id != lease.tenant_id:
                raise NotFound(f"no build '{lease.subject_id}'")
        teacher = _teacher(self._settings)
        principal = Principal(
            tenant_id=build.tenant_id,
            key_id=build.asked_by["key_id"],
            scopes=frozenset(Scope(scope) for scope in build.asked_by["scopes"]),
            groups=frozenset(build.asked_by["groups"]),
        )
        request = parse_build(build.request)
        source = _source(self._db, request, Piece(build.id, teacher.model, principal), self._search)
        plan = self._plan(lease, build, source)
        done = self._done(build.id)
        while missing := [piece for piece in plan if piece not in done]:
            before = len(done)
            problem = self._round(lease, build.id, source, teacher, missing, done, len(plan))
            if len(done) == before:
                raise Unavailable(f"the teacher {problem}", code="teacher_unavailable")
        made, dropped = source.finish([(piece, done[piece]) for piece in plan])
        report = _report([done[piece] for piece in plan], made, dropped)
        if not any(made.values()):
            raise DatasetRejected(
                f"nothing of {len(plan)} pieces passed the checks: {report['left_out']}", code="nothing_taught"
            )
        lease.progress("store", _WORK_SHARE)
        family = request.family or self._family_of(request)
        stored = [
            self._datasets.add_rows(
                principal, DatasetFormat(shape), rows, name=f"{build.name} ({shape})",
                report={"build_id": build.id, "left_out": report["left_out"]}, family=family,
            ).dataset.id
            for shape, rows in made.items()
            if rows
        ]  # fmt: skip
        with lease.write() as session:
            row = session.get_one(DatasetBuild, build.id)
            row.dataset_ids, row.report = stored, report
            lease.succeed()
        log.info("dataset.built", build_id=build.id, rows=report["rows"], left_out=report["left_out"])

    def _family_of(self, request: FromDocuments | FromDataset) -> str | None:
        """A revised set belongs where the set belongs that it was made of."""
        if isinstance(request, FromDocuments):
            return None
        with self._db.read() as session:
            dataset = session.get(Dataset, request.dataset_id)
            return dataset.family if dataset is not None else None

    def _plan(self, lease: JobLease, build: DatasetBuild, source: _Source) -> list[str]:
        if build.plan is not None:
            return [str(piece) for piece in build.plan]
        plan = source.plan()
        with lease.write() as session:
            session.get_one(DatasetBuild, build.id).plan = plan
        return plan

    def _done(self, build_id: str) -> dict[str, Outcome]:
        query = select(DatasetBuildStep).where(DatasetBuildStep.build_id == build_id)
        with self._db.read() as session:
            return {
                step.piece_id: Outcome(step.outcome["rows"], step.outcome["left_out"])
                for step in session.scalars(query)
            }

    def _round(
        self,
        lease: JobLease,
        build_id: str,
        source: _Source,
        teacher: TeacherSettings,
        missing: Sequence[str],
        done: dict[str, Outcome],
        total: int,
    ) -> str | None:
        """Try every missing piece once; what succeeds is stored. Returns the last failure of the teacher."""

        def asker(messages: Sequence[Mapping[str, str]]) -> str:
            return self._ask(teacher, messages, max_tokens=teacher.max_tokens)

        problem = None
        with ThreadPoolExecutor(teacher.parallel, thread_name_prefix="teacher") as pool:
            waiting = iter(missing)
            running: dict[Future[Outcome], str] = {}
            try:
                while True:
                    for piece in _some(waiting, teacher.parallel - len(running)):
                        running[pool.submit(source.work, piece, asker)] = piece
                    if not running:
                        return problem
                    ended, _ = wait(running, timeout=_TELL_S, return_when=FIRST_COMPLETED)
                    lease.check()
                    for future in ended:
                        piece = running.pop(future)
                        try:
                            outcome = future.result()
                        except EndpointFailed as error:
                            problem = str(error)
                            continue
                        self._keep(lease, build_id, piece, outcome)
                        done[piece] = outcome
                    lease.progress("teach", _WORK_SHARE * len(done) / total)
            finally:
                for future in running:
                    future.cancel()

    @staticmethod
    def _keep(lease: JobLease, build_id: str, piece: str, outcome: Outcome) -> None:
        values = {"rows": outcome.rows, "left_out": outcome.left_out}
        with lease.write() as session:
            session.execute(insert(DatasetBuildStep).values(build_id=build_id, piece_id=piece, outcome=values))


def _some(waiting: Iterator[str], count: int) -> list[str]:
    return [piece for _, piece in zip(range(count), waiting, strict=False)]


def _teacher(settings: TuningSettings) -> TeacherSettings:
    if settings.teacher is None:
        raise InvalidInput("the settings name no teacher (`tuning.teacher`)", code="no_teacher")
    return settings.teacher


def _source(db: Database, request: FromDocuments | FromDataset, piece: Piece, search: Search | None) -> _Source:
    if isinstance(request, FromDocuments):
        return Distiller(db, request, piece, search)
    return Reviser(db, request, piece)


def _report(
    outcomes: Sequence[Outcome], made: Mapping[str, Sequence[MadeRow]], dropped: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    named = [one for outcome in outcomes for one in outcome.left_out] + list(dropped)
    return {
        "pieces": len(outcomes),
        "rows": {shape: len(rows) for shape, rows in made.items()},
        "left_out": dict(Counter(one["code"] for one in named)),
        "named": named[:MAX_NAMED],
    }


def _view(build: DatasetBuild, job: Job | None) -> BuildView:
    return BuildView(
        id=build.id,
        name=build.name,
        request=build.request,
        teacher=build.teacher,
        status=job.status if job is not None else "unknown",
        dataset_ids=build.dataset_ids,
        report=build.report,
        job=job,
        created_at=build.created_at,
    )
