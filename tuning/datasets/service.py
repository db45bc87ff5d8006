"""Training sets of a tenant: upload, list, read. A set never changes; the same valid rows again are the same set."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from core.access import Principal
from core.audit import record
from core.database import Database, WriteSession
from core.errors import InvalidInput, NotFound
from core.language import language_of
from core.paging import Page, after_cursor, checked_limit, cut_page
from core.ports import BlobStore
from core.repositories.derived import rows_readable, sets_with_hidden_rows
from core.repositories.lineage import SourceKind, common_groups
from core.tables.base import new_id, utc_now
from core.tables.datasets import Dataset, DatasetRow
from core.tables.documents import Document
from core.tables.lineage import RowSource
from core.types import Scope
from tuning.datasets.formats import DatasetFormat
from tuning.datasets.parse import ParsedDataset, parse, row_digest
from tuning.datasets.quality import quality_report

MAX_NAME_CHARS = 200
MAX_INVALID_DETAILS = 1_000
"""Invalid rows told in full by the report; beyond them `invalid_lines` still has every line with its code."""


@dataclass(frozen=True, slots=True)
class DatasetView:
    """A dataset as callers see it."""

    id: str
    name: str
    format: str
    content_sha256: str
    source_sha256: str | None
    """The uploaded file; None for a set that the service made."""
    row_count: int
    invalid_count: int
    report: dict[str, Any]
    """{encoding, languages, invalid: [{line, code, detail}], invalid_lines: {code: [line]}, duplicates: [{line, of}],
    grounded_count}"""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Upload:
    """Answer to an upload. `report` is that of *this* file, also when its rows were known already."""

    dataset: DatasetView
    created: bool
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowView:
    """A valid row as callers see it."""

    id: str
    ordinal: int
    line: int
    content: dict[str, Any]
    content_sha256: str
    lineage: dict[str, Any]
    retired_at: datetime | None
    retired_reason: str | None


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


class DatasetService:
    """Datasets through the eyes of a principal; what belongs to another tenant does not exist."""

    def __init__(self, db: Database, blobs: BlobStore) -> None:
        self._db = db
        self._blobs = blobs

    def upload(self, principal: Principal, data: bytes, filename: str, name: str | None = None) -> Upload:
        """Validate a file row by row and store its valid rows.

        Raises:
            DatasetRejected: nothing of the file can be used; `code` says why, `errors` names lines.
            InvalidInput: the name is empty or too long.
        """
        principal.require(Scope.TUNE)
        title = (name or filename or "dataset").strip()
        if not title or len(title) > MAX_NAME_CHARS:
            raise InvalidInput(f"a dataset's name has 1 to {MAX_NAME_CHARS} characters", code="invalid_name")
        parsed = parse(data)
        report = _report(parsed)
        source = hashlib.sha256(data).hexdigest()
        known = self._by_content(principal.tenant_id, parsed.digest)
        if known is not None:
            return Upload(known, False, report)
        self._blobs.put(data)
        try:
            with self._db.write() as session:
                dataset = Dataset(
                    id=new_id("dst"),
                    tenant_id=principal.tenant_id,
                    name=title,
                    format=parsed.format.value,
                    content_sha256=parsed.digest,
                    source_sha256=source,
                    row_count=len(parsed.rows),
                    invalid_count=len(parsed.invalid),
                    report=report,
                )
                session.add(dataset)
                session.flush()
                _insert_rows(session, dataset, parsed, filename)
                record(
                    session,
                    tenant_id=principal.tenant_id,
                    actor=principal.actor,
                    action="dataset.upload",
                    object_id=dataset.id,
                    detail={"name": title, "rows": len(parsed.rows), "invalid": len(parsed.invalid), "source": source},
                )
        except IntegrityError:  # the same rows were uploaded at the same moment
            known = self._by_content(principal.tenant_id, parsed.digest)
            if known is None:
                raise
            return Upload(known, False, report)
        return Upload(_view(dataset), True, report)

    def add_rows(
        self, principal: Principal, shape: DatasetFormat, rows: Sequence[MadeRow], *, name: str, report: dict[str, Any]
    ) -> Upload:
        """Store rows that the service made as a set of its own; the same rows again are the same set."""
        principal.require(Scope.TUNE)
        digests = [row_digest(row.content) for row in rows]
        whole = hashlib.sha256(shape.encode())
        for digest in digests:
            whole.update(bytes.fromhex(digest))
        # Lineage is part of what such a set is: the same words said by two people are two things to withdraw.
        made_of = sorted(source.id for row in rows for source in row.sources)
        whole.update("\n".join(made_of).encode())
        digest = whole.hexdigest()
        known = self._by_content(principal.tenant_id, digest)
        if known is not None:
            return Upload(known, False, report)
        languages = Counter(
            language_of(row.content.get("chosen") or row.content["messages"][-1]["content"]).value for row in rows
        )
        full = {"languages": dict(sorted(languages.items())), "invalid": [], "invalid_lines": {}, **report}
        with self._db.write() as session:
            dataset = Dataset(
                id=new_id("dst"),
                tenant_id=principal.tenant_id,
                name=name[:MAX_NAME_CHARS],
                format=shape.value,
                content_sha256=digest,
                row_count=len(rows),
                invalid_count=0,
                report=full,
            )
            session.add(dataset)
            session.flush()
            for ordinal, (row, row_sha256) in enumerate(zip(rows, digests, strict=True)):
                stored = DatasetRow(
                    id=new_id("row"),
                    dataset_id=dataset.id,
                    tenant_id=dataset.tenant_id,
                    ordinal=ordinal,
                    line=ordinal + 1,
                    content=row.content,
                    content_sha256=row_sha256,
                    lineage=row.lineage,
                )
                session.add(stored)
                session.flush()
                _add_sources(session, stored.id, row.sources)
            record(
                session,
                tenant_id=principal.tenant_id,
                actor=principal.actor,
                action="dataset.make",
                object_id=dataset.id,
                detail={"name": dataset.name, "rows": len(rows), "format": shape.value},
            )
        return Upload(_view(dataset), True, full)

    def list(self, principal: Principal, *, limit: int = 50, cursor: str | None = None) -> Page[DatasetView]:
        """Newest first."""
        principal.require(Scope.TUNE)
        query = select(Dataset).where(Dataset.tenant_id == principal.tenant_id)
        behind = after_cursor(Dataset.created_at, Dataset.id, cursor)
        if behind is not None:
            query = query.where(behind)
        query = query.order_by(Dataset.created_at.desc(), Dataset.id.desc()).limit(checked_limit(limit) + 1)
        with self._db.read() as session:
            found = session.scalars(query).all()
            closed = sets_with_hidden_rows(session, principal, [dataset.id for dataset in found])
            return cut_page([_shown(dataset, dataset.id in closed) for dataset in found], limit)

    def get(self, principal: Principal, dataset_id: str) -> DatasetView:
        """One dataset.

        Raises:
            NotFound: there is none in this tenant.
        """
        principal.require(Scope.TUNE)
        with self._db.read() as session:
            dataset = _find(session.get(Dataset, dataset_id), principal, dataset_id)
            return _shown(dataset, bool(sets_with_hidden_rows(session, principal, [dataset_id])))

    def quality(self, principal: Principal, dataset_id: str) -> dict[str, Any]:
        """Flags of a set's rows (`tuning.datasets.quality`), worked out at the first call and kept.

        Who may not read all rows gets the flags of those that it may read, worked out anew.

        Raises:
            NotFound: there is none in this tenant.
        """
        principal.require(Scope.TUNE)
        with self._db.read() as session:
            dataset = _find(session.get(Dataset, dataset_id), principal, dataset_id)
            closed = bool(sets_with_hidden_rows(session, principal, [dataset_id]))
            if dataset.quality is not None and not closed:
                return dataset.quality
            rows = session.execute(
                select(DatasetRow.line, DatasetRow.content)
                .where(DatasetRow.dataset_id == dataset_id, rows_readable(session, principal))
                .order_by(DatasetRow.ordinal)
            )
            report = quality_report([(line, content) for line, content in rows])
            if closed:
                return report
        with self._db.write() as session:
            session.get_one(Dataset, dataset_id).quality = report
        return report

    def rows(
        self, principal: Principal, dataset_id: str, *, limit: int = 50, cursor: str | None = None
    ) -> Page[RowView]:
        """Valid rows that the caller may read, in file order; retired ones say so."""
        principal.require(Scope.TUNE)
        after = _read_ordinal(cursor)
        with self._db.read() as session:
            _find(session.get(Dataset, dataset_id), principal, dataset_id)
            query = (
                select(DatasetRow)
                .where(DatasetRow.dataset_id == dataset_id, rows_readable(session, principal))
                .where(DatasetRow.ordinal > after)
                .order_by(DatasetRow.ordinal)
                .limit(checked_limit(limit) + 1)
            )
            found = [_row_view(row) for row in session.scalars(query)]
        items = found[:limit]
        return Page(items, str(items[-1].ordinal) if len(found) > limit else None)

    def _by_content(self, tenant_id: str, digest: str) -> DatasetView | None:
        with self._db.read() as session:
            found = session.scalar(
                select(Dataset).where(Dataset.tenant_id == tenant_id, Dataset.content_sha256 == digest)
            )
            return _view(found) if found is not None else None


def _shown(dataset: Dataset, closed: bool) -> DatasetView:
    """A set as one sees it who may not read all of its rows: what its report quotes of them is left out."""
    view = _view(dataset)
    quoting = ("left_out", "invalid", "named")
    return (
        replace(view, report={**view.report, **{key: [] for key in quoting if key in view.report}}) if closed else view
    )


def _find(dataset: Dataset | None, principal: Principal, dataset_id: str) -> Dataset:
    if dataset is None or dataset.tenant_id != principal.tenant_id:
        raise NotFound(f"no dataset {dataset_id!r}")
    return dataset


def _read_ordinal(cursor: str | None) -> int:
    if cursor is None:
        return -1
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 9:
        raise InvalidInput("`cursor` must be the `next_cursor` of an earlier page", code="invalid_cursor")
    return int(cursor)


def _insert_rows(session: WriteSession, dataset: Dataset, parsed: ParsedDataset, filename: str) -> None:
    now = utc_now()
    documents = _named_documents(session, dataset.tenant_id, parsed)
    values, sources = [], []
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
    session.execute(insert(DatasetRow), values)
    for row_id, named in sources:
        _add_sources(session, row_id, named)


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


def _add_sources(session: WriteSession, row_id: str, sources: Iterable[Source]) -> None:
    for source in {(one.kind, one.id): one for one in sources}.values():
        session.add(RowSource(row_id=row_id, kind=source.kind.value, source_id=source.id, generation=source.generation))


def _report(parsed: ParsedDataset) -> dict[str, Any]:
    lines: dict[str, list[int]] = defaultdict(list)
    for row in parsed.invalid:
        lines[row.code].append(row.line)
    details = [{"line": row.line, "code": row.code, "detail": row.detail} for row in parsed.invalid]
    return {
        "encoding": parsed.encoding,
        "languages": parsed.languages,
        "invalid": details[:MAX_INVALID_DETAILS],
        "invalid_lines": dict(lines),
        "duplicates": [{"line": line, "of": first} for line, first in parsed.duplicates],
        "grounded_count": sum("passages" in row.content for row in parsed.rows),
        "tool_count": sum(any("tool_calls" in turn for turn in row.content["messages"]) for row in parsed.rows),
    }


def _view(dataset: Dataset) -> DatasetView:
    return DatasetView(
        id=dataset.id,
        name=dataset.name,
        format=dataset.format,
        content_sha256=dataset.content_sha256,
        source_sha256=dataset.source_sha256,
        row_count=dataset.row_count,
        invalid_count=dataset.invalid_count,
        report=dataset.report,
        created_at=dataset.created_at,
    )


def _row_view(row: DatasetRow) -> RowView:
    return RowView(
        id=row.id,
        ordinal=row.ordinal,
        line=row.line,
        content=row.content,
        content_sha256=row.content_sha256,
        lineage=row.lineage,
        retired_at=row.retired_at,
        retired_reason=row.retired_reason,
    )
