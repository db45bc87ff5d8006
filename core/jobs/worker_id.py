"""Names of workers that say enough to tell, on the same machine, that one is dead without waiting for its heartbeat.

HOST/PID-NAMESPACE:PID.STARTED:THREAD      laptop/4026531836:4242.1790012345:celery-embedded_0
"""

from __future__ import annotations

import os
import socket
import threading
from functools import cache
from pathlib import Path

import psutil

_STARTED_SLACK_S = 2
"""Start times come from the boot time, which wanders a little when the clock is set."""


def worker_id() -> str:
    """Name of this thread as a worker."""
    return f"{_place()}:{_process()}:{threading.current_thread().name}"


def is_dead(worker: str | None) -> bool:
    """Whether the worker's process is known to be gone. False when it lives, and when that cannot be known here."""
    place, _, rest = (worker or "").partition(":")
    pid, _, started = rest.partition(":")[0].partition(".")
    if place != _place() or not (pid.isdigit() and started.isdigit()):
        return False
    try:
        process = psutil.Process(int(pid))
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return abs(int(process.create_time()) - int(started)) > _STARTED_SLACK_S  # else its pid is another's now
    except psutil.NoSuchProcess:
        return True


@cache
def _place() -> str:
    namespace = Path("/proc/self/ns/pid")
    inode = namespace.stat().st_ino if namespace.exists() else 0
    return f"{socket.gethostname().replace(':', '-')[:60]}/{inode}"


def _process() -> str:
    return f"{os.getpid()}.{int(psutil.Process().create_time())}"
