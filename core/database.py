"""Engine and sessions. Read and write sessions are different types, so that a reader cannot commit by accident.

SQLite runs in WAL mode; write transactions take the write lock at BEGIN (`BEGIN IMMEDIATE`): a deferred one that
upgrades later fails at once with SQLITE_BUSY whatever the timeout is. PostgreSQL reads at REPEATABLE READ, so that a
read session is one snapshot there as well (its default is a snapshot a statement: a search that prunes its hits would
see two states), and writes at READ COMMITTED with the rows locked that a decision rests on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import DeclarativeBase, Session

from core.settings import DatabaseSettings, Settings


class ReadSession(Session):
    """A session for reading. Flushing changes through it is an error."""

    def flush(self, objects: Any = None) -> None:
        """Refuse to write."""
        if self.new or self.dirty or self.deleted:
            raise RuntimeError("write through a read session")

    def commit(self) -> None:
        """Refuse to commit."""
        raise RuntimeError("commit of a read session")


class WriteSession(Session):
    """A session inside one write transaction; `after_commit` runs functions once the data is durable."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._after_commit: list[Callable[[], None]] = []

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` when, and only when, this transaction has committed."""
        self._after_commit.append(action)

    def take_after_commit(self) -> list[Callable[[], None]]:
        """Hand over the registered functions, once."""
        actions, self._after_commit = self._after_commit, []
        return actions


class Database:
    """Connection pool and session factory of one process."""

    def __init__(self, url: str, *, busy_timeout_s: float = 30.0, pool: DatabaseSettings | None = None) -> None:
        """Connect lazily. pool: how PostgreSQL is held; the defaults of the settings when left out."""
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        self._held = pool or DatabaseSettings()
        self._lock_engine: Engine | None = None
        self._locks_guard = threading.Lock()
        if self.is_sqlite:
            path = url.removeprefix("sqlite:///")
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.engine = create_engine(
                url,
                connect_args={"timeout": busy_timeout_s, "check_same_thread": False},
                pool_size=20,
                max_overflow=40,
            )
            _prepare_sqlite(self.engine)
            self._read_engine = self.engine
        else:
            self.engine = _postgres_engine(url, self._held)
            self._read_engine = self.engine.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def read(self) -> Iterator[ReadSession]:
        """Session on one consistent snapshot."""
        with ReadSession(self._read_engine, expire_on_commit=False, autoflush=False) as session:
            yield session
            session.expunge_all()
            session.rollback()

    @contextmanager
    def write(self) -> Iterator[WriteSession]:
        """One write transaction: commits at the end of the block, rolls back on any exception."""
        engine = self.engine.execution_options(tsumugi_write=True)
        with WriteSession(engine, expire_on_commit=False) as session:
            yield session
            session.commit()
            actions = session.take_after_commit()
        for action in actions:
            action()

    @contextmanager
    def session_locks(self) -> Iterator[Connection]:
        """A connection of PostgreSQL for advisory locks that outlive transactions; leaving the block lets them go.

        Its pool is one of its own, and as large as it has to be: whoever holds a lock may still need a connection for
        the rows, and would wait for ever for one that others hold who wait likewise.
        """
        with self._locks_guard:
            if self._lock_engine is None:
                self._lock_engine = _postgres_engine(self.url, self._held, pool_size=2, max_overflow=-1)
        connection = self._lock_engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            yield connection
            connection.execute(text("SELECT pg_advisory_unlock_all()"))
        except BaseException:
            connection.invalidate()  # closes it: the server then lets its locks go
            raise
        finally:
            connection.close()

    def close(self) -> None:
        """Drop pooled connections."""
        self.engine.dispose()
        if self._lock_engine is not None:
            self._lock_engine.dispose()


def open_database(settings: Settings) -> Database:
    """The database that the settings name."""
    held = settings.database
    return Database(settings.database_url, busy_timeout_s=held.busy_timeout_s, pool=held)


def lock_name(session: WriteSession, name: str) -> None:
    """Hold a lock on a name until this transaction ends: for decisions about rows that may not exist yet.

    PostgreSQL: an advisory lock on 64 bits of the name's hash. SQLite: write transactions are alone anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})


def insert_new(session: WriteSession, table: type[DeclarativeBase], **values: Any) -> bool:
    """Add a row unless there is one with its key, and say whether it was added; waits for another that is adding it.

    What looks first and adds afterwards finds nothing, and fails, when two do so at once.
    """
    insert = postgres_insert if session.get_bind().dialect.name == "postgresql" else sqlite_insert
    adding = insert(table).values(**values).on_conflict_do_nothing().returning(*table.__mapper__.primary_key)
    return session.execute(adding).first() is not None


def _postgres_engine(url: str, held: DatabaseSettings, **pool: int) -> Engine:
    scheme, _, rest = url.partition("://")
    if scheme in {"postgres", "postgresql"}:  # as operators write it; SQLAlchemy would look for another driver
        url = f"postgresql+psycopg://{rest}"
    return create_engine(
        url,
        pool_pre_ping=True,  # a restarted server costs a ping, not a failed request
        **({"pool_size": held.pool_size, "max_overflow": held.pool_overflow} | pool),
        pool_timeout=held.pool_timeout_s,
        pool_recycle=held.pool_recycle_s,
        connect_args={
            "connect_timeout": round(held.connect_timeout_s),
            "application_name": "tsumugi",
            "keepalives_idle": 30,
            # A transaction whose process hangs must not hold its row locks for ever.
            "options": f"-c statement_timeout={round(held.statement_timeout_s * 1000)} "
            f"-c idle_in_transaction_session_timeout={round(held.statement_timeout_s * 1000)}",
        },
    )


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we emit BEGIN ourselves
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA secure_delete=ON")  # what is deleted leaves no bytes in free pages
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        write = connection.get_execution_options().get("tsumugi_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
