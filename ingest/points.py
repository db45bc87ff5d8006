"""One document generation into one index version: chunk rows, then vectors. Ingest and rebuild both do it here.

Nothing of it is visible until `note_content` and the generation say so, so every step may be cut off and done again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.database import WriteSession
from core.errors import ExtractionFailed, Unavailable
from core.ports import TokenPlaces
from core.repositories.documents import drop_chunks, insert_chunks, point_id
from core.settings import IngestSettings
from core.types import Block, BlockKind, Chunk, ExtractedDocument, IndexPoint
from retrieval.bridge import bridge_vectors

if TYPE_CHECKING:
    from retrieval.live import OpenVersion

_WRITE_BATCH = 2_000
_DELETE_BATCH = 1_000
_MAX_ORDINAL = 10_000_000
_LOOK_EVERY_S = 0.5

Write = Callable[[], AbstractContextManager[WriteSession]]
"""Opens a write transaction that fails when the work is no longer wanted."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whose generation is written, and who may read it."""

    tenant_id: str
    collection_id: str
    document_id: str
    generation: int
    filename: str
    groups: tuple[str, ...]


def write_rows(version: OpenVersion, place: Place, chunks: Sequence[Chunk], write: Write) -> None:
    """Write the chunk rows of a version's chunk set in place of what an earlier attempt left."""
    for first in range(0, len(chunks), _WRITE_BATCH):
        with write() as session:
            if first == 0:
                drop_chunks(session, place.document_id, generation=place.generation, chunk_set=version.chunk_set)
            insert_chunks(
                session,
                place.tenant_id,
                place.document_id,
                place.generation,
                chunks[first : first + _WRITE_BATCH],
                version.chunk_set,
            )


def write_document(
    version: OpenVersion,
    place: Place,
    extracted: ExtractedDocument,
    *,
    with_rows: bool,
    write: Write,
    step: Callable[[float], None],
) -> int:
    """Cut, embed and index a generation in one version; the index holds its points when this returns. Number of chunks.

    with_rows: write the chunk rows too; False when another version with the same chunk set has just done so.
    step: called between batches with the fraction done.

    Raises:
        ExtractionFailed: `no_text`, `extraction_timeout`: cutting took longer than a file may take.
        Unavailable: embedder or index do not answer, or the index does not hold all points.
    """
    from ingest.llama import chunks_of, embed_nodes, parse_document

    embedder = version.embedder
    token_starts = embedder.token_starts if isinstance(embedder, TokenPlaces) else None
    look = _looking(lambda: step(0.0), place.filename, version.chunking)
    nodes = parse_document(extracted, place.filename, embedder.count_tokens, version.chunking, token_starts, look)
    if not nodes:
        raise ExtractionFailed(f"there is no text in '{place.filename}'", code="no_text")
    chunks = chunks_of(nodes)
    drop_points(version, place.tenant_id, place.document_id, place.generation)
    if with_rows:
        write_rows(version, place, chunks, write)
    for window in embed_nodes(nodes, embedder):
        step(window[0].chunk.ordinal / len(chunks))
        bridges = bridge_vectors(version.bridge, [item.indexed for item in window])
        version.index.upsert(
            [
                IndexPoint(
                    id=point_id(place.document_id, place.generation, item.chunk.ordinal, version.chunk_set),
                    tenant_id=place.tenant_id,
                    collection_id=place.collection_id,
                    document_id=place.document_id,
                    generation=place.generation,
                    ordinal=item.chunk.ordinal,
                    groups=place.groups,
                    dense=item.dense,
                    sparse=version.lexical.encode_passage(item.indexed),
                    sentences=item.sentences,
                    bridge=bridge,
                )
                for item, bridge in zip(window, bridges, strict=True)
            ]
        )
    version.index.flush_soon()
    present = version.index.count(tenant_id=place.tenant_id, document_id=place.document_id, generation=place.generation)
    if present != len(chunks):
        raise Unavailable(
            f"the index holds {present} of {len(chunks)} points of document '{place.document_id}'",
            code="index_incomplete",
        )
    return len(chunks)


def _looking(step: Callable[[], None], filename: str, settings: IngestSettings) -> Callable[[], None]:
    """What cutting calls between pieces: `step` once in a while, and the end of it after the time of an extraction."""
    began = looked = time.monotonic()

    def look() -> None:
        nonlocal looked
        now = time.monotonic()
        if now - began > settings.extract_timeout_s:
            raise ExtractionFailed(
                f"'{filename}' could not be cut into passages within {settings.extract_timeout_s:g} s",
                code="extraction_timeout",
            )
        if now - looked >= _LOOK_EVERY_S:
            looked = now
            step()

    return look


def drop_points(version: OpenVersion, tenant_id: str, document_id: str, generation: int) -> None:
    """Drop all points of one generation. Their ids follow from their ordinals, so no list of them is needed."""
    for first in range(0, _MAX_ORDINAL, _DELETE_BATCH):
        if version.index.count(tenant_id=tenant_id, document_id=document_id, generation=generation) == 0:
            return
        version.index.delete_points(
            [point_id(document_id, generation, first + n, version.chunk_set) for n in range(_DELETE_BATCH)],
            tenant_id=tenant_id,
        )


def blocks_to_json(extracted: ExtractedDocument) -> list[list[object]]:
    """Blocks as stored beside a generation."""
    return [[block.kind.value, block.start, block.end, block.page, block.level] for block in extracted.blocks]


def blocks_from_json(rows: Sequence[Sequence[object]]) -> tuple[Block, ...]:
    """Blocks as `blocks_to_json` wrote them."""
    return tuple(Block(BlockKind(kind), *places) for kind, *places in rows)  # type: ignore[arg-type]
