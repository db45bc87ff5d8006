"""Do index and database agree? Compares points with chunk rows, and mends the index, never the database.

Chunk rows are the truth: a point without a row is an orphan, an active row without its point is missing. Rows of a
generation that is not active belong to an ingest under way, which writes or drops their points itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import structlog
from sqlalchemy import func, select

from core.database import Database
from core.errors import Unavailable
from core.ports import Embedder
from core.tables.documents import ChunkRow, Document, DocumentGeneration, DocumentGroup
from core.types import DocumentStatus, IndexPoint, StoredVectors
from retrieval.bridge import bridge_vectors
from retrieval.live import OpenVersion, Retrieval
from retrieval.text import indexed_text

log = structlog.stdlib.get_logger(__name__)

_BATCH = 256


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """What was found; after a repair, what was mended."""

    chunks: int
    """Active chunks in the database."""
    points: int
    """Points in the index, before any repair."""
    missing: tuple[str, ...]
    """Ids of active chunks that have no point, or one that names another document or generation."""
    orphans: tuple[str, ...]
    """Ids of points that no chunk row knows."""
    in_progress: int
    """Points of generations that are being ingested or removed."""
    repaired: bool
    wrong: tuple[str, ...] = ()
    """Ids of points whose payload says another tenant, collection or groups than the database."""

    @property
    def clean(self) -> bool:
        """Whether the index held exactly what it should."""
        return not self.missing and not self.orphans and not self.wrong

    def __str__(self) -> str:
        state = "mended" if self.repaired else "found"
        return (
            f"{self.points} points for {self.chunks} chunks: {len(self.missing)} missing, {len(self.orphans)} orphaned,"
            f" {len(self.wrong)} with a wrong payload ({state}); {self.in_progress} of generations under way"
        )


Vectors = tuple[tuple[float, ...] | None, tuple[tuple[float, ...], ...]]
Embed = Callable[[Embedder, Sequence[tuple[str, str]]], list[Vectors]]
"""Such as `ingest.vectors.passage_vectors`, the choice of the write side, which this package may not import."""


def reconcile(db: Database, retrieval: Retrieval, repair: bool, embed: Embed | None = None) -> ReconcileReport:
    """Compare all points with all chunk rows, in each index version that is kept up to date.

    With `repair`, embed what is missing anew and drop orphans. The report adds the versions up. No ingest may run at
    the same time. Deleted documents' rows may still stand while their job waits: their points count as in progress.

    embed: makes the vectors of missing points; default makes those of passages alone, without their sentences'.
    """
    reports = [_reconcile(db, version, repair, embed or _passages_alone) for version in retrieval.live()]
    return ReconcileReport(
        sum(report.chunks for report in reports),
        sum(report.points for report in reports),
        tuple(sorted(key for report in reports for key in report.missing)),
        tuple(key for report in reports for key in report.orphans),
        sum(report.in_progress for report in reports),
        repair,
        tuple(sorted(key for report in reports for key in report.wrong)),
    )


def mend(db: Database, version: OpenVersion, embed: Embed) -> ReconcileReport:
    """`reconcile` one version with repair, while documents come and go: what changed meanwhile is left to its job."""
    return _reconcile(db, version, True, embed)


def _reconcile(db: Database, retrieval: OpenVersion, repair: bool, embed: Embed) -> ReconcileReport:
    wanted: dict[str, tuple[str, int]] = {}
    readers = _readers(db)
    other: set[str] = set()
    with db.read() as session:
        rows = session.execute(
            select(ChunkRow.id, ChunkRow.document_id, ChunkRow.generation, Document.active_generation, Document.status)
            .join(Document, Document.id == ChunkRow.document_id)
            .where(ChunkRow.chunk_set == retrieval.chunk_set)
            .execution_options(yield_per=10_000)
        )
        for chunk_id, document_id, generation, active, status in rows:
            if generation == active and status != DocumentStatus.DELETING:
                wanted[chunk_id] = (document_id, generation)
            else:
                other.add(chunk_id)
    missing = dict(wanted)
    orphans: list[str] = []
    wrong: list[str] = []
    points = in_progress = 0
    for point in retrieval.index.scan():
        points += 1
        if wanted.get(point.id) == (point.document_id, point.generation):
            missing.pop(point.id, None)
            if (point.tenant_id, point.collection_id, point.groups) != readers.get(point.document_id):
                wrong.append(point.id)
        elif point.id in other:
            in_progress += 1
        elif point.id not in wanted:
            orphans.append(point.id)
    if repair and (missing or orphans or wrong):
        for start in range(0, len(orphans), _BATCH):
            retrieval.index.delete_points(_unknown(db, orphans[start : start + _BATCH]))
        for batch in _points(db, retrieval, sorted({*missing, *wrong}), embed):
            retrieval.index.upsert(batch)
            # A document that was replaced or deleted meanwhile has dropped its points, but maybe before this write.
            serving = {row.chunk.id for row in _serving(db, [point.id for point in batch])}
            for tenant_id in {point.tenant_id for point in batch}:
                gone = [one.id for one in batch if one.tenant_id == tenant_id and one.id not in serving]
                retrieval.index.delete_points(gone, tenant_id=tenant_id)
        retrieval.index.flush()
    return ReconcileReport(
        len(wanted), points, tuple(sorted(missing)), tuple(orphans), in_progress, repair, tuple(sorted(wrong))
    )


def _readers(db: Database) -> dict[str, tuple[str, str, frozenset[str]]]:
    """{document: (tenant, collection, groups)}, as its points must say."""
    with db.read() as session:
        groups: dict[str, set[str]] = {}
        for document_id, group in session.execute(select(DocumentGroup.document_id, DocumentGroup.group_name)):
            groups.setdefault(document_id, set()).add(group)
        rows = session.execute(select(Document.id, Document.tenant_id, Document.collection_id)).all()
    return {key: (tenant, collection, frozenset(groups.get(key, ()))) for key, tenant, collection in rows}


def _unknown(db: Database, ids: Sequence[str]) -> list[str]:
    """Those that no chunk row knows by now: an ingest may have begun since they were listed."""
    with db.read() as session:
        known = set(session.scalars(select(ChunkRow.id).where(ChunkRow.id.in_(ids))))
    return [key for key in ids if key not in known]


def _serving(db: Database, ids: Sequence[str]) -> list[_Row]:
    return [
        row
        for row in _chunks(db, ids)
        if row.chunk.generation == row.document.active_generation and row.document.status != DocumentStatus.DELETING
    ]


def put_vectors(db: Database, version: OpenVersion, stored: Sequence[StoredVectors]) -> int:
    """Write vectors that were kept elsewhere as points, whose payload comes from the database; how many were wanted.

    Vectors of chunks that the database does not know or that do not serve, and vectors of another shape than the
    version's, are passed over: `reconcile` makes what is missing.
    """
    shaped = {one.id: one for one in stored if _fits(one, version)}
    found = [
        _point(row, shaped[row.chunk.id])
        for row in _serving(db, sorted(shaped))
        if row.chunk.chunk_set == version.chunk_set
    ]
    if found:
        version.index.upsert(found)
    return len(found)


def _fits(stored: StoredVectors, version: OpenVersion) -> bool:
    dense = [one for one in (stored.dense, *stored.sentences) if one is not None]
    bridge = stored.bridge or ()
    values = (*stored.sparse.values, *(value for one in (*dense, bridge) for value in one))
    wanted = 0 if version.bridge is None else version.bridge.dim
    return (
        len(bridge) == wanted and all(len(one) == version.embedder.dim for one in dense) and all(map(isfinite, values))
    )


@dataclass(frozen=True, slots=True)
class _Row:
    chunk: ChunkRow
    document: Document
    content: DocumentGeneration
    groups: tuple[str, ...]


def _chunks(db: Database, ids: Sequence[str]) -> list[_Row]:
    with db.read() as session:
        rows = session.execute(
            select(ChunkRow, Document, DocumentGeneration)
            .join(Document, Document.id == ChunkRow.document_id)
            .join(
                DocumentGeneration,
                (DocumentGeneration.document_id == ChunkRow.document_id)
                & (DocumentGeneration.generation == ChunkRow.generation),
            )
            .where(ChunkRow.id.in_(ids))
        ).all()
        documents = {document.id for _, document, _ in rows}
        groups: dict[str, list[str]] = {}
        for document_id, group in session.execute(
            select(DocumentGroup.document_id, DocumentGroup.group_name).where(DocumentGroup.document_id.in_(documents))
        ):
            groups.setdefault(document_id, []).append(group)
    return [
        _Row(chunk, document, content, tuple(sorted(groups.get(document.id, ())))) for chunk, document, content in rows
    ]


def _point(row: _Row, vectors: StoredVectors) -> IndexPoint:
    return IndexPoint(
        id=row.chunk.id,
        tenant_id=row.chunk.tenant_id,
        collection_id=row.document.collection_id,
        document_id=row.chunk.document_id,
        generation=row.chunk.generation,
        ordinal=row.chunk.ordinal,
        groups=row.groups,
        dense=vectors.dense,
        sparse=vectors.sparse,
        sentences=vectors.sentences,
        bridge=vectors.bridge,
    )


def _points(db: Database, retrieval: OpenVersion, ids: Sequence[str], embed: Embed) -> Iterator[list[IndexPoint]]:
    for start in range(0, len(ids), _BATCH):
        rows = _serving(db, ids[start : start + _BATCH])
        if not rows:
            continue
        texts = [
            indexed_text(row.content.filename, row.content.title, row.chunk.heading, row.chunk.text) for row in rows
        ]
        vectors = embed(retrieval.embedder, [(text, row.chunk.text) for text, row in zip(texts, rows, strict=True)])
        bridges = bridge_vectors(retrieval.bridge, texts)
        yield [
            _point(row, StoredVectors(row.chunk.id, dense, retrieval.lexical.encode_passage(text), sentences, bridge))
            for row, text, (dense, sentences), bridge in zip(rows, texts, vectors, bridges, strict=True)
        ]


def _passages_alone(embedder: Embedder, passages: Sequence[tuple[str, str]]) -> list[Vectors]:
    return [(tuple(vector), ()) for vector in embedder.encode_passages([text for text, _ in passages]).tolist()]


def note_clean_stop(db: Database, retrieval: Retrieval, note: Path) -> None:
    """Write down, as the last thing before the index closes, that index and database agree by their counts."""
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(_counts(db, retrieval)), encoding="utf-8")
    except (OSError, Unavailable) as error:  # the next start compares everything then
        log.warning("index.clean_stop_not_noted", detail=str(error))


def take_clean_stop(db: Database, retrieval: Retrieval, note: Path) -> bool:
    """Whether the last process ended well and nothing was touched since; asked once, the note is gone afterwards.

    Comparing every point with its row takes seconds for each 100,000 of them, which only a process that died makes
    necessary.
    """
    try:
        noted = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    note.unlink()
    return bool(noted == _counts(db, retrieval))


def _counts(db: Database, retrieval: Retrieval) -> dict[str, list[int | str]]:
    """By version: points, chunk rows; and what any change of a document changes, so that an older copy is not taken."""
    with db.read() as session:
        generations, changed = session.execute(
            select(func.sum(Document.active_generation), func.max(Document.updated_at))
        ).one()
    found: dict[str, list[int | str]] = {"documents": [int(generations or 0), str(changed)]}
    for version in retrieval.live():
        with db.read() as session:
            rows = session.scalar(
                select(func.count()).select_from(ChunkRow).where(ChunkRow.chunk_set == version.chunk_set)
            )
        found[version.id] = [version.index.count(), rows or 0]
    return found
