"""Documents, generations and chunks in SQL, and whether the stored bytes and texts are still what they were.

A damaged generation is built anew from its source bytes, as a new generation beside the one that serves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import func, select

from cli.checkup.finding import Examination, Finding, Repair
from core import audit
from core.errors import NotFound, Unavailable
from core.ports import BlobStore
from core.repositories.blobs import named_blobs
from core.repositories.documents import drop_chunks, groups_of, serving_chunk_set
from core.tables import ChunkRow, Document, DocumentGeneration, IndexContent, IndexVersion, Job
from core.types import DocumentStatus, JobKind, JobStatus

_PAGE = 500
UNFINISHED = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)


def check_generations(examination: Examination) -> Iterator[Finding]:
    """Every ready document serves exactly one generation, whole: its rows, its chunks, its text."""
    after = ""
    while True:
        documents, page = _page_behind(examination, after)
        yield from _check_page(examination, documents, page)
        if len(documents) < _PAGE:
            return
        after = documents[-1].id


@dataclass(frozen=True, slots=True)
class _Page:
    """What is stored about some documents, by document and generation."""

    chunks: Mapping[str, Mapping[int, int]]
    """{document: {generation: chunks}} of the chunk set that serves."""
    wanted: Mapping[tuple[str, int], int]
    generations: Mapping[tuple[str, int], DocumentGeneration]
    busy: Set[str]


def _page_behind(examination: Examination, after: str) -> tuple[Sequence[Document], _Page]:
    with examination.db.read() as session:
        documents = session.scalars(
            select(Document).where(Document.id > after).order_by(Document.id).limit(_PAGE)
        ).all()
        ids = [document.id for document in documents]
        chunks: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for document_id, generation, count in session.execute(
            select(ChunkRow.document_id, ChunkRow.generation, func.count())
            .where(ChunkRow.document_id.in_(ids), ChunkRow.chunk_set == serving_chunk_set(session))
            .group_by(ChunkRow.document_id, ChunkRow.generation)
        ):
            chunks[document_id][generation] = count
        contents = select(IndexContent).join(IndexVersion).where(IndexVersion.active, IndexContent.document_id.in_(ids))
        wanted = {(row.document_id, row.generation): row.chunk_count for row in session.scalars(contents)}
        rows = session.scalars(select(DocumentGeneration).where(DocumentGeneration.document_id.in_(ids)))
        generations = {(row.document_id, row.generation): row for row in rows}
        at_work = select(Job.subject_id).where(Job.subject_id.in_(ids), Job.status.in_(UNFINISHED))
        return documents, _Page(chunks, wanted, generations, set(session.scalars(at_work)))


def _check_page(examination: Examination, documents: Sequence[Document], page: _Page) -> Iterator[Finding]:
    for document in documents:
        if document.status == DocumentStatus.DELETING.value or document.id in page.busy:
            continue
        active = document.active_generation
        if active is None:
            if document.status != DocumentStatus.FAILED.value:
                problem = f"is '{document.status}', but no generation serves and no job works on it"
                yield Finding("documents", document.id, problem, _requeue(examination, document))
            continue
        chunks = page.chunks.get(document.id, {})
        key = (document.id, active)
        damage = _damage_of(examination, page.generations.get(key), chunks.get(active, 0), page.wanted.get(key, 0))
        if damage is not None:
            yield Finding("documents", document.id, f"generation {active}: {damage}", _requeue(examination, document))
        for generation, count in sorted(chunks.items()):
            if generation != active:
                yield Finding(
                    "documents",
                    document.id,
                    f"{count} chunks of generation {generation}, which does not serve",
                    _drop_chunks(examination, document.id, generation),
                )


def check_deletions(examination: Examination) -> Iterator[Finding]:
    """Whatever is being deleted has a job that does it: one that failed for good left it hidden, and stored."""
    with examination.db.read() as session:
        busy = set(session.scalars(select(Job.subject_id).where(Job.status.in_(UNFINISHED))))
        deleting = session.scalars(select(Document).where(Document.status == DocumentStatus.DELETING.value)).all()
    for document in deleting:
        if document.id not in busy:
            problem = "is being deleted, but no job works on it"
            yield Finding("documents", document.id, problem, _delete_again(examination, document))


def _delete_again(examination: Examination, document: Document) -> Repair:
    def repair() -> None:
        with examination.db.write() as session:
            examination.jobs.create(
                session, tenant_id=document.tenant_id, kind=JobKind.DELETE, subject_id=document.id, priority=4
            )

    return repair


def check_blobs(examination: Examination) -> Iterator[Finding]:
    """Every blob that a row names is there and is what its name says; nothing else lies around."""
    named: dict[str, str] = {}
    with examination.db.read() as session:
        for digest, what in named_blobs(session):
            named.setdefault(digest, what)
    for digest, what in sorted(named.items()):
        if what.startswith("the text of"):
            continue  # `check_generations` reads it, and knows how to make it again
        state = _blob_state(examination.blobs, digest)
        if state is not None:
            yield Finding("blobs", digest[:16], f"{what} is {state}; upload the file again or restore a backup")
    for digest, _size in examination.blobs.list():
        if digest not in named:
            yield Finding("blobs", digest[:16], "belongs to nothing", _delete(examination.blobs, digest))


def _damage_of(examination: Examination, row: DocumentGeneration | None, chunk_count: int, wanted: int) -> str | None:
    if row is None:
        return "its row is missing"
    if chunk_count != wanted or not wanted:
        return f"{chunk_count} of {wanted or row.chunk_count} chunks are there"
    if row.text_sha256 is None:
        return "its text was never stored"
    state = _blob_state(examination.blobs, row.text_sha256)
    if state is not None:
        return f"its text is {state}"
    text = examination.blobs.get(row.text_sha256).decode("utf-8")
    with examination.db.read() as session:
        chunks = session.scalars(
            select(ChunkRow)
            .where(
                ChunkRow.document_id == row.document_id,
                ChunkRow.generation == row.generation,
                ChunkRow.chunk_set == serving_chunk_set(session),
            )
            .order_by(ChunkRow.ordinal)
        ).all()
    for ordinal, chunk in enumerate(chunks):
        if chunk.ordinal != ordinal:
            return f"chunk {ordinal} is missing"
        if text[chunk.start : chunk.end] != chunk.text:
            return f"chunk {ordinal} is not what the text says there"
    return None


def _blob_state(blobs: BlobStore, digest: str) -> str | None:
    """What is wrong with a blob; every byte of it is read."""
    with TemporaryDirectory() as folder:
        try:
            blobs.copy_to(digest, Path(folder) / "blob")
        except NotFound:
            return "missing"
        except Unavailable as error:
            if error.code != "blob_damaged":
                raise
            return "damaged"
    return None


def _requeue(examination: Examination, document: Document) -> Repair | None:
    """Ingest the newest source again, as a new generation; None when its bytes are gone."""
    with examination.db.read() as session:
        newest = session.scalars(
            select(DocumentGeneration)
            .where(DocumentGeneration.document_id == document.id)
            .order_by(DocumentGeneration.generation.desc())
        ).first()
        groups = list(groups_of(session, document.id))
    if newest is None or _blob_state(examination.blobs, newest.source_sha256) is not None:
        return None

    def repair() -> None:
        with examination.db.write() as session:
            row = session.get_one(Document, document.id)
            row.latest_generation += 1
            session.add(
                DocumentGeneration(
                    document_id=row.id,
                    generation=row.latest_generation,
                    tenant_id=row.tenant_id,
                    source_sha256=newest.source_sha256,
                    filename=newest.filename,
                    byte_size=newest.byte_size,
                    given_encoding=newest.given_encoding,
                )
            )
            session.flush()
            arguments = {"generation": row.latest_generation, "groups": groups, "filename": newest.filename}
            examination.jobs.create(
                session,
                tenant_id=row.tenant_id,
                kind=JobKind.INGEST,
                subject_id=row.id,
                arguments={**arguments, "metadata": dict(row.metadata_)},
            )
            audit.record(
                session,
                tenant_id=row.tenant_id,
                actor=audit.SYSTEM,
                action="document.repair",
                object_id=row.id,
                detail={"generation": row.latest_generation},
            )

    return repair


def _drop_chunks(examination: Examination, document_id: str, generation: int) -> Repair:
    def repair() -> None:
        with examination.db.write() as session:
            drop_chunks(session, document_id, generation=generation)

    return repair


def _delete(blobs: BlobStore, digest: str) -> Repair:
    return lambda: blobs.delete(digest)
