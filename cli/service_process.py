"""A service of one's own as a subprocess: how the demo and the end-to-end tests run `tsumugi up`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil

from cli.client import Client
from cli.data_dir import running_service
from cli.redis_child import socket_dir
from core.errors import Unavailable


class ServiceProcess:
    """`tsumugi up` on a data dir and a free port. Settings of the surrounding environment do not reach it."""

    def __init__(self, data_dir: Path, *, settings: dict[str, str] | None = None) -> None:
        self.data_dir = data_dir.resolve()
        self.log_file = self.data_dir / "logs" / "up.log"
        self._settings = settings or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, timeout_s: float = 180.0) -> float:
        """Start it; returns the seconds until /readyz answered 200.

        Raises:
            Unavailable: it ended, or was not ready in time; the detail holds the end of its output.
        """
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TSUMUGI_")}
        environment |= {"PYTHONUNBUFFERED": "1", **self._settings}
        command = [sys.executable, "-m", "cli.main", "up", "--data-dir", str(self.data_dir), "--port", "0"]
        started = time.monotonic()
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
        pause = threading.Event()
        while time.monotonic() < started + timeout_s:
            if self._process.poll() is not None:
                raise Unavailable(f"the service ended with exit code {self._process.returncode}:\n{self.tail()}")
            if self._is_ready():
                return time.monotonic() - started
            pause.wait(0.1)  # another process's start: there is no event to wait for
        raise Unavailable(f"the service is not ready after {timeout_s:.0f} s:\n{self.tail()}")

    def client(self, key: str | None = None, *, timeout_s: float = 300.0) -> Client:
        """A client with the given key, or with the admin key."""
        return Client(self.url, key or self.admin_key, timeout_s=timeout_s)

    @property
    def admin_key(self) -> str:
        """The key that the first start made."""
        return (self.data_dir / "admin.key").read_text(encoding="utf-8").strip()

    @property
    def pid(self) -> int:
        """Process id of the service."""
        if self._process is None:
            raise Unavailable("the service was not started")
        return self._process.pid

    def family(self) -> list[psutil.Process]:
        """The service and everything below it, now."""
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stop(self, timeout_s: float = 150.0) -> int:
        """SIGTERM and wait; returns the exit code.

        Raises:
            Unavailable: it did not end in time; it has been killed.
        """
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise Unavailable(f"the service did not stop within {timeout_s:.0f} s:\n{self.tail()}") from error

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def left_behind(self, family: list[psutil.Process]) -> list[str]:
        """What a stopped service should not have left: processes of `family`, the socket, the service note."""
        _, alive = psutil.wait_procs(family, timeout=5)
        left = [f"process {process.pid}" for process in alive]
        for path in (socket_dir(self.data_dir), self.data_dir / "service.json"):
            if path.exists():
                left.append(str(path))
        return left

    def tail(self, lines: int = 30) -> str:
        """The end of its output."""
        try:
            return "\n".join(self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def _is_ready(self) -> bool:
        note = running_service(self.data_dir)
        if note is None or note.pid != self.pid:  # none yet, or that of a predecessor that was killed
            return False
        self.url = note.url
        try:
            return httpx.get(f"{note.url}/readyz", timeout=10.0, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False
