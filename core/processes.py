"""Child processes that must not outlive their parent. Call `end_with_parent` first thing in such a child.

The kernel's own way (PR_SET_PDEATHSIG) fires when the *thread* that forked ends, and reaches only the child itself.
Here a thread waits on a pidfd of the parent, and takes down everything the child has started before it ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable

import psutil
import structlog

log = structlog.stdlib.get_logger(__name__)

POLL_S = 1.0
_BACKGROUND_NICE = 10
"""A tenth of the share of a thread at 0, where both want the core; all of it where nobody else does."""


def end_with_parent(parent_pid: int | None = None, *, before: Callable[[], None] | None = None) -> None:
    """End this process, and all it has started, as soon as its parent is gone.

    parent_pid: who the parent is, as the parent said; with it, a parent that died before this call is noticed too.
    before: called first (to note something in a log, say); it must be quick.
    """
    parent = os.getppid() if parent_pid is None else parent_pid
    if os.getppid() != parent:
        _end(parent, before)
    thread = threading.Thread(target=_watch, args=(parent, before), name="parent-watch", daemon=True)
    thread.start()


def yield_to_others() -> None:
    """Give the calling thread, and the threads that libraries start from it, a small share of a busy machine.

    For background work in a process that answers people: torch's threads inherit the priority of the thread that first
    computes, so embedding a large file leaves the cores to a query beside it. Doing it again changes nothing.
    """
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BACKGROUND_NICE)


def end_descendants(timeout_s: float = 0.0) -> int:
    """End every process below this one: SIGTERM and `timeout_s` to obey, then SIGKILL. Returns how many there were."""
    found = psutil.Process().children(recursive=True)
    if timeout_s > 0:
        for process in found:
            _signal(process, signal.SIGTERM)
        psutil.wait_procs(found, timeout=timeout_s)
    for process in found:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(found, timeout=5.0)
    return len(found)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _watch(parent: int, before: Callable[[], None] | None) -> None:
    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:
        _end(parent, before)
        return
    except OSError:  # a kernel, or a sandbox, without pidfd
        _watch_by_polling(parent, before)
        return
    if os.getppid() == parent:  # else the pid was already someone else's when we opened it
        select.select([descriptor], [], [])
    _end(parent, before)


def _watch_by_polling(parent: int, before: Callable[[], None] | None) -> None:
    never = threading.Event()
    while os.getppid() == parent:
        never.wait(POLL_S)
    _end(parent, before)


def _end(parent: int, before: Callable[[], None] | None) -> None:
    try:
        with contextlib.suppress(OSError):  # the reader of our output may have been that very parent
            log.warning("process.parent_gone", parent=parent)
        if before is not None:
            before()
        end_descendants()
    finally:
        os._exit(1)
