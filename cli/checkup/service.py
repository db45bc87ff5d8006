"""The database itself, the index against it, jobs that nobody works on, and what crashes leave in folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, select, text

from cli.checkup.finding import Examination, Finding, Repair
from cli.data_dir import read_service_note, remove_service_note
from cli.redis_child import socket_dir
from core.database import Database
from core.migrate import current_revision, newest_revision, upgrade
from core.ports import PlacesTenants
from core.settings import Settings
from core.tables import IndexVersion, Job, TuningRun
from core.tenants import tenants_apart
from core.types import JobStatus
from ingest.vectors import passage_vectors
from retrieval.opening import collection_of
from retrieval.reconcile import reconcile
from retrieval.sampled import WANTED_RECALL, sampled_recall

FOLDERS = ("blobs", "index", "adapters", "models", "runs", "redis", "tmp", "logs")
LEFTOVERS = (".new-*", ".backup-*", ".restore-*", ".service.json.new", "blobs/*/.new-*", "tmp/*/*", "models/.*")
"""Work files that live only while something is being written, below the data dir."""


def check_folders(settings: Settings) -> Iterator[Finding]:
    """Every folder below the data dir that the service writes to can be read and written by this user."""
    for name in FOLDERS:
        folder = settings.data_dir / name
        if folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            own = folder.stat().st_uid == os.geteuid() and not _mounted_read_only(folder)
            problem = "cannot be read and written by this user, as it is or as it is mounted"
            yield Finding("folders", name, problem, _open_up(folder) if own else None)


def _open_up(folder: Path) -> Repair:
    return lambda: folder.chmod(0o700)


def _mounted_read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def check_database(db: Database) -> Iterator[Finding]:
    """The database's own view of itself, and whether the schema is the one this code knows."""
    with db.engine.connect() as connection:
        yield from _sqlite_problems(connection) if db.is_sqlite else _postgres_problems(connection)
    revision, newest = current_revision(db), newest_revision()
    if revision != newest:
        yield Finding("database", "schema", f"is at {revision}, this version needs {newest}", lambda: upgrade(db))


def _sqlite_problems(connection: Connection) -> Iterator[Finding]:
    for (problem,) in connection.execute(text("PRAGMA integrity_check")):
        if problem != "ok":
            yield Finding("database", "integrity", f"{problem}; restore a backup")
    for row in connection.execute(text("PRAGMA foreign_key_check")).mappings():
        yield Finding("database", str(row["table"]), f"row {row['rowid']} points to a missing {row['parent']}")


def _postgres_problems(connection: Connection) -> Iterator[Finding]:
    """PostgreSQL keeps rows and references whole itself; an index whose building broke off it keeps, unused."""
    broken = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
    for name in connection.scalars(text(broken)):
        yield Finding("database", str(name), f"this index is not valid; run REINDEX INDEX {name}")
    unproven = "SELECT conrelid::regclass::text || '.' || conname FROM pg_constraint WHERE NOT convalidated"
    for name in connection.scalars(text(unproven)):
        yield Finding("database", str(name), "this constraint was never validated")


def connected_processes(db: Database) -> int:
    """Connections of our other processes to a server's database."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'tsumugi' AND pid <> pg_backend_pid()"
    )
    with db.engine.connect() as connection:
        return int(connection.scalar(text(query)) or 0)


def check_index(examination: Examination) -> Iterator[Finding]:
    """Points of the index equal chunks in SQL, generation by generation."""
    report = reconcile(examination.db, examination.retrieval, repair=False)
    if not report.clean:
        yield Finding("index", examination.retrieval.index_version, str(report), _reconcile(examination))


def check_collections(examination: Examination) -> Iterator[Finding]:
    """No collection of ours on a Qdrant server without an index version: a drop that was cut off left it."""
    settings = examination.settings
    if settings.retrieval.index != "qdrant":
        return
    from retrieval.index.collections import collections, drop_collection

    with examination.db.read() as session:
        known = {collection_of(settings.qdrant, key) for key in session.scalars(select(IndexVersion.id))}
    for name, points in collections(settings.qdrant).items():
        if name not in known:
            problem = f"a collection of {points} points that belongs to no index version"
            yield Finding("index", name, problem, lambda name=name: drop_collection(settings.qdrant, name))  # type: ignore[misc]


def check_tenant_shards(examination: Examination) -> Iterator[Finding]:
    """On a Qdrant cluster, tenants with a shard of their own are those that are to have one, and are there alone."""
    wanted = set(tenants_apart(examination.db))
    for version in examination.retrieval.live():
        index = version.index
        if not isinstance(index, PlacesTenants) or not index.keeps_apart:
            continue
        found = {shard.tenant_id: shard for shard in index.tenant_shards()}
        for tenant in sorted(wanted | set(found)):
            shard = found.get(tenant)
            if shard is None:
                problem = "is to have a shard of its own and is in the shared one"
            elif tenant not in wanted:
                problem = "has a shard of its own and is to share one"
            elif not shard.serves:
                problem = "has a shard of its own that was not filled: the shared one answers"
            elif shard.left:
                problem = f"left {shard.left} points in the shared shard when it moved to its own"
            else:
                continue
            yield Finding("shards", f"{tenant} in {version.id}", problem, _place(index, wanted))


def check_recall(examination: Examination) -> Iterator[Finding]:
    """Passages of this system, asked for by their own vectors: the index finds what exact search finds."""
    share, asked = sampled_recall(examination.db, examination.retrieval.active)
    if asked and share < WANTED_RECALL:
        problem = f"finds {share:.3f} of what exact search finds, over {asked} searches; "
        problem += "widen qdrant.hnsw_ef, or raise qdrant.m and qdrant.ef_construct"
        yield Finding("index", examination.retrieval.index_version, problem)


def check_jobs(examination: Examination) -> Iterator[Finding]:
    """No job can be running: the service is stopped. The next start would queue them again as well."""
    with examination.db.read() as session:
        running = session.scalars(select(Job).where(Job.status == JobStatus.RUNNING.value).order_by(Job.id)).all()
    for job in running:
        problem = f"{job.kind} of {job.subject_id} is marked running, but its worker is gone"
        yield Finding("jobs", job.id, problem, _recover(examination))


def check_leftovers(examination: Examination) -> Iterator[Finding]:
    """Work files and folders without an owner."""
    data_dir = examination.settings.data_dir
    for pattern in LEFTOVERS:
        for path in sorted(data_dir.glob(pattern)):
            yield Finding(
                "leftovers", str(path.relative_to(data_dir)), "was being written when it stopped", _drop(path)
            )
    with examination.db.read() as session:
        runs = set(session.scalars(select(TuningRun.id)))
    for path in sorted(examination.settings.runs_dir.glob("*")):
        if path.name not in runs:
            yield Finding("leftovers", f"runs/{path.name}", "belongs to no tuning run", _drop(path))
    if read_service_note(data_dir) is not None:
        problem = "names a service that did not stop cleanly"
        yield Finding("leftovers", "service.json", problem, lambda: remove_service_note(data_dir))
    folder = socket_dir(data_dir)
    if folder.exists():
        yield Finding("leftovers", str(folder), "socket folder of a service that was killed", _drop(folder))


def _place(index: PlacesTenants, wanted: set[str]) -> Repair:
    return lambda: index.place(wanted, lambda _done: None)


def _reconcile(examination: Examination) -> Repair:
    def repair() -> None:
        reconcile(examination.db, examination.retrieval, repair=True, embed=passage_vectors)

    return repair


def _recover(examination: Examination) -> Repair:
    def repair() -> None:
        examination.jobs.recover_orphans()

    return repair


def _drop(path: Path) -> Repair:
    def repair() -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    return repair
