"""Rows with traces leave the database, each with its digest in the tally, in transactions of a few hundred.

Rows of which something else still has to speak (a training row that a run was shown, the run itself, an audit entry)
stay without their text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    ForeignKey,
    String,
    Table,
    UniqueConstraint,
    delete,
    exists,
    false,
    inspect,
    or_,
    select,
    update,
)
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.elements import ColumnElement

from core.database import Database, WriteSession
from core.repositories.blobs import run_blobs
from core.tables import (
    Answer,
    ApiKey,
    AuditEntry,
    Base,
    CuratedAnswer,
    Dataset,
    DatasetBuild,
    DatasetBuildStep,
    DatasetRow,
    Document,
    EvaluationOutcome,
    EvaluationSet,
    Feedback,
    IdempotencyRecord,
    Job,
    RunRow,
    ShadowAnswer,
    TuningRun,
)
from core.tables.base import utc_now
from core.types import JobStatus
from erasure.find import Found, Wanted, in_parts
from erasure.needles import masked, mention, stored_forms
from erasure.tally import Tally, digest_of

ERASED = "erased"
QUOTING = ("left_out", "invalid", "named", "duplicates")
"""Parts of a set's report that quote its rows or name their lines."""
_IDS = re.compile(r"[a-z]{3}_[0-9a-f]{32}")
_ENDED = (JobStatus.SUCCEEDED.value, JobStatus.FAILED.value, JobStatus.CANCELLED.value)
_NAMES = frozenset({("tenants", "name"), ("adapter_families", "name"), ("datasets", "family"), ("schedules", "family")})
"""Names that other rows, requests and settings speak of: they are left, and the certificate says where one holds it."""

Write = Callable[[], AbstractContextManager[WriteSession]]


class RowEraser:
    """Erases what was found of one request. Every step may be repeated."""

    def __init__(
        self,
        db: Database,
        write: Write,
        release: Callable[[Iterable[str]], None],
        wanted: Wanted,
        erasure_id: str,
        tally: Tally,
    ) -> None:
        """write: a transaction in which the tally is stored as well. release: told, in one, which blobs a row named."""
        self._db = db
        self._write = write
        self._release = release
        self._wanted = wanted
        self._id = erasure_id
        self._tally = tally

    def erase(self, found: Found, step: Callable[[], None]) -> None:
        """All rows. What speaks of others by id goes first: after a crash those others still say what it is about."""
        ids = {*self._wanted.documents, *found.answers, *found.feedback, *found.curated}
        self._replies_and_audit(ids, step)
        self._jobs()
        self._delete("shadow_answers", ShadowAnswer, ShadowAnswer.id, found.shadows, step)
        self._delete("feedback", Feedback, Feedback.id, found.feedback, step)
        self._delete("answers", Answer, Answer.id, found.answers, step)
        self._pairs("build_steps", DatasetBuildStep, found.steps, step)
        for build_id in sorted({build for build, _ in found.steps}):
            self._build(build_id)
        self._pairs("evaluation_outcomes", EvaluationOutcome, found.outcomes, step)
        self._questions(found.question_sets)
        self._delete("curated_answers", CuratedAnswer, CuratedAnswer.id, found.curated, step)
        self._training_rows(found.rows, step)
        for dataset_id in sorted(found.datasets):
            self._dataset(dataset_id)
        for run_id in sorted(found.runs):
            self._run(run_id)
        self._successors()

    def mask_rest(self) -> dict[str, int]:
        """Put a mask over the text wherever else it stands in a column of the tenant; {place: values that keep it}."""
        text = self._wanted.text
        if text is None:
            return {}
        forms = stored_forms(text)
        kept: dict[str, int] = {}
        for table, column in self._columns_with(forms):
            place = f"{table.name}.{column.name}"
            of_tenant = rows_of(table, self._wanted.tenant_id)
            assert of_tenant is not None
            keys = list(table.primary_key.columns)
            with self._write() as session:
                for condition in mention(session, (column,), forms):
                    for row in session.execute(select(*keys, column).where(of_tenant, condition)).all():
                        if (table.name, column.name) in _NAMES:
                            kept[place] = kept.get(place, 0) + 1
                            continue
                        self._tally.add("masked", f"{place}:{row[0]}", digest_of(row[-1]))
                        value = _unlike_others(masked(row[-1], forms), table, column.name, str(row[0]))
                        at = [key == row[number] for number, key in enumerate(keys)]
                        session.execute(update(table).where(*at).values({column.name: value}))
        return kept

    def _columns_with(self, forms: Sequence[str]) -> list[tuple[Table, Column[Any]]]:
        found = []
        with self._db.read() as session:
            for table in Base.metadata.sorted_tables:
                of_tenant = rows_of(table, self._wanted.tenant_id)
                if of_tenant is None or table.name == "erasures":
                    continue
                for column in _text_columns(table):
                    for condition in mention(session, (column,), forms):
                        if session.execute(select(column).where(of_tenant, condition).limit(1)).first() is not None:
                            found.append((table, column))
                            break
        return found

    def _delete(
        self, kind: str, table: type[DeclarativeBase], key: Any, ids: Collection[str], step: Callable[[], None]
    ) -> None:
        for some in in_parts(ids):
            step()
            with self._write() as session:
                for row in session.scalars(select(table).where(key.in_(some))):
                    self._tally.add_row(kind, str(getattr(row, "id", "")), values_of(row))
                session.execute(delete(table).where(key.in_(some)), execution_options={"synchronize_session": False})

    def _pairs(
        self, kind: str, table: type[DeclarativeBase], keys: Iterable[tuple[Any, Any]], step: Callable[[], None]
    ) -> None:
        for key in sorted(keys):
            step()
            with self._write() as session:
                row = session.get(table, key)
                if row is not None:
                    self._tally.add_row(kind, f"{key[0]}/{key[1]}", values_of(row))
                    session.delete(row)

    def _replies_and_audit(self, ids: set[str], step: Callable[[], None]) -> None:
        """Stored replies go, whoever's they are; audit entries of the tenant keep who did what to what, and when."""
        forms = stored_forms(self._wanted.text) if self._wanted.text is not None else ()
        own = select(ApiKey.id).where(ApiKey.tenant_id == self._wanted.tenant_id)
        step()
        with self._write() as session:
            # A key of the OpenID provider has no row: its replies are found by what they name.
            for reply in session.scalars(select(IdempotencyRecord).where(IdempotencyRecord.response.is_not(None))):
                said = str(reply.response)
                by_text = any(form in said for form in forms) and (
                    session.scalar(own.where(ApiKey.id == reply.key_id)) is not None or "key_" not in reply.key_id
                )
                if by_text or not ids.isdisjoint(_IDS.findall(said)):
                    self._tally.add("idempotency_replies", f"{reply.key_id}:{reply.route}"[:120], digest_of(said))
                    session.delete(reply)
        step()
        with self._write() as session:
            for entry in session.scalars(
                select(AuditEntry)
                .where(AuditEntry.tenant_id == self._wanted.tenant_id, ~AuditEntry.action.startswith("erasure."))
                .execution_options(yield_per=1000)
            ):
                said = f"{entry.object_id} {entry.detail}"
                if ids.isdisjoint(_IDS.findall(said)) or set(entry.detail) == {ERASED}:
                    continue
                self._tally.add("audit_details", entry.id, digest_of(entry.detail))
                session.execute(
                    update(AuditEntry).where(AuditEntry.id == entry.id).values(detail={ERASED: self._id}),
                    execution_options={"synchronize_session": False},
                )

    def _jobs(self) -> None:
        for some in in_parts(self._wanted.documents):
            with self._write() as session:
                of_them = (Job.subject_id.in_(some), Job.tenant_id == self._wanted.tenant_id, Job.status.in_(_ENDED))
                for job in session.scalars(select(Job).where(*of_them)):
                    self._tally.add_row("jobs", job.id, values_of(job))
                session.execute(delete(Job).where(*of_them), execution_options={"synchronize_session": False})

    def _questions(self, set_ids: Collection[str]) -> None:
        for set_id in sorted(set_ids):
            with self._write() as session:
                row = session.get(EvaluationSet, set_id, with_for_update=True)
                if row is None:
                    continue
                kept = []
                for question in row.questions:
                    said = f"{question}"
                    spoken = (
                        self._wanted.text is not None and masked(question, stored_forms(self._wanted.text)) != question
                    )
                    if spoken or any(document in said for document in self._wanted.documents):
                        self._tally.add("evaluation_questions", f"{set_id}/{question.get('id')}", digest_of(question))
                    else:
                        kept.append(question)
                row.questions, row.question_count = kept, len(kept)

    def _training_rows(self, ids: Collection[str], step: Callable[[], None]) -> None:
        """Those that a run was shown stay, without text: through them versions that learnt from them are found."""
        was_seen = exists().where(RunRow.row_id == DatasetRow.id)
        for some in in_parts(ids):
            step()
            with self._write() as session:
                for row in session.scalars(select(DatasetRow).where(DatasetRow.id.in_(some))):
                    if row.content:
                        self._tally.add("training_rows", row.id, row.content_sha256)
                session.execute(
                    delete(DatasetRow).where(DatasetRow.id.in_(some), ~was_seen),
                    execution_options={"synchronize_session": False},
                )
                session.execute(
                    update(DatasetRow)
                    .where(DatasetRow.id.in_(some))
                    .values(content={}, lineage={}, retired_at=utc_now(), retired_reason=ERASED),
                    execution_options={"synchronize_session": False},
                )

    def _dataset(self, dataset_id: str) -> None:
        """A set without some of its rows is another set; its file and what its report quotes go."""
        with self._write() as session:
            dataset = session.get(Dataset, dataset_id, with_for_update=True)
            if dataset is None:
                return
            source, dataset.source_sha256 = dataset.source_sha256, None
            dataset.quality = None
            dataset.report = {key: value for key, value in dataset.report.items() if key not in QUOTING}
            dataset.content_sha256 = f"{ERASED}:{dataset.id}"  # the same rows may be uploaded again
            held = session.scalars(select(DatasetRow.id).where(DatasetRow.dataset_id == dataset_id)).all()
            dataset.row_count = len(held)
            if not held:
                session.delete(dataset)
            if source is not None:
                self._release([source])

    def _build(self, build_id: str) -> None:
        """What its report, and those of the sets that it made, quote of what was left out."""
        with self._write() as session:
            build = session.get_one(DatasetBuild, build_id, with_for_update=True)
            build.report = {key: value for key, value in build.report.items() if key not in QUOTING}
            for dataset in session.scalars(select(Dataset).where(Dataset.id.in_(build.dataset_ids))):
                dataset.report = {key: value for key, value in dataset.report.items() if key not in QUOTING}

    def _run(self, run_id: str) -> None:
        """What was prepared for it and what it left: files in the blob store, rows named in full, ends of logs."""
        with self._write() as session:
            run = session.get(TuningRun, run_id, with_for_update=True)
            if run is None or ERASED in run.progress:
                return
            named = [digest for of_run, digest in run_blobs(session) if of_run == run_id]
            self._tally.add("runs", run_id, digest_of(run.progress))
            run.progress = {ERASED: self._id} | {key: run.progress[key] for key in ("training",) if key in run.progress}
            self._release(named)

    def _successors(self) -> None:
        """Documents that name an erased one as the one whose place they take."""
        for some in in_parts(self._wanted.documents):
            with self._write() as session:
                named = set(session.scalars(select(Document.external_id).where(Document.id.in_(some)))) - {None}
                session.execute(
                    update(Document)
                    .where(
                        Document.tenant_id == self._wanted.tenant_id,
                        or_(Document.supersedes.in_(some), Document.supersedes.in_(named) if named else false()),
                    )
                    .values(supersedes=None),
                    execution_options={"synchronize_session": False},
                )


def values_of(row: DeclarativeBase) -> dict[str, Any]:
    """Columns of a row by name."""
    return {column.key: getattr(row, column.key) for column in inspect(row).mapper.column_attrs}


def rows_of(table: Table, tenant_id: str) -> ColumnElement[bool] | None:
    """Condition on rows of a tenant: by their own column, or that of the row they belong to; None: of no tenant."""
    if table.name == "tenants":
        return table.c.id == tenant_id
    if "tenant_id" in table.c:
        return table.c.tenant_id == tenant_id
    if table.name == IdempotencyRecord.__tablename__:
        return table.c.key_id.in_(select(ApiKey.id).where(ApiKey.tenant_id == tenant_id))
    for column in table.primary_key.columns:
        parent = _parent(column.foreign_keys)
        if parent is not None and "tenant_id" in parent.table.c:
            return column.in_(select(parent).where(parent.table.c.tenant_id == tenant_id))
    return None


def _parent(keys: Iterable[ForeignKey]) -> Any:
    return next((key.column for key in keys), None)


def _text_columns(table: Table) -> list[Column[Any]]:
    """Columns that may hold what people wrote: no keys, no times, no numbers."""
    return [
        column
        for column in table.columns
        if not column.primary_key
        and not column.foreign_keys
        and isinstance(getattr(column.type, "impl", column.type), String | JSON)
    ]


def _unlike_others(value: Any, table: Table, column: str, key: str) -> Any:
    """A masked name that must be like no other of its table: with the end of its row's id."""
    unique = any(isinstance(one, UniqueConstraint) and column in one.columns for one in table.constraints)
    return f"{value}-{key[-6:]}" if unique and isinstance(value, str) else value
