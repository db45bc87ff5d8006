"""Rows of a set into the database, each with what it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select

from core.database import WriteSession
from core.repositories.lineage import SourceKind, common_groups
from core.tables.base import new_id, utc_now
from core.tables.datasets import Dataset, DatasetRow
from core.tables.documents import Document
from core.tables.lineage import RowSource
from tuning.datasets.parse import ParsedDataset

AT_ONCE = 100
"""Rows in memory together."""


@dataclass(frozen=True, slots=True)
class Source:
    """One thing that a row was made from; `generation` of a document."""

    kind: SourceKind
    id: str
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class MadeRow:
    """A canonical row that the service made itself, with its lineage."""

    content: dict[str, Any]
    lineage: dict[str, Any]
    sources: tuple[Source, ...] = ()


def insert_rows(session: WriteSession, dataset: Dataset, parsed: ParsedDataset, filename: str) -> None:
    """Store the valid rows of a file with their lineage."""
    now = utc_now()
    documents = _named_documents(session, dataset.tenant_id, parsed)
    values: list[dict[str, Any]] = []
    sources: list[tuple[str, list[Source]]] = []

    def write() -> None:
        session.execute(insert(DatasetRow), values)
        for row_id, named in sources:
            add_sources(session, row_id, named)
        values.clear()
        sources.clear()

    for ordinal, row in enumerate(parsed.rows):
        lineage: dict[str, Any] = {"source": "upload", "file": filename[:512], "file_sha256": dataset.source_sha256}
        row_id = new_id("row")
        named = [documents[name] for name in _document_ids(row.content) if name in documents]
        if named:
            lineage["documents"] = [{"document_id": one.id, "generation": one.generation} for one in named]
            lineage["groups"] = common_groups(session, [one.id for one in named])
            sources.append((row_id, named))
        values.append(
            {
                "id": row_id,
                "dataset_id": dataset.id,
                "tenant_id": dataset.tenant_id,
                "ordinal": ordinal,
                "line": row.line,
                "content": row.content,
                "content_sha256": row.digest,
                "lineage": lineage,
                "created_at": now,
            }
        )
        if len(values) == AT_ONCE:
            write()
    if values:
        write()


def _document_ids(content: dict[str, Any]) -> Sequence[str]:
    """Documents that a row's passages name, each once."""
    return list(dict.fromkeys(p["document_id"] for p in content.get("passages", []) if p.get("document_id")))


def _named_documents(session: WriteSession, tenant_id: str, parsed: ParsedDataset) -> dict[str, Source]:
    """Those of the tenant's documents that rows of a file name; unknown names are no lineage."""
    wanted = sorted({name for row in parsed.rows for name in _document_ids(row.content)})
    found: dict[str, Source] = {}
    for start in range(0, len(wanted), 500):
        rows = session.scalars(
            select(Document).where(Document.tenant_id == tenant_id, Document.id.in_(wanted[start : start + 500]))
        )
        for one in rows:
            generation = one.active_generation or one.latest_generation
            found[one.id] = Source(SourceKind.DOCUMENT, one.id, generation)
    return found


def add_sources(session: WriteSession, row_id: str, sources: Iterable[Source]) -> None:
    """Store what a row was made from, each thing once."""
    for source in {(one.kind, one.id): one for one in sources}.values():
        session.add(RowSource(row_id=row_id, kind=source.kind.value, source_id=source.id, generation=source.generation))
