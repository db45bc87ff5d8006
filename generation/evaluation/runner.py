"""The job of an evaluation: asks what has not been asked yet, as the caller, and tells the figures.

Each outcome is stored when it is there, so an attempt that follows a dead worker asks the rest only. Questions go
through the service that answers everybody, and wait in the same queue.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from importlib.metadata import version as package_version
from typing import Any, Final

import structlog
from sqlalchemy import delete, select, update

from core.access import Principal
from core.database import Database
from core.errors import Cancelled, Interrupted, NotFound, Postponed, TsumugiError
from core.jobs import JobLease
from core.repositories.erasures import any_erased
from core.settings import Settings
from core.tables.evaluations import EvaluationOutcome, EvaluationRun
from core.tables.operations import IndexVersion
from core.types import Scope
from generation.answer import AnswerService
from generation.asking import AskOptions
from generation.evaluation.figures import Judged, conditions, report
from generation.evaluation.outcome import Outcome, Status, failed, outcome_of
from generation.evaluation.questions import Question
from retrieval.relevance import newest_calibration

log = structlog.stdlib.get_logger(__name__)

BUSY: Final = frozenset({"queue_full", "serving_paused"})
"""The generator has no place for us now: come back later, which costs no attempt."""
_LOOK_S = 0.5
_SHIPPED = "shipped"


class EvaluationRunner:
    """Works on jobs of the kind EVALUATION, in a process that answers."""

    def __init__(
        self, db: Database, answers: AnswerService, settings: Settings, draining: threading.Event | None = None
    ) -> None:
        """draining: when it is set a run goes back to the queue at once, rather than hold up the process."""
        self._db = db
        self._answers = answers
        self._settings = settings
        self._draining = draining or threading.Event()

    def run(self, lease: JobLease) -> None:
        """Ask, judge and store every question; then the report.

        Raises:
            NotFound: the run was deleted.
            Postponed: the generator's queue is full, or its memory is lent.
            Unavailable: something that answers is away.
        """
        with self._db.read() as session:
            run = session.get(EvaluationRun, lease.subject_id)
            if run is None or run.tenant_id != lease.tenant_id:
                raise NotFound(f"no evaluation '{lease.subject_id}'")
            waiting = [
                (row.ordinal, Question.model_validate(row.question))
                for row in session.scalars(
                    select(EvaluationOutcome)
                    .where(EvaluationOutcome.run_id == run.id, EvaluationOutcome.status.is_(None))
                    .order_by(EvaluationOutcome.ordinal)
                )
            ]
        principal = Principal(
            tenant_id=run.tenant_id,
            key_id=run.asked_by["key_id"],
            scopes=frozenset(Scope(scope) for scope in run.asked_by["scopes"]),
            groups=frozenset(run.asked_by["groups"]),
        )
        begun = self._surroundings()
        try:
            self._ask_all(lease, run, principal, waiting)
        except Cancelled:
            self._tell(lease, run, begun, ended=False)
            raise
        self._tell(lease, run, begun, ended=True)

    def _ask_all(
        self, lease: JobLease, run: EvaluationRun, principal: Principal, waiting: Sequence[tuple[int, Question]]
    ) -> None:
        """At most `evaluation_parallel` at once. What ends this early also stops the answers on their way."""
        done = run.question_count - len(waiting)
        parallel = self._settings.generation.evaluation_parallel
        halt = threading.Event()
        left = iter(waiting)
        running: dict[Future[Outcome], int] = {}
        with ThreadPoolExecutor(parallel, thread_name_prefix="evaluation") as pool:
            try:
                while True:
                    for ordinal, question in _some(left, parallel - len(running)):
                        running[pool.submit(self._ask, principal, question, run.options, halt)] = ordinal
                    if not running:
                        return
                    ended, _ = wait(running, timeout=_LOOK_S, return_when=FIRST_COMPLETED)
                    for future in ended:
                        self._keep(lease, run.id, running.pop(future), future.result())
                        done += 1
                    lease.check()
                    if self._draining.is_set():
                        raise Interrupted(f"the process that ran job {lease.job_id} is stopping")
                    lease.progress("ask", done / run.question_count)
            finally:
                halt.set()

    def _ask(self, principal: Principal, question: Question, options: dict[str, Any], halt: threading.Event) -> Outcome:
        asked = AskOptions(
            collection=question.collection or options.get("collection"), adapter=options.get("adapter"), recorded=False
        )
        try:
            stream = self._answers.ask(principal, question.question, asked)
            for event in stream:
                if event.record is not None:
                    return outcome_of(question, event.record)
                if halt.is_set():
                    stream.cancel()
                    break
        except TsumugiError as error:
            if error.code in BUSY:
                raise Postponed(error.detail, code=error.code, extra=error.extra) from error
            if error.retryable:
                raise
            return failed(error.code, error.detail)
        raise Interrupted("the evaluation has ended")

    @staticmethod
    def _keep(lease: JobLease, run_id: str, ordinal: int, outcome: Outcome) -> None:
        row = (EvaluationOutcome.run_id == run_id, EvaluationOutcome.ordinal == ordinal)
        read = {str(one["document_id"]) for one in outcome.citations}
        with lease.write() as session:
            if any_erased(session, read):  # meanwhile: the question goes the way of its like
                session.execute(delete(EvaluationOutcome).where(*row))
                return
            session.execute(
                update(EvaluationOutcome).where(*row).values(status=outcome.status.value, outcome=outcome.to_json())
            )

    def _tell(self, lease: JobLease, run: EvaluationRun, begun: dict[str, Any], *, ended: bool) -> None:
        with self._db.read() as session:
            judged = [
                Judged(Question.model_validate(row.question), _outcome(row.outcome))
                for row in session.scalars(
                    select(EvaluationOutcome)
                    .where(EvaluationOutcome.run_id == run.id, EvaluationOutcome.status.is_not(None))
                    .order_by(EvaluationOutcome.ordinal)
                )
                if row.outcome is not None
            ]
        now = self._surroundings()
        beside = {name: value if value == now[name] else [value, now[name]] for name, value in begun.items()}
        told = report(judged)
        with lease.write() as session:
            row = session.get_one(EvaluationRun, run.id)
            row.conditions, row.report = conditions(judged, beside), told
            if ended:
                lease.succeed()
        log.info("evaluation.told", run_id=run.id, questions=told["questions"], right=told["right"]["count"])

    def _surroundings(self) -> dict[str, Any]:
        """What decides answers and is stamped on none of them."""
        with self._db.read() as session:
            active = session.scalars(select(IndexVersion.id).where(IndexVersion.active)).first()
            calibration = newest_calibration(session, active) if active is not None else None
        return {
            "calibration": calibration or _SHIPPED,
            "settings": settings_digest(self._settings),
            "program": package_version("tsumugi"),
        }


def settings_digest(settings: Settings) -> str:
    """Names what the settings say of search and generation; secrets are no part of it."""
    told = settings.model_dump(mode="json", include={"retrieval", "generation", "endpoint"})
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _some(left: Iterator[tuple[int, Question]], count: int) -> list[tuple[int, Question]]:
    return [one for _, one in zip(range(count), left, strict=False)]


def _outcome(stored: dict[str, Any]) -> Outcome:
    return Outcome(**{**stored, "status": Status(stored["status"])})
