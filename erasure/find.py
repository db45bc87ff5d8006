"""Where traces of what is to be forgotten stand: ids of rows, table by table, and on to the runs that were shown them.

A trace is followed to its end: from a document to the answers that rest on it, what was said after them in the same
conversation, the feedback on them, the training rows made of any of these, the runs that took such a row, the versions
that came of those.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.database import Database
from core.errors import NotFound
from core.ports import BlobStore
from core.repositories.lineage import SourceKind
from core.tables import (
    AdapterVersion,
    Answer,
    ChunkRow,
    CuratedAnswer,
    Dataset,
    DatasetBuild,
    DatasetBuildStep,
    DatasetRow,
    Document,
    DocumentGeneration,
    EvaluationOutcome,
    EvaluationRun,
    EvaluationSet,
    Feedback,
    RowSource,
    RunDocument,
    RunRow,
    ShadowAnswer,
    TuningRun,
)
from core.tables.lineage import EVALUATED
from erasure.needles import mention, spellings, stored_forms

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be forgotten of a tenant: documents, and a text where one was given."""

    tenant_id: str
    documents: frozenset[str]
    text: str | None = None

    @property
    def needles(self) -> list[str]:
        """What stored values are searched for."""
        return [*sorted(self.documents), *(stored_forms(self.text) if self.text is not None else ())]


@dataclass(slots=True)
class Found:
    """Ids of rows with traces."""

    answers: set[str] = field(default_factory=set)
    feedback: set[str] = field(default_factory=set)
    shadows: set[str] = field(default_factory=set)
    curated: set[str] = field(default_factory=set)
    rows: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    """Sets with such rows, or whose name, report or file holds the text."""
    steps: set[tuple[str, str]] = field(default_factory=set)
    """(build, piece) of what a teacher wrote."""
    outcomes: set[tuple[str, int]] = field(default_factory=set)
    """(evaluation, ordinal)."""
    question_sets: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)

    def counts(self) -> dict[str, int]:
        """How many of each."""
        return {name: len(getattr(self, name)) for name in self.__slots__}

    def rows_left(self) -> bool:
        """Whether there is a row that must go; runs and versions stay as rows, without text."""
        return any(getattr(self, name) for name in self.__slots__ if name not in {"runs", "versions", "datasets"})


def find_traces(session: Session, wanted: Wanted) -> Found:
    """All rows with traces, as this session sees them."""
    found = Found()
    tenant = wanted.tenant_id
    needles = wanted.needles

    def holding(key: Any, *columns: Any, of: ColumnElement[bool]) -> Iterator[Any]:
        for condition in mention(session, columns, needles):
            yield from session.scalars(select(key).where(of, condition))

    curated_texts = (CuratedAnswer.question, CuratedAnswer.answer, CuratedAnswer.passages)
    found.curated |= set(holding(CuratedAnswer.id, *curated_texts, of=CuratedAnswer.tenant_id == tenant))
    answer_texts = (Answer.question, Answer.answer, Answer.passages, Answer.citations, Answer.evidence)
    found.answers |= set(holding(Answer.id, *answer_texts, Answer.parameters, of=Answer.tenant_id == tenant))
    for condition in mention(session, (Answer.provenance,), sorted(found.curated)):  # given instead of a generated one
        found.answers |= set(session.scalars(select(Answer.id).where(Answer.tenant_id == tenant, condition)))
    found.answers |= set(_said_after(session, tenant, found.answers))
    feedback_texts = (Feedback.correction, Feedback.comment)
    found.feedback |= set(holding(Feedback.id, *feedback_texts, of=Feedback.tenant_id == tenant))
    found.feedback |= _pointing(session, Feedback.id, Feedback.answer_id, found.answers)
    found.shadows |= set(holding(ShadowAnswer.id, ShadowAnswer.answer, of=ShadowAnswer.tenant_id == tenant))
    found.shadows |= _pointing(session, ShadowAnswer.id, ShadowAnswer.answer_id, found.answers)
    found.rows |= set(holding(DatasetRow.id, DatasetRow.content, DatasetRow.lineage, of=DatasetRow.tenant_id == tenant))
    for kind, ids in (
        (SourceKind.DOCUMENT, wanted.documents),
        (SourceKind.ANSWER, found.answers),
        (SourceKind.FEEDBACK, found.feedback),
        (SourceKind.CURATED, found.curated),
    ):
        made = select(RowSource.row_id).join(DatasetRow, DatasetRow.id == RowSource.row_id)
        made = made.where(RowSource.kind == kind.value, DatasetRow.tenant_id == tenant)
        for some in in_parts(ids):
            found.rows |= set(session.scalars(made.where(RowSource.source_id.in_(some))))
    set_texts = (Dataset.name, Dataset.report, Dataset.quality)
    found.datasets |= set(holding(Dataset.id, *set_texts, of=Dataset.tenant_id == tenant))
    found.datasets |= _pointing(session, DatasetRow.dataset_id, DatasetRow.id, found.rows)
    found.steps |= _steps(session, wanted, found.rows)
    for condition in mention(session, (EvaluationOutcome.question, EvaluationOutcome.outcome), needles):
        query = select(EvaluationOutcome.run_id, EvaluationOutcome.ordinal).join(EvaluationRun)
        rows = session.execute(query.where(EvaluationRun.tenant_id == tenant, condition))
        found.outcomes |= {(run_id, ordinal) for run_id, ordinal in rows}
    found.question_sets |= set(holding(EvaluationSet.id, EvaluationSet.questions, of=EvaluationSet.tenant_id == tenant))
    found.runs |= _shown_to(session, tenant, RunRow.run_id, RunRow.row_id, found.rows)
    learnt, asked = RunDocument.use != EVALUATED, RunDocument.use == EVALUATED
    found.runs |= _shown_to(session, tenant, RunDocument.run_id, RunDocument.document_id, wanted.documents, learnt)
    found.versions |= _pointing(session, AdapterVersion.id, AdapterVersion.run_id, found.runs)
    # Files of a run whose gate only asked about a document hold its text; the weights that were judged do not.
    found.runs |= _shown_to(session, tenant, RunDocument.run_id, RunDocument.document_id, wanted.documents, asked)
    return found


def documents_with(
    db: Database, blobs: BlobStore, tenant_id: str, text: str, step: Callable[[], None]
) -> frozenset[str]:
    """Documents of a tenant whose name, metadata or text holds a text. Every stored text is read."""
    forms = stored_forms(text)
    found: set[str] = set()
    with db.read() as session:
        for key, columns, of in (
            (
                Document.id,
                (Document.filename, Document.external_id, Document.metadata_, Document.edition, Document.error),
                Document.tenant_id,
            ),
            (
                DocumentGeneration.document_id,
                (DocumentGeneration.filename, DocumentGeneration.title, DocumentGeneration.places),
                DocumentGeneration.tenant_id,
            ),
            (ChunkRow.document_id, (ChunkRow.text, ChunkRow.heading), ChunkRow.tenant_id),
        ):
            for condition in mention(session, columns, forms):
                found |= set(session.scalars(select(key).where(of == tenant_id, condition).distinct()))
        generations = session.execute(
            select(DocumentGeneration.document_id, DocumentGeneration.text_sha256, DocumentGeneration.source_sha256)
            .where(DocumentGeneration.tenant_id == tenant_id)
            .order_by(DocumentGeneration.document_id)
        ).all()
    wanted = [spelling.encode() for spelling in spellings(text)]
    held: dict[str, bool] = {}
    for document_id, extracted, source in generations:
        step()
        digest = extracted or source  # what was not read yet is searched as it came
        if document_id not in found:
            if digest not in held:
                held[digest] = _holds(blobs, digest, wanted)
            if held[digest]:
                found.add(document_id)
    return frozenset(found)


def files_with(db: Database, blobs: BlobStore, tenant_id: str, text: str, step: Callable[[], None]) -> frozenset[str]:
    """Datasets of a tenant whose uploaded file holds a text, perhaps in a row that was never taken."""
    with db.read() as session:
        files = session.execute(
            select(Dataset.id, Dataset.source_sha256).where(
                Dataset.tenant_id == tenant_id, Dataset.source_sha256.is_not(None)
            )
        ).all()
    wanted = [form.encode() for form in stored_forms(text)]
    found = set()
    for dataset_id, digest in files:
        step()
        if _holds(blobs, str(digest), wanted):
            found.add(dataset_id)
    return frozenset(found)


def in_parts(ids: Collection[str]) -> Iterator[Sequence[str]]:
    """Ids in an order, so many at once as a database takes in one condition."""
    ordered = sorted(ids)
    for start in range(0, len(ordered), _AT_ONCE):
        yield ordered[start : start + _AT_ONCE]


def _holds(blobs: BlobStore, digest: str, wanted: Iterable[bytes]) -> bool:
    try:
        data = blobs.get(digest)
    except NotFound:  # damaged or already gone: doctor's business
        return False
    return any(form in data for form in wanted)


def _pointing(
    session: Session, key: InstrumentedAttribute[Any], to: InstrumentedAttribute[Any], ids: Collection[str]
) -> set[str]:
    return {one for some in in_parts(ids) for one in session.scalars(select(key).where(to.in_(some)))}


def _shown_to(
    session: Session,
    tenant_id: str,
    run_id: InstrumentedAttribute[str],
    to: InstrumentedAttribute[str],
    ids: Collection[str],
    *conditions: ColumnElement[bool],
) -> set[str]:
    query = select(run_id).join(TuningRun, TuningRun.id == run_id).where(TuningRun.tenant_id == tenant_id, *conditions)
    return {one for some in in_parts(ids) for one in session.scalars(query.where(to.in_(some)).distinct())}


def _said_after(session: Session, tenant_id: str, answers: Collection[str]) -> Iterator[str]:
    """Answers of the same conversations that came later: they may repeat what an earlier one said."""
    begun: dict[str, Any] = {}
    for some in in_parts(answers):
        query = select(Answer.conversation_id, func.min(Answer.created_at)).where(
            Answer.id.in_(some), Answer.conversation_id.is_not(None)
        )
        for conversation_id, first in session.execute(query.group_by(Answer.conversation_id)):
            begun[str(conversation_id)] = min(first, begun.get(str(conversation_id), first))
    for some in in_parts(begun):
        later = [and_(Answer.conversation_id == one, Answer.created_at >= begun[one]) for one in some]
        for start in range(0, len(later), 100):
            yield from session.scalars(
                select(Answer.id).where(Answer.tenant_id == tenant_id, or_(*later[start : start + 100]))
            )


def _steps(session: Session, wanted: Wanted, rows: Collection[str]) -> set[tuple[str, str]]:
    """Of the documents' chunks and of the rows, and those whose chunk or row is no longer there to tell."""
    query = (
        select(DatasetBuildStep.build_id, DatasetBuildStep.piece_id)
        .join(DatasetBuild, DatasetBuild.id == DatasetBuildStep.build_id)
        .where(DatasetBuild.tenant_id == wanted.tenant_id)
    )
    chunk = select(ChunkRow.id).where(ChunkRow.id == DatasetBuildStep.piece_id)
    row = select(DatasetRow.id).where(DatasetRow.id == DatasetBuildStep.piece_id)
    conditions: list[ColumnElement[bool]] = [~chunk.exists() & ~row.exists()]
    conditions += [chunk.where(ChunkRow.document_id.in_(some)).exists() for some in in_parts(wanted.documents)]
    conditions += [DatasetBuildStep.piece_id.in_(some) for some in in_parts(rows)]
    conditions += mention(session, (DatasetBuildStep.outcome,), wanted.needles)
    return {(build, piece) for one in conditions for build, piece in session.execute(query.where(one))}
