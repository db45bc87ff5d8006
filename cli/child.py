"""Child processes that live exactly as long as the service: started again when they die, gone when it is gone.

A child of ours that is Python watches its parent itself (`core.processes`). For others the kernel does it, when the
*thread* that started them ends (PR_SET_PDEATHSIG); so each is started, and waited for, by a thread of its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 10.0
STEADY_AFTER_S = 30.0
"""A child that lived this long starts again without the back-off its predecessors earned."""


class SupervisedChild:
    """One child process and the thread that keeps it alive."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log_file: Path,
        watches_parent: bool = False,
        before_start: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self._command = list(command)
        self._environment = dict(environment)
        self._log_file = log_file
        self._watches_parent = watches_parent
        self._before_start = before_start
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self._thread = threading.Thread(target=self._keep_alive, name=f"child-{name}", daemon=True)

    def start(self) -> None:
        """Start it, and again whenever it ends, until `stop`."""
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def alive(self) -> bool:
        """Whether it runs now."""
        return self.pid is not None

    def stop(self, timeout_s: float) -> None:
        """Ask it to end, insist after `timeout_s`, and end whatever is left of its process group."""
        self._stopping.set()
        process = self._process
        if process is not None:
            _signal_process(process, signal.SIGTERM)
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("child_killed", child=self.name, pid=process.pid, after_s=timeout_s)
            _signal_group(process.pid, signal.SIGKILL)
        if self._thread.ident is not None:
            self._thread.join()

    def _keep_alive(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._stopping.is_set():
            if self._before_start is not None:
                self._before_start()
            lived_s = self._run_once()
            if self._stopping.is_set():
                return
            backoff_s = FIRST_BACKOFF_S if lived_s > STEADY_AFTER_S else min(backoff_s * 2, LONGEST_BACKOFF_S)
            self._stopping.wait(backoff_s)

    def _run_once(self) -> float:
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with self._log_file.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command line
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=None if self._watches_parent else _die_with_parent,  # noqa: PLW1509 - one call, loaded before
            )
        self._process = process
        self.starts += 1
        if self._stopping.is_set():  # stop() came between the check and the start
            _signal_process(process, signal.SIGTERM)
        code = process.wait()
        _signal_group(process.pid, signal.SIGKILL)  # what it started and left behind
        self._process = None
        lived_s = time.monotonic() - started
        if not self._stopping.is_set():
            log.warning("child_died", child=self.name, pid=process.pid, exit_code=code, lived_s=round(lived_s, 1))
        return lived_s


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _signal_process(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(number)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return
