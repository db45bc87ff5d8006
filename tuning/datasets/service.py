"""Training sets of a tenant: upload, list, read. A set never changes; the same valid rows again are the same set."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from core.access import Principal
from core.audit import record
from core.contents import Content, sha256_of
from core.database import Database, WriteSession
from core.errors import Conflict, InvalidInput, NotFound, Unavailable
from core.language import language_of
from core.paging import Page, checked_limit, cut_page, newest_page
from core.ports import BlobStore
from core.repositories.blob_use import drop_unused, storing
from core.repositories.derived import rows_readable, sets_with_hidden_rows
from core.repositories.erasures import any_erased
from core.repositories.lineage import SourceKind
from core.tables.base import new_id
from core.tables.datasets import Dataset, DatasetRow
from core.types import Scope
from generation.adapters.registry import check_family_name
from tuning.datasets.fitness import fitness
from tuning.datasets.formats import DatasetFormat
from tuning.datasets.parse import MAX_INVALID_DETAILS, ParsedDataset, parse, row_digest
from tuning.datasets.quality import quality_report
from tuning.datasets.storing import MadeRow, add_sources, insert_rows
from tuning.datasets.upkeep import change, remove
from tuning.datasets.views import DatasetView, RowView, dataset_views, row_view, without_quotes

log = structlog.stdlib.get_logger(__name__)

MAX_NAME_CHARS = 200


@dataclass(frozen=True, slots=True)
class Upload:
    """Answer to an upload. `report` is that of *this* file, also when its rows were known already."""

    dataset: DatasetView
    created: bool
    report: dict[str, Any]
    warnings: list[dict[str, str]] = field(default_factory=list)
    """[{code, detail}] of the set, and of what the upload asked for and did not get."""


class DatasetService:
    """Datasets through the eyes of a principal; what belongs to another tenant does not exist."""

    def __init__(self, db: Database, blobs: BlobStore, default_family: str = "house") -> None:
        """default_family: whose sets are those that nobody gave to another (`tuning.default_family`)."""
        self._db = db
        self._blobs = blobs
        self._default_family = default_family

    def upload(
        self,
        principal: Principal,
        data: Content,
        filename: str,
        name: str | None = None,
        family: str | None = None,
        *,
        folder: Path | None = None,
    ) -> Upload:
        """Validate a file row by row and store its valid rows, for the runs of a family.

        folder: where rows wait once they are many; None: where temporary files of this machine go.

        Raises:
            DatasetRejected: nothing of the file can be used; `code` says why, `errors` names lines.
            InvalidInput: the name is empty or too long, or the family's name cannot be one.
        """
        principal.require(Scope.TUNE)
        self._family(family)
        title = (name or filename or "dataset").strip()
        if not title or len(title) > MAX_NAME_CHARS:
            raise InvalidInput(f"a dataset's name has 1 to {MAX_NAME_CHARS} characters", code="invalid_name")
        parsed = parse(data, folder)
        with closing(parsed.rows):
            return self._store(principal, data, parsed, filename=filename, title=title, family=family)

    def add_rows(
        self,
        principal: Principal,
        shape: DatasetFormat,
        rows: Sequence[MadeRow],
        *,
        name: str,
        report: dict[str, Any],
        family: str | None = None,
    ) -> Upload:
        """Store rows that the service made as a set of its own; the same rows again are the same set."""
        principal.require(Scope.TUNE)
        belongs_to = self._family(family)
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
            return _known(known, report, family)
        languages = Counter(
            language_of(row.content.get("chosen") or row.content["messages"][-1]["content"]).value for row in rows
        )
        full = {"languages": dict(sorted(languages.items())), "invalid": [], "invalid_lines": {}, **report}
        full |= fitness(row.content for row in rows)
        with self._db.write() as session:
            read = {source.id for row in rows for source in row.sources if source.kind is SourceKind.DOCUMENT}
            if any_erased(session, read):
                raise Conflict("a document that the rows were made of was erased meanwhile", code="document_erased")
            dataset = Dataset(
                id=new_id("dst"),
                tenant_id=principal.tenant_id,
                name=name[:MAX_NAME_CHARS],
                family=belongs_to,
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
                add_sources(session, stored.id, row.sources)
            record(
                session,
                tenant_id=principal.tenant_id,
                actor=principal.actor,
                action="dataset.make",
                object_id=dataset.id,
                detail={"name": dataset.name, "rows": len(rows), "format": shape.value},
            )
        return self._made(dataset, full)

    def list(
        self, principal: Principal, *, family: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[DatasetView]:
        """Newest first, of one family or of all."""
        principal.require(Scope.TUNE)
        query = select(Dataset).where(Dataset.tenant_id == principal.tenant_id, Dataset.deleted_at.is_(None))
        if family is not None:
            query = query.where(Dataset.family == family)
        query = newest_page(query, Dataset, cursor, limit)
        with self._db.read() as session:
            found = session.scalars(query).all()
            closed = sets_with_hidden_rows(session, principal, [dataset.id for dataset in found])
            views = dataset_views(session, found)
            return cut_page([without_quotes(one) if one.id in closed else one for one in views], limit)

    def get(self, principal: Principal, dataset_id: str) -> DatasetView:
        """One dataset.

        Raises:
            NotFound: there is none in this tenant.
        """
        principal.require(Scope.TUNE)
        with self._db.read() as session:
            dataset = _find(session.get(Dataset, dataset_id), principal, dataset_id)
            (view,) = dataset_views(session, [dataset])
            return without_quotes(view) if sets_with_hidden_rows(session, principal, [dataset_id]) else view

    def change(
        self,
        principal: Principal,
        dataset_id: str,
        *,
        family: str | None = None,
        retired: bool | None = None,
        reason: str | None = None,
        request_id: str | None = None,
    ) -> DatasetView:
        """Give a set to another family, take it out of force or back into it; None leaves a thing as it is.

        Raises:
            NotFound: there is none in this tenant, or it holds rows that the caller may not read.
            InvalidInput: `invalid_family`.
        """
        principal.require(Scope.TUNE)
        if family is not None:
            check_family_name(family)
        with self._db.write() as session:
            dataset = _changeable(session, principal, dataset_id)
            change(session, principal, dataset, family=family, retired=retired, reason=reason, request_id=request_id)
        return self.get(principal, dataset_id)

    def delete(self, principal: Principal, dataset_id: str, *, request_id: str | None = None) -> None:
        """Delete a set with its rows and its file; what runs saw of it is kept without its text.

        Raises:
            NotFound: there is none in this tenant, or it holds rows that the caller may not read.
            Conflict: `dataset_in_use`: a run that has not ended takes it.
        """
        principal.require(Scope.TUNE)
        with self._db.write() as session:
            dataset = _changeable(session, principal, dataset_id)
            source = remove(session, principal, dataset, request_id)
        try:
            drop_unused(self._db, self._blobs, [source] if source else [])
        except Unavailable as error:  # the set is gone all the same; the checkup finds its file
            log.warning("datasets.file_left", dataset_id=dataset_id, digest=source, reason=error.code)

    def quality(self, principal: Principal, dataset_id: str) -> dict[str, Any]:
        """Flags of a set's rows in force (`tuning.datasets.quality`), kept until one of them is retired.

        Who may not read all rows gets the flags of those that it may read, worked out anew.

        Raises:
            NotFound: there is none in this tenant.
        """
        principal.require(Scope.TUNE)
        with self._db.read() as session:
            dataset = _find(session.get(Dataset, dataset_id), principal, dataset_id)
            closed = bool(sets_with_hidden_rows(session, principal, [dataset_id]))
            in_force = [DatasetRow.dataset_id == dataset_id, DatasetRow.retired_at.is_(None)]
            count = session.scalar(select(func.count()).where(*in_force))
            if dataset.quality is not None and not closed and dataset.quality.get("rows") == count:
                return dataset.quality
            rows = session.execute(
                select(DatasetRow.line, DatasetRow.content)
                .where(*in_force, rows_readable(session, principal))
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
            found = [row_view(row) for row in session.scalars(query)]
        items = found[:limit]
        return Page(items, str(items[-1].ordinal) if len(found) > limit else None)

    def _store(
        self,
        principal: Principal,
        data: Content,
        parsed: ParsedDataset,
        *,
        filename: str,
        title: str,
        family: str | None,
    ) -> Upload:
        report = _report(parsed)
        source = sha256_of(data)
        known = self._by_content(principal.tenant_id, parsed.digest)
        if known is not None:
            return _known(known, report, family)
        try:
            with storing(self._db, self._blobs, [data]) as still_held, self._db.write() as session:
                dataset = Dataset(
                    id=new_id("dst"),
                    tenant_id=principal.tenant_id,
                    name=title,
                    family=family or self._default_family,
                    format=parsed.format.value,
                    content_sha256=parsed.digest,
                    source_sha256=source,
                    row_count=len(parsed.rows),
                    invalid_count=len(parsed.invalid),
                    report=report,
                )
                session.add(dataset)
                session.flush()
                insert_rows(session, dataset, parsed, filename)
                record(
                    session,
                    tenant_id=principal.tenant_id,
                    actor=principal.actor,
                    action="dataset.upload",
                    object_id=dataset.id,
                    detail={"name": title, "rows": len(parsed.rows), "invalid": len(parsed.invalid), "source": source},
                )
                still_held()
        except IntegrityError:  # the same rows were uploaded at the same moment
            known = self._by_content(principal.tenant_id, parsed.digest)
            if known is None:
                raise
            return _known(known, report, family)
        return self._made(dataset, report)

    def _by_content(self, tenant_id: str, digest: str) -> DatasetView | None:
        with self._db.read() as session:
            found = session.scalar(
                select(Dataset).where(Dataset.tenant_id == tenant_id, Dataset.content_sha256 == digest)
            )
            return dataset_views(session, [found])[0] if found is not None else None

    def _family(self, given: str | None) -> str:
        if given is not None:
            check_family_name(given)
        return given or self._default_family

    def _made(self, dataset: Dataset, report: dict[str, Any]) -> Upload:
        with self._db.read() as session:
            (view,) = dataset_views(session, [dataset])
        return Upload(view, True, report, view.warnings)


def _known(known: DatasetView, report: dict[str, Any], family: str | None) -> Upload:
    """The answer to rows that are here already; the set stays as it is, and what was asked for otherwise is told."""
    warnings = list(known.warnings)
    if family is not None and family != known.family:
        detail = f"these rows are a set of the family '{known.family}' already; change its `family` to move it"
        warnings.append({"code": "other_family", "detail": detail})
    if known.retired_at is not None:
        detail = "these rows are a set that was retired; set `retired` to false to train on it again"
        warnings.append({"code": "dataset_retired", "detail": detail})
    return Upload(known, False, report, warnings)


def _find(dataset: Dataset | None, principal: Principal, dataset_id: str) -> Dataset:
    if dataset is None or dataset.tenant_id != principal.tenant_id or dataset.deleted_at is not None:
        raise NotFound(f"no dataset {dataset_id!r}")
    return dataset


def _changeable(session: WriteSession, principal: Principal, dataset_id: str) -> Dataset:
    dataset = _find(session.get(Dataset, dataset_id, with_for_update=True), principal, dataset_id)
    if sets_with_hidden_rows(session, principal, [dataset_id]):
        raise NotFound(f"no dataset {dataset_id!r} that this key may change: it holds rows that it may not read")
    return dataset


def _read_ordinal(cursor: str | None) -> int:
    if cursor is None:
        return -1
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 9:
        raise InvalidInput("`cursor` must be the `next_cursor` of an earlier page", code="invalid_cursor")
    return int(cursor)


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
        **fitness(row.content for row in parsed.rows),
        "untrained": parsed.untrained,
        "tool_count": sum(any("tool_calls" in turn for turn in row.content["messages"]) for row in parsed.rows),
    }
