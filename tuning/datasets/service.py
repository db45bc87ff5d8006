"""Training sets of a tenant: upload, list, read. A set never changes; the same valid rows again are the same set."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from core.access import Principal
from core.audit import record
from core.database import Database, WriteSession
from core.errors import InvalidInput, NotFound
from core.paging import Page, after_cursor, checked_limit, cut_page
from core.ports import BlobStore
from core.tables.base import new_id, utc_now
from core.tables.datasets import Dataset, DatasetRow
from core.types import Scope
from tuning.datasets.parse import ParsedDataset, parse

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
    source_sha256: str
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

    def list(self, principal: Principal, *, limit: int = 50, cursor: str | None = None) -> Page[DatasetView]:
        """Newest first."""
        principal.require(Scope.TUNE)
        query = select(Dataset).where(Dataset.tenant_id == principal.tenant_id)
        behind = after_cursor(Dataset.created_at, Dataset.id, cursor)
        if behind is not None:
            query = query.where(behind)
        query = query.order_by(Dataset.created_at.desc(), Dataset.id.desc()).limit(checked_limit(limit) + 1)
        with self._db.read() as session:
            return cut_page([_view(dataset) for dataset in session.scalars(query)], limit)

    def get(self, principal: Principal, dataset_id: str) -> DatasetView:
        """One dataset.

        Raises:
            NotFound: there is none in this tenant.
        """
        principal.require(Scope.TUNE)
        with self._db.read() as session:
            return _view(_find(session.get(Dataset, dataset_id), principal, dataset_id))

    def rows(
        self, principal: Principal, dataset_id: str, *, limit: int = 50, cursor: str | None = None
    ) -> Page[RowView]:
        """Valid rows in file order; retired ones say so."""
        principal.require(Scope.TUNE)
        after = _read_ordinal(cursor)
        with self._db.read() as session:
            _find(session.get(Dataset, dataset_id), principal, dataset_id)
            query = (
                select(DatasetRow)
                .where(DatasetRow.dataset_id == dataset_id, DatasetRow.tenant_id == principal.tenant_id)
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
    values = [
        {
            "id": new_id("row"),
            "dataset_id": dataset.id,
            "tenant_id": dataset.tenant_id,
            "ordinal": ordinal,
            "line": row.line,
            "content": row.content,
            "content_sha256": row.digest,
            "lineage": {"source": "upload", "file": filename[:512], "file_sha256": dataset.source_sha256},
            "created_at": now,
        }
        for ordinal, row in enumerate(parsed.rows)
    ]
    session.execute(insert(DatasetRow), values)


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
