"""Brings a database to the newest schema. The migrations travel in the wheel, so an installed service can do it."""

from __future__ import annotations

import fcntl
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.pool import NullPool

from core.database import Database

log = structlog.stdlib.get_logger(__name__)

_POSTGRES_LOCK = 7_305_146_009
"""Any fixed number: the advisory lock that keeps two starting processes from migrating at once."""

_STARTING_LOCK = _POSTGRES_LOCK + 1


def upgrade(db: Database, revision: str = "head") -> None:
    """Run the missing migrations, alone, in one transaction."""
    with connected(db) as connection:
        before = MigrationContext.configure(connection).get_current_revision()
        command.upgrade(_config(connection), revision)
        after = MigrationContext.configure(connection).get_current_revision()
    if before != after:
        log.info("database.migrated", revision_before=before, revision=after)


def downgrade(db: Database, revision: str) -> None:
    """Go back to a revision; `base` drops everything."""
    with connected(db) as connection:
        command.downgrade(_config(connection), revision)


def current_revision(db: Database) -> str | None:
    """Revision the database is at; None before the first migration."""
    with db.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str | None:
    """Revision this code needs."""
    return ScriptDirectory.from_config(_config(None)).get_current_head()


@contextmanager
def start_alone(db: Database) -> Iterator[None]:
    """Do in the block what only one starting process may do at a time. SQLite has one owner, so nothing is locked."""
    if db.is_sqlite:
        yield
        return
    with db.engine.connect() as connection:
        # A session lock: the block commits transactions of its own, and it goes with the connection if we die.
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _STARTING_LOCK})
        connection.commit()
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _STARTING_LOCK})
            connection.commit()


def migrations_dir() -> Path:
    """Folder of the migrations, in a checkout and in an installed wheel alike."""
    spec = importlib.util.find_spec("migrations")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package 'migrations' is missing from this installation")
    return Path(next(iter(spec.submodule_search_locations)))


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def connected(db: Database) -> Iterator[Connection]:
    """A connection in one write transaction, with the migration lock held."""
    if not db.is_sqlite:
        with db.engine.begin() as connection:
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
