"""The server topology as real processes on one machine: PostgreSQL and Redis of Debian, stand-ins of Qdrant and of the
models, and our own api, worker and beat processes as `tsumugi` starts them.

PostgreSQL refuses to run as root, so under root it runs as the user `postgres` that its package makes.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from cli.client import Client
from tests.conftest import redis_server_binary

ROOT = Path(__file__).resolve().parents[1]
DURABLE = ("-c", "fsync=off", "-c", "full_page_writes=off")
"""No test cuts the power: the operating system keeps what a killed server has written."""


def postgres_binaries() -> Path | None:
    """Folder with `initdb` and `postgres`, newest version first; None where PostgreSQL is not installed."""
    folders = [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)]
    found = shutil.which("initdb")
    return folders[0] if folders else Path(found).parent if found else None


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(
    condition: Callable[[], bool], timeout_s: float, what: str, alive: Callable[[], bool] = lambda: True
) -> None:
    """Poll another process until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if not alive():
            raise RuntimeError(f"{what}: the process ended")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.05)  # another process's start: there is no event to wait for


def compose_command(service: str) -> list[str]:
    """Arguments of `tsumugi` with which docker-compose.yml starts a service."""
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    command = yaml.safe_load(text)["services"][service]["command"]
    return [str(part) for part in command]


class Daemon:
    """A child process with its log."""

    def __init__(
        self, name: str, command: list[str], log: Path, *, env: dict[str, str] | None = None, user: int | None = None
    ) -> None:
        self.name = name
        self.command = command
        self.log = log
        self._env = env
        self._user = user
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns at once."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=self._env,
                cwd=ROOT if self._user is None else "/", user=self._user,
            )  # fmt: skip

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Exit code, once it has ended."""
        return 0 if self.process is None else self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM, and wait; killed when it takes too long."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def tail(self, lines: int = 25) -> str:
        """The end of its log."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])
        return ""


class Postgres:
    """A PostgreSQL server in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        binaries = postgres_binaries()
        assert binaries is not None, "PostgreSQL is not installed"
        self.port = free_port()
        self.data = folder / "postgres"
        self._bin = binaries
        self._user = pwd.getpwnam("postgres").pw_uid if os.getuid() == 0 else None
        self.data.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(self.data, self._user, -1)
        log = folder / "postgres.log"
        log.touch()
        self.daemon = Daemon(
            "postgres",
            [
                str(binaries / "postgres"), "-D", str(self.data), "-p", str(self.port), "-c",
                "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.data}", *DURABLE,
                "-c", "max_connections=300",
            ],
            log,
            user=self._user,
        )  # fmt: skip
        subprocess.run(
            [str(binaries / "initdb"), "-D", str(self.data), "-U", "tsumugi", "--auth=trust", "-E", "UTF8", "-N"],
            check=True, capture_output=True, cwd="/", user=self._user,
        )  # fmt: skip

    def start(self) -> None:
        """Start, and return when it takes connections."""
        self.daemon.start()
        wait_for(self.answers, 60, "postgres", lambda: self.daemon.alive)

    def answers(self) -> bool:
        """Whether a connection can be made."""
        done = subprocess.run(
            [str(self._bin / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)], capture_output=True, check=False
        )
        return done.returncode == 0

    def restart(self) -> None:
        """Stop as `pg_ctl restart -m fast` does (connections are cut), and start again."""
        self.daemon.signal(signal.SIGINT)
        self.daemon.wait()
        self.start()

    def url(self, database: str = "postgres") -> str:
        """URL of a database."""
        return f"postgresql://tsumugi@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make an empty database; returns its URL."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')  # type: ignore[call-overload]
        return self.url(database)


class TcpRedis:
    """A redis-server on a port; what it holds is lost with it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.daemon = Daemon(
            "redis",
            [
                str(redis_server_binary()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                "--appendonly", "no", "--dir", str(folder), "--daemonize", "no",
            ],
            folder / "redis.log",
        )  # fmt: skip

    def start(self) -> None:
        """Start, and return when it answers."""
        self.daemon.start()
        wait_for(self._answers, 15, "redis", lambda: self.daemon.alive)

    def lose_everything(self) -> None:
        """Killed and started empty."""
        self.daemon.kill()
        self.start()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class ServerTopology:
    """All processes of one server topology. Use as a context manager; `start` what is wanted."""

    def __init__(
        self,
        models_dir: Path,
        *,
        base: Path | None = None,
        settings: dict[str, str] | None = None,
        data_dir: Path | None = None,
    ) -> None:
        """base: folder of the generator's model; None quotes passages instead (no model, fast). data_dir: made here."""
        self.folder = Path(tempfile.mkdtemp(prefix="tsu-server-", dir="/tmp"))
        self.folder.chmod(0o755)  # the user postgres has to get through
        self.data_dir = data_dir or self.folder / "data"
        self.data_dir.mkdir()
        (self.data_dir / "models").symlink_to(models_dir)
        self.postgres = Postgres(self.folder)
        self.redis = TcpRedis(self.folder)
        self.qdrant_port, self.models_port = free_port(), free_port()
        self.qdrant_folder = self.folder / "qdrant"
        qdrant = [sys.executable, "-m", "tests.qdrant_standin", "--port", str(self.qdrant_port)]
        qdrant += ["--folder", str(self.qdrant_folder)]
        models = [sys.executable, "-m", "tests.model_server", "--port", str(self.models_port)]
        models += ["--base", str(base)] if base is not None else []
        self.qdrant = Daemon("qdrant", qdrant, self.folder / "qdrant.log")
        self.models = Daemon("models", models, self.folder / "models.log", env={**_clean(), "OMP_NUM_THREADS": "1"})
        self._own = settings or {}
        self.processes: dict[str, Daemon] = {}
        self.ports: dict[str, int] = {}

    def __enter__(self) -> ServerTopology:
        """Start what our processes stand on."""
        try:
            for daemon in (self.qdrant, self.models):
                daemon.start()
            self.redis.start()
            self.postgres.start()
            self._database = self.postgres.create("tsumugi")
            wait_for(lambda: _ok(f"http://127.0.0.1:{self.qdrant_port}/collections"), 30, "the Qdrant stand-in")
            wait_for(
                lambda: _ok(f"http://127.0.0.1:{self.models_port}/v1/models"),
                90,
                "the models",
                lambda: self.models.alive,
            )
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        self.close()

    def environment(self) -> dict[str, str]:
        """Settings of our processes."""
        models = f"http://127.0.0.1:{self.models_port}/v1"
        return {
            **_clean(),
            "TSUMUGI_DATA_DIR": str(self.data_dir),
            "TSUMUGI_DATABASE__URL": self._database,
            "TSUMUGI_BROKER__URL": self.redis.url,
            "TSUMUGI_RETRIEVAL__INDEX": "qdrant",
            "TSUMUGI_QDRANT__URL": f"http://127.0.0.1:{self.qdrant_port}",
            "TSUMUGI_RETRIEVAL__EMBEDDER": "endpoint",
            "TSUMUGI_EMBEDDING__URL": models,
            "TSUMUGI_EMBEDDING__MODEL": "all-MiniLM-L6-v2",
            "TSUMUGI_EMBEDDING__DIM": "384",
            "TSUMUGI_EMBEDDING__MAX_TOKENS": "256",
            "TSUMUGI_EMBEDDING__LANGUAGES": '["en"]',
            "TSUMUGI_GENERATION__ENGINE": "openai",
            "TSUMUGI_ENDPOINT__URLS": f'["{models}"]',
            "TSUMUGI_ENDPOINT__MODEL": "base",
            "TSUMUGI_JOBS__SWEEP_EVERY_S": "2",
            "TSUMUGI_JOBS__RESEND_AFTER_S": "4",
            "OMP_NUM_THREADS": "1",
            **self._own,
        }

    def start(self, name: str, *command: str) -> Daemon:
        """Start one of our processes on a port of its own, for requests or for figures. Returns at once."""
        port = self.ports.setdefault(name, free_port())
        environment = {**self.environment(), "TSUMUGI_WORKER__PORT": str(port)}
        if command[0] == "api":
            command = ("api", "--port", str(port))
        daemon = Daemon(
            name, [sys.executable, "-m", "cli.main", *command], self.folder / f"{name}.log", env=environment
        )
        daemon.start()
        self.processes[name] = daemon
        return daemon

    def start_all(self, *, apis: int = 2, workers: int = 2, trainer: bool = False) -> None:
        """Everything at once, with the commands of docker-compose.yml; returns when all are ready."""
        names = [(f"api-{number}", "api") for number in range(1, apis + 1)]
        names += [(f"worker-{number}", "worker-ingest") for number in range(1, workers + 1)]
        names += [("beat", "beat"), *([("trainer", "worker-tuning")] if trainer else [])]
        for name, service in names:
            self.start(name, *compose_command(service))
        for name, _service in names:
            self.wait_ready(name)

    def restart(self, name: str) -> Daemon:
        """Start a process that has ended again, with the same command."""
        daemon = self.processes[name]
        daemon.start()
        return daemon

    def hurt_index(self, how: str, seconds: float, pause: threading.Event) -> None:
        """killed: it comes back as it was. wiped: it comes back empty. away, frozen, full: for so long."""
        full = self.qdrant_folder / "full"
        if how == "frozen":
            self.qdrant.signal(signal.SIGSTOP)
            pause.wait(seconds)
            self.qdrant.signal(signal.SIGCONT)
        elif how == "full":
            full.touch()
            pause.wait(seconds)
            full.unlink()
        else:
            self.qdrant.kill()
            if how == "wiped":
                shutil.rmtree(self.qdrant_folder)
            pause.wait(seconds if how == "away" else 1.0)
            self.qdrant.start()
        wait_for(lambda: _ok(f"http://127.0.0.1:{self.qdrant_port}/readyz"), 120, "the Qdrant stand-in")

    def wait_ready(self, name: str, timeout_s: float = 120.0) -> None:
        """Return when a process says that it is ready."""
        daemon = self.processes[name]
        path = "readyz" if name.startswith("api") else "healthz"
        try:
            wait_for(lambda: _ok(f"{self.url(name)}/{path}"), timeout_s, name, lambda: daemon.alive)
        except (RuntimeError, TimeoutError) as error:
            raise type(error)(f"{error}\n{daemon.tail()}") from error

    def url(self, name: str = "api-1") -> str:
        """Address of a process: of the API, or of its figures."""
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def admin_key(self) -> str:
        """The key that the first start made."""
        return (self.data_dir / "admin.key").read_text("ascii").strip()

    def client(self, name: str = "api-1", key: str | None = None) -> Client:
        """A client of one api process."""
        return Client(self.url(name), key or self.admin_key, timeout_s=120)

    def close(self) -> None:
        """Stop everything: ours first, then what they stand on."""
        ours = list(self.processes.values())
        for daemon in ours:
            daemon.signal(signal.SIGTERM)
        for daemon in ours:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(40)
            daemon.kill()
        for daemon in (self.models, self.qdrant, self.redis.daemon):
            daemon.kill()
        self.postgres.daemon.signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.postgres.daemon.wait(20)
        self.postgres.daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _clean() -> dict[str, str]:
    environment: dict[str, Any] = {k: v for k, v in os.environ.items() if not k.startswith("TSUMUGI_")}
    return {**environment, "PYTHONUNBUFFERED": "1"}


def _ok(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, timeout=6.0, trust_env=False).status_code == 200
    return False
