"""What is past its time goes by itself: jobs, answers, shadow answers, audit entries, files of runs.

In portions of a thousand, each its own transaction, until a round finds less: other writers get in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, delete, exists, select

from core.database import Database
from core.ports import BlobStore
from core.repositories.blobs import drop_unnamed
from core.settings import RetentionSettings, Settings
from core.tables import Answer, AuditEntry, Document, Erasure, Feedback, Job, ShadowAnswer, TuningRun
from core.tables.base import utc_now
from core.types import JobKind, JobStatus
from erasure.storage import FILES_DROPPED, drop_run_folders

log = structlog.stdlib.get_logger(__name__)

_PORTION = 1000
_ENDED = (JobStatus.SUCCEEDED.value, JobStatus.FAILED.value, JobStatus.CANCELLED.value)


class Retention:
    """Keeps the times that the settings name; 0 days is for ever."""

    def __init__(self, db: Database, settings: Settings, blobs: BlobStore) -> None:
        self._db = db
        self._settings = settings
        self._blobs = blobs

    def sweep(self, now: datetime | None = None) -> dict[str, int]:
        """Remove what is past its time; how many of each. Safe from several processes."""
        moment = now or utc_now()
        removed = {name: self._drop(table, condition) for name, table, condition in _past(self._settings, moment)}
        if self._settings.retention.run_files_days:
            before = moment - timedelta(days=self._settings.retention.run_files_days)
            removed["run_files"] = sum(self._drop_files(run_id) for run_id in self._old_runs(before))
        removed["run_folders"] = len(drop_run_folders(self._db, self._settings.runs_dir))
        if any(removed.values()):
            log.info("retention.swept", **removed)
        return removed

    def _drop(self, table: Any, condition: ColumnElement[bool]) -> int:
        removed = 0
        while True:
            with self._db.write() as session:
                ids = session.scalars(select(table.id).where(condition).limit(_PORTION)).all()
                session.execute(
                    delete(table).where(table.id.in_(ids)), execution_options={"synchronize_session": False}
                )
            removed += len(ids)
            if len(ids) < _PORTION:
                return removed

    def _old_runs(self, before: datetime) -> list[str]:
        query = (
            select(TuningRun.id, TuningRun.progress)
            .join(Job, Job.id == TuningRun.job_id, isouter=True)
            .where(TuningRun.created_at < before)
            .where(Job.id.is_(None) | (Job.status.in_(_ENDED) & (Job.finished_at < before)))
        )
        with self._db.read() as session:
            return [run_id for run_id, progress in session.execute(query) if not progress.get(FILES_DROPPED)]

    def _drop_files(self, run_id: str) -> bool:
        """What it was prepared from; what it made for download stays."""
        with self._db.write() as session:
            run = session.get(TuningRun, run_id, with_for_update=True)
            if run is None or run.progress.get(FILES_DROPPED):
                return False
            files = dict(run.progress.get("files") or {})
            run.progress = {key: value for key, value in run.progress.items() if key != "files"} | {FILES_DROPPED: True}
        drop_unnamed(self._db, self._blobs, {str(digest) for digest in files.values()})
        return True


def _past(settings: Settings, now: datetime) -> Iterator[tuple[str, Any, ColumnElement[bool]]]:
    held: RetentionSettings = settings.retention
    if held.shadow_answers_days:
        yield "shadow_answers", ShadowAnswer, ShadowAnswer.created_at < now - timedelta(days=held.shadow_answers_days)
    if held.answers_days:
        # Feedback on it may become a training row yet; it keeps its answer.
        rated = exists().where(Feedback.answer_id == Answer.id, Feedback.consent.is_(True))
        yield "answers", Answer, (Answer.created_at < now - timedelta(days=held.answers_days)) & ~rated
    if held.jobs_days:
        # The last job of what is still there says how it fares; runs, sets and erasures are shown by theirs.
        shown = exists().where(TuningRun.job_id == Job.id) | exists().where(Erasure.job_id == Job.id)
        newest = exists().where(Document.id == Job.subject_id, Document.status != "ready")
        kinds = Job.kind.in_(
            [
                JobKind.INGEST.value,
                JobKind.DELETE.value,
                JobKind.ACCESS.value,
                JobKind.COLLECTION.value,
                JobKind.INDEX.value,
            ]
        )
        ended = Job.status.in_(_ENDED) & (Job.finished_at < now - timedelta(days=held.jobs_days))
        yield "jobs", Job, ended & kinds & ~shown & ~newest
    if held.audit_days:
        yield "audit", AuditEntry, AuditEntry.created_at < now - timedelta(days=held.audit_days)
