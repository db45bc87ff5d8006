"""What a full service does all the time, at 2,000, 20,000 and 200,000 documents and jobs: none of it may grow.

    python -m benchmarks.flat [--sizes 2000 20000 200000] [--json FILE]

Rows are inserted in bulk into SQLite files: documents with metadata, generations, contents of the index and one passage
each; as many queued jobs, as many ended ones, and delayed messages. Each line is the median of several calls in
milliseconds; `doctor` and `rebuild` are microseconds a document, so flat means that the whole is linear. The exit code
is 1 when a line grows more than fourfold from the first size to the last and costs over 5 ms (or 500 us) there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sqlalchemy import insert, literal, select

from api.metrics import JobCounts
from cli.checkup.documents import check_generations
from core.access import PUBLIC_GROUP, Principal, access_filter
from core.database import Database
from core.document_values import values_of
from core.jobs import JobStore
from core.log import configure
from core.migrate import upgrade
from core.queue import Task
from core.repositories.blob_use import blob_is_used
from core.settings import load_settings
from core.tables import (
    ChunkRow,
    Collection,
    Document,
    DocumentGeneration,
    DocumentGroup,
    IndexContent,
    IndexVersion,
    Job,
    OutboxMessage,
)
from core.tables.base import utc_now
from core.tables.documents import DocumentValue
from core.tenants import create_tenant
from core.types import JobKind, JobStatus, Scope
from ingest.catalogue import DocumentCatalogue
from ingest.rebuild import IndexBuilder
from retrieval.filters import matching_documents, parse_filters

SIZES = (2_000, 20_000, 200_000)
MOST_GROWTH = 4.0
SMALL = {"ms": 5.0, "us": 500.0}
_BATCH = 5_000
_REBUILT = 200
_TENANTS = ("crowded", "quiet")
_TASK = Task.INGEST_DOCUMENT.value


class OneText:
    """A blob store in which every digest is the same text."""

    def get(self, digest: str) -> bytes:
        """The text."""
        return b"passage"

    def copy_to(self, digest: str, path: Path) -> int:
        """Says that it has copied it."""
        return 7


def fill(db: Database, count: int) -> tuple[str, str]:
    """Make `count` documents, queued jobs, ended jobs and delayed messages; (tenant, a queued job)."""
    upgrade(db)
    now = utc_now()
    with db.write() as session:
        tenants = [create_tenant(session, name) for name in _TENANTS]
        collection = session.query(Collection).filter(Collection.tenant_id == tenants[0].id).one()
        version = {"id": "v" * 16, "spec": {}, "config": {}, "chunk_set": "c", "status": "ready", "active": True}
        session.execute(insert(IndexVersion), [version])
        tenant_id, collection_id = tenants[0].id, collection.id

    def rows(table: Any, one: Callable[[int], Mapping[str, Any]]) -> None:
        for first in range(0, count, _BATCH):
            with db.write() as session:
                session.execute(insert(table), [dict(one(n)) for n in range(first, min(first + _BATCH, count))])

    def metadata(n: int) -> dict[str, Any]:
        return {
            "department": f"dept-{n % 50}",
            "number": n,
            "issued": f"{2000 + n % 25}-{1 + n % 12:02}-01",
            "tags": [f"tag-{n // 3}", "all"],
        }

    rows(Document, lambda n: {
        "id": f"doc_{n:09}", "tenant_id": tenant_id, "collection_id": collection_id, "external_id": f"e{n}",
        "filename": f"{n}.txt", "status": "ready", "metadata_": metadata(n), "active_generation": 1,
        "created_at": now + timedelta(milliseconds=n),
    })  # fmt: skip
    rows(DocumentGroup, lambda n: {"document_id": f"doc_{n:09}", "group_name": PUBLIC_GROUP})
    rows(DocumentGeneration, lambda n: {
        "document_id": f"doc_{n:09}", "generation": 1, "tenant_id": tenant_id, "source_sha256": f"{n:064x}",
        "filename": f"{n}.txt", "byte_size": 7, "text_sha256": f"f{n:063x}", "chunk_count": 1, "quality": {},
    })  # fmt: skip
    rows(IndexContent, lambda n: {
        "version_id": "v" * 16, "document_id": f"doc_{n:09}", "generation": 1, "chunk_count": 1
    })  # fmt: skip
    rows(ChunkRow, lambda n: {
        "id": f"{n:036x}", "tenant_id": tenant_id, "document_id": f"doc_{n:09}", "generation": 1, "ordinal": 0,
        "chunk_set": "c", "start": 0, "end": 7, "text": "passage", "token_count": 1,
    })  # fmt: skip
    for first in range(0, count, _BATCH):
        with db.write() as session:
            of_them = [row for n in range(first, min(first + _BATCH, count))
                       for row in values_of(f"doc_{n:09}", tenant_id, metadata(n))]  # fmt: skip
            session.execute(insert(DocumentValue), of_them)

    def job(name: str, status: JobStatus, n: int) -> dict[str, Any]:
        return {
            "id": f"job_{name}{n:09}", "tenant_id": tenants[n % 100 == 0].id, "kind": JobKind.INGEST.value,
            "status": status.value, "subject_id": f"doc_{n:09}", "task": _TASK, "arguments": {}, "attempts_log": [],
            "created_at": now + timedelta(milliseconds=n), "sent_at": now,
        }  # fmt: skip

    rows(Job, lambda n: job("q", JobStatus.QUEUED, n))
    rows(Job, lambda n: job("e", JobStatus.SUCCEEDED, n))
    later = now + timedelta(days=1)
    rows(Job, lambda n: {**job("w", JobStatus.QUEUED, n), "not_before": later, "created_at": now - timedelta(days=1)})
    rows(OutboxMessage, lambda n: {
        "id": f"msg_{n:09}", "task": _TASK, "arguments": {"job_id": f"job_w{n:09}"}, "queue": "ingest",
        "created_at": now, "not_before": later,
    })  # fmt: skip
    return tenant_id, "job_q000000000"


def operations(db: Database, tenant_id: str, job_id: str, folder: Path) -> dict[str, Callable[[], Any]]:
    """What a service does again and again, by name."""
    jobs = JobStore(db, load_settings(data_dir=folder), None)
    principal = Principal(tenant_id, "key_1", frozenset({Scope.ADMIN}), frozenset())
    access = access_filter(principal)
    catalogue = DocumentCatalogue(db, OneText())  # type: ignore[arg-type]

    def filtered(filters: dict[str, Any]) -> int:
        with db.read() as session:
            return len(matching_documents(session, access, parse_filters(filters)))

    def used() -> bool:
        with db.read() as session:
            return blob_is_used(session, "0f" * 32)

    return {
        "claim in turn": lambda: jobs.claim_in_turn(job_id),
        "metrics: jobs": JobCounts(db),
        "filter: number": lambda: filtered({"number": 17}),
        "filter: two keys": lambda: filtered({"tags": "tag-7", "department": "dept-21", "number": {"lt": 5_000}}),
        "filter: date, range": lambda: filtered({"issued": {"gte": "2010-01-01"}, "number": {"lt": 50}}),
        "filter: no key": lambda: filtered({"nowhere": "x"}),
        "blob is used": used,
        "next delayed message": jobs.outbox.next_due,
        "dispatch due": jobs.outbox.dispatch_due,
        "sweep": jobs.sweep,
        "list jobs": lambda: jobs.list(tenant_id, status=JobStatus.QUEUED),
        "list failed jobs": lambda: jobs.list(tenant_id, status=JobStatus.FAILED, error_code="x"),
        "list documents": lambda: catalogue.list(principal),
    }  # fmt: skip


def measured(db: Database, count: int, tenant_id: str, job_id: str, folder: Path) -> Iterator[tuple[str, str, float]]:
    """(operation, unit, cost)."""
    for name, call in operations(db, tenant_id, job_id, folder).items():
        times = []
        for _ in range(7):
            begun = perf_counter()
            call()
            times.append(perf_counter() - begun)
        yield name, "ms", statistics.median(times) * 1_000
    begun = perf_counter()
    examine(db)
    yield "doctor", "us", (perf_counter() - begun) / count * 1e6
    yield "rebuild", "us", rebuild(db, folder) * 1e6


def examine(db: Database) -> None:
    """Look at every document as `doctor` does, the blobs aside."""
    examination: Any = SimpleNamespace(db=db, blobs=OneText())
    found = list(check_generations(examination))
    assert not found, found[:3]


def rebuild(db: Database, folder: Path, measure: Callable[[], float] = perf_counter) -> float:
    """What a document costs when an index version gets its last ones, without cutting and embedding."""
    with db.write() as session:
        last = session.scalars(select(Document.id).order_by(Document.id.desc()).limit(_REBUILT)).all()
        session.add(IndexVersion(id="w" * 16, spec={}, config={}, chunk_set="d", status="building"))
        session.flush()
        columns = (IndexContent.document_id, IndexContent.generation, IndexContent.chunk_count)
        rest = select(literal("w" * 16), *columns).where(IndexContent.document_id < last[-1])
        session.execute(insert(IndexContent).from_select(["version_id", *(c.name for c in columns)], rest))
    nothing: Any = SimpleNamespace(live=lambda: [])
    index = SimpleNamespace(flush=lambda: None, flush_soon=lambda: None)
    version: Any = SimpleNamespace(id="w" * 16, chunk_set="d", index=index)
    builder = IndexBuilder(db, OneText(), nothing, load_settings(data_dir=folder))  # type: ignore[arg-type]
    with patch("ingest.rebuild.write_document", lambda *_args, **_options: 1):
        steps: list[float] = []
        builder.fill(version, lambda _done: steps.append(measure()))
    return (steps[-1] - steps[0]) / len(last)


def main(argv: list[str] | None = None) -> int:
    """Print a line an operation, a column a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    configure("WARNING")
    costs: dict[str, list[float]] = {}
    units: dict[str, str] = {}
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            db = Database(f"sqlite:///{folder / 'flat.db'}")
            for operation, units[operation], cost in measured(db, size, *fill(db, size), folder):
                costs.setdefault(operation, []).append(cost)
            db.close()
    print(f"{'':24}" + "".join(f"{size:>12,}" for size in arguments.sizes))
    grown = []
    for operation, line in costs.items():
        unit = units[operation]
        bad = line[-1] > MOST_GROWTH * line[0] and line[-1] > SMALL[unit]
        grown += [operation] * bad
        print(f"{operation:24}" + "".join(f"{cost:>9.2f} {unit}" for cost in line) + ("  grows" if bad else ""))
    if arguments.json:
        found = {"sizes": list(arguments.sizes), "costs": costs, "units": units}
        arguments.json.write_text(json.dumps(found, indent=1))
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
