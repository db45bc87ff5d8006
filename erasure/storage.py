"""The last bytes: free pages and logs of the database, segments of the index, folders of runs and adapters."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from core.database import Database
from core.errors import Postponed
from core.tables import AdapterVersion, Base, TuningRun
from erasure.rows import ERASED

if TYPE_CHECKING:
    from retrieval.live import Retrieval

log = structlog.stdlib.get_logger(__name__)

_CHECKPOINT_TRIES = 100
_LOCK_TIMEOUT = "10s"


def purge_database(db: Database, pause: Callable[[float], bool], step: Callable[[], None]) -> None:
    """Write the tables anew, so that no page holds what was deleted.

    SQLite: VACUUM, then the log is emptied, which waits for readers of before. PostgreSQL: VACUUM FULL of each table of
    ours, which stands still meanwhile, and of the planner's statistics, which quote values. pause: waits for so many
    seconds, True when this process stops.

    Raises:
        Postponed: `erasure_database_busy`: a reader or a transaction lasts; it is tried again.
    """
    if db.is_sqlite:
        _purge_sqlite(db, pause)
    else:
        _purge_postgres(db, step)


def _purge_sqlite(db: Database, pause: Callable[[float], bool]) -> None:
    raw = db.engine.raw_connection()
    try:
        connection = raw.driver_connection
        assert connection is not None
        connection.execute("VACUUM")
        for _ in range(_CHECKPOINT_TRIES):
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if not busy:
                return
            if pause(0.1):
                break
    finally:
        raw.close()
    raise Postponed("readers hold an old state of the database", code="erasure_database_busy", extra=_SOON)


_SOON = {"retry_after_s": 5}


def _purge_postgres(db: Database, step: Callable[[], None]) -> None:
    """One table after the other, each on its own: a transaction over all would hold every lock until the end."""
    tables = [f'"{table.name}"' for table in Base.metadata.sorted_tables]
    for table in (*tables, "pg_catalog.pg_statistic"):
        step()
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("SET statement_timeout = 0")
            connection.exec_driver_sql(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
            try:
                connection.execute(text(f"VACUUM (FULL, ANALYZE) {table}"))
            except OperationalError as error:
                if "lock timeout" in str(error.orig):
                    raise Postponed(
                        f"a transaction holds the table {table}", code="erasure_database_busy", extra=_SOON
                    ) from error
                raise
            finally:
                connection.exec_driver_sql("RESET statement_timeout")
                connection.exec_driver_sql("RESET lock_timeout")


def purge_index(retrieval: Retrieval, step: Callable[[], None]) -> dict[str, bool]:
    """{index version: whether its storage was written anew}."""
    return {version.id: version.index.purge(step) for version in retrieval.live()}


def folder_digest(folder: Path) -> str | None:
    """SHA-256 over names and contents of all files, links not followed; None where there is no such folder."""
    if not folder.is_dir():
        return None
    whole = hashlib.sha256()
    for path in sorted(_files(folder)):
        with path.open("rb") as file:
            whole.update(f"{path.relative_to(folder)}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def unused_adapters(db: Database, version_ids: Collection[str]) -> list[str]:
    """Digests of versions that are to go, without those which another version, of any tenant, has as well."""
    with db.read() as session:
        rows = session.execute(select(AdapterVersion.id, AdapterVersion.digest)).all()
    kept = {digest for version_id, digest in rows if version_id not in version_ids}
    return sorted({digest for version_id, digest in rows if version_id in version_ids} - kept)


def remove_folders(root: Path, names: Iterable[str]) -> None:
    """Remove folders of a place, those that are there."""
    for name in names:
        folder = root / name
        if folder.is_dir() and folder.resolve().parent == root.resolve():
            shutil.rmtree(folder)


def drop_run_folders(db: Database, runs_dir: Path) -> list[str]:
    """Remove work folders on this machine of runs that were erased, or whose files are past their time, or that are
    gone with their tenant; returns their names. Called wherever runs leave files: machines need not share a disk.
    """
    if not runs_dir.is_dir():
        return []
    present = sorted(path.name for path in runs_dir.iterdir() if path.is_dir() and path.name.startswith("run_"))
    if not present:
        return []
    kept: set[str] = set()
    with db.read() as session:
        for start in range(0, len(present), 500):
            some = TuningRun.id.in_(present[start : start + 500])
            for run_id, progress in session.execute(select(TuningRun.id, TuningRun.progress).where(some)):
                if ERASED not in progress and not progress.get(FILES_DROPPED):
                    kept.add(run_id)
    gone = [name for name in present if name not in kept]
    remove_folders(runs_dir, gone)
    if gone:
        log.info("runs.folders_removed", count=len(gone))
    return gone


FILES_DROPPED = "files_dropped"
"""Mark in a run's progress: its files are past `retention.run_files_days`."""
