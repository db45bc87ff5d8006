"""Brings a database to the newest schema. The migrations travel in the wheel, so an installed service can do it."""

from __future__ import annotations

import fcntl
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import Connection, Engine, Index, create_engine, event, inspect, text
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateIndex, DropIndex

from core.database import Database
from core.tables import Base

if TYPE_CHECKING:  # a start with nothing to migrate does without
    from alembic.config import Config

log = structlog.stdlib.get_logger(__name__)

_POSTGRES_LOCK = 7_305_146_009
"""Any fixed number: the advisory lock that keeps two starting processes from migrating at once."""

_STARTING_LOCK = _POSTGRES_LOCK + 1
_INDEX_LOCK = _POSTGRES_LOCK + 2
_ASK_AGAIN_S = 0.1


_LARGE = (
    ("documents", "sqlite_autoindex_documents_1", "100000 1"),
    ("documents", "sqlite_autoindex_documents_2", "100000 50000 20000 1"),
    ("documents", "ix_documents_tenant_id", "100000 50000"),
    ("documents", "ix_documents_tenant_status", "100000 50000 40000"),
    ("documents", "ix_documents_collection_id", "100000 20000"),
    ("documents", "ix_documents_family", "100000 20000 2"),
    ("documents", "ix_documents_supersedes", "100000 2"),
    ("documents", "ix_documents_listed", "100000 50000 2 1"),
    ("documents", "ix_documents_created_at", "100000 2"),
    ("document_values", "document_values", "1000000 200000 100 1"),
    ("document_values", "ix_document_values_document", "1000000 5 1"),
    ("document_values", "ix_document_values_number", "200000 100000 2"),
    ("document_values", "ix_document_values_moment", "200000 100000 100"),
    ("jobs", "sqlite_autoindex_jobs_1", "1000000 1"),
    ("jobs", "ix_jobs_status_heartbeat", "1000000 200000 100000"),
    ("jobs", "ix_jobs_tenant_created", "1000000 500000 2"),
    ("jobs", "ix_jobs_listed", "1000000 500000 100000 2 1"),
    ("jobs", "ix_jobs_subject_id", "1000000 5"),
    ("jobs", "ix_jobs_kind_status", "1000000 500000 100000"),
    ("jobs", "ix_jobs_created_at", "1000000 2"),
    ("jobs", "ix_jobs_turn", "100000 50000 20000 5000 1 1"),
    ("jobs", "ix_jobs_delayed", "100000 50000 20000 2"),
    ("jobs", "ix_jobs_sent", "100000 50000 2 1"),
    ("chunks", "sqlite_autoindex_chunks_1", "2000000 1"),
    ("chunks", "ix_chunks_tenant_id", "2000000 1000000"),
    ("chunks", "ix_chunks_chunk_set", "2000000 1000000"),
    ("chunks", "ix_chunks_document_generation", "2000000 20 20"),
)
"""(table, index, "rows, rows of one value of its first column, of its first two ..."), as `ANALYZE` writes them."""


def upgrade(db: Database, revision: str = "head") -> None:
    """Run the missing migrations, alone, in one transaction; PostgreSQL's large indexes come after it, concurrently."""
    with connected(db) as connection:
        before = after = _revision_of(connection)
        if before != (newest_revision() if revision == "head" else revision):
            from alembic import command

            command.upgrade(_config(connection), revision)
            after = _revision_of(connection)
        if not db.is_sqlite and revision == "head":
            _forget_foreign_positions(connection)
        if db.is_sqlite and after is not None:
            _plan_as_for_many_rows(connection)
    if not db.is_sqlite and revision == "head":
        build_large_indexes(db)
    if before != after:
        log.info("database.migrated", revision_before=before, revision=after)


LARGE_INDEXES = (
    "ix_audit_tenant_position",
    "ix_document_generations_text_sha256",
    "ix_documents_listed",
    "ix_jobs_delayed",
    "ix_jobs_kind_status",
    "ix_jobs_listed",
    "ix_jobs_sent",
    "ix_jobs_turn",
)
"""Indexes of tables that grow without end. Their migrations make them on SQLite only: under PostgreSQL making one in a
transaction would stop all writing until it is whole."""


def build_large_indexes(db: Database) -> list[str]:
    """Make those that PostgreSQL lacks, or holds half made, while others read and write; the names of those made."""
    made = []
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET statement_timeout = 0")
        _take_lock(connection, _INDEX_LOCK)
        try:
            valid = {name: bool(usable) for name, usable in connection.execute(text(_INDEXES_HELD))}
            for index in _large_indexes():
                if valid.get(str(index.name)):
                    continue
                if index.name in valid:  # the process that made it was killed
                    connection.execute(DropIndex(index))
                connection.execute(CreateIndex(index))
                made.append(str(index.name))
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _INDEX_LOCK})
            connection.exec_driver_sql("RESET statement_timeout")
    if made:
        log.info("database.indexes_made", names=made)
    return made


def _forget_foreign_positions(connection: Connection) -> None:
    """Audit rows that were brought from another server count transactions of that one: they come before ours."""
    connection.exec_driver_sql(
        "UPDATE audit SET position = 0 WHERE position <> 0 AND"
        " (SELECT max(position) FROM audit) > pg_current_xact_id()::text::bigint"
    )


_INDEXES_HELD = """
    SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE pg_table_is_visible(indrelid)
"""


def _large_indexes() -> list[Index]:
    """As the tables have them, to be made concurrently."""
    found = []
    for table in Base.metadata.sorted_tables:
        for index in sorted(table.indexes, key=lambda one: str(one.name)):
            if index.name in LARGE_INDEXES:
                index.dialect_options["postgresql"]["concurrently"] = True
                found.append(index)
    return found


def _plan_as_for_many_rows(connection: Connection) -> None:
    """Give SQLite's planner the statistics of a large database, whatever this one holds.

    Without any it takes a tenant's documents for ten, and reads all of them to load eighty chunks by id: 120 ms among
    200,000 chunks instead of one. Real statistics would be seen by connections opened later only, so a service that
    fills up would keep the bad plan until its next start.
    """
    connection.exec_driver_sql("ANALYZE sqlite_schema")  # makes the table of statistics, and reads no data
    for table, index, figures in _LARGE:
        connection.execute(
            text("DELETE FROM sqlite_stat1 WHERE tbl = :tbl AND idx = :idx"), {"tbl": table, "idx": index}
        )
        connection.execute(
            text("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (:tbl, :idx, :stat)"),
            {"tbl": table, "idx": index, "stat": figures},
        )
    connection.exec_driver_sql("ANALYZE sqlite_schema")


def downgrade(db: Database, revision: str) -> None:
    """Go back to a revision; `base` drops everything."""
    from alembic import command

    with connected(db) as connection:
        command.downgrade(_config(connection), revision)


def current_revision(db: Database) -> str | None:
    """Revision the database is at; None before the first migration."""
    with db.engine.connect() as connection:
        return _revision_of(connection)


def _revision_of(connection: Connection) -> str | None:
    held = inspect(connection).has_table("alembic_version")
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if held else None


def newest_revision() -> str:
    """Revision this code needs: files of migrations are named by their revisions, which count up."""
    return max(file.name.partition("_")[0] for file in (migrations_dir() / "versions").glob("[0-9]*_*.py"))


def known_revisions() -> list[str]:
    """All revisions this code knows, newest first."""
    from alembic.script import ScriptDirectory

    return [script.revision for script in ScriptDirectory.from_config(_config(None)).walk_revisions()]


@contextmanager
def start_alone(db: Database) -> Iterator[None]:
    """Do in the block what only one starting process may do at a time. SQLite has one owner, so nothing is locked."""
    if db.is_sqlite:
        yield
        return
    with db.engine.connect() as connection:
        # A session lock: the block commits transactions of its own, and it goes with the connection if we die.
        _take_lock(connection, _STARTING_LOCK)
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _STARTING_LOCK})
            connection.commit()


def _take_lock(connection: Connection, key: int) -> None:
    """Wait for an advisory lock of this session, in no transaction.

    By asking again: a statement that waits has a snapshot, and whoever makes an index concurrently, holding this
    lock, waits until no older snapshot is left.
    """
    pause = threading.Event()
    while not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar():
        connection.rollback()
        pause.wait(_ASK_AGAIN_S)
    connection.commit()


def migrations_dir() -> Path:
    """Folder of the migrations, in a checkout and in an installed wheel alike."""
    spec = importlib.util.find_spec("migrations")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package 'migrations' is missing from this installation")
    return Path(next(iter(spec.submodule_search_locations)))


def _config(connection: Connection | None) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def connected(db: Database) -> Iterator[Connection]:
    """A connection in one write transaction, with the migration lock held."""
    if not db.is_sqlite:
        with db.engine.begin() as connection:
            # The limits of requests are none for this: a table may be large, and another process may be at it.
            for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                connection.exec_driver_sql(f"SET LOCAL {limit} = 0")
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRES_LOCK})
            yield connection
        return
    with _file_lock(Path(db.url.removeprefix("sqlite:///") + ".migrating")):
        engine = _sqlite_engine(db.url)
        try:
            with engine.begin() as connection:
                yield connection
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
                if broken:
                    raise RuntimeError(f"the migration left {len(broken)} rows that point nowhere; it was undone")
        finally:
            engine.dispose()


def _sqlite_engine(url: str) -> Engine:
    """An engine without foreign keys: a batch migration rebuilds tables, and dropping the old one would cascade.

    The pragma does nothing inside a transaction, so it is set when the connection opens.
    """
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": 60.0})

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=OFF")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
