"""Training and evaluation as child processes: their lines read as they come, stopped on request, never left behind.

    python -m tuning.child MODULE ARGUMENT      what the worker starts: ends with its parent, then runs MODULE

A child leads a process group of its own, so that a stop reaches whatever it has started, and nothing else.
"""

from __future__ import annotations

import os
import queue
import resource
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.environment import says_disk_is_full
from core.errors import TsumugiError
from core.gpu import MEMORY_SHARE_VARIABLE

TAIL_LINES = 120
TAIL_CHARS = 8_000
LOOK_EVERY_S = 0.5
"""How often a silent child's owner looks whether it was asked to stop."""
SILENT_AFTER_S = 1800.0
"""A child that says nothing for so long hangs: the slowest step seen on two busy cores took under two minutes."""
GRACE_S = 45.0
"""From SIGTERM to SIGKILL: time to finish a step and to write a checkpoint."""

LAUNCHER = "accelerate.commands.launch"
_KILLED_SIGN = "(sigkill) received by pid"
"""What a launcher says of one of several processes that was killed."""
_DISK_SIGN = "pytorchstreamwriter failed writing"
"""What torch says of a checkpoint that found no room."""
_MEMORY_SIGNS = ("out of memory", "outofmemoryerror", "memoryerror", "can't allocate memory", "cannot allocate memory")


class ChildFailed(TsumugiError):
    """A child process ended badly; `extra` holds its exit status and the end of what it wrote to stderr."""

    default_code = "child_failed"


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """How a child ended. status: exit code, or minus the signal that ended it."""

    status: int
    stderr_tail: str

    def failure(self, what: str) -> ChildFailed:
        """The end as an error: killed and interrupted children are worth another attempt, the others are not.

        codes: `storage_full`, `out_of_memory`, `{what}_killed`, `{what}_interrupted`, `{what}_failed`.
        """
        extra = {"status": self.status, "stderr": self.stderr_tail}
        last = self.stderr_tail.strip().rpartition("\n")[2][:300]
        folded = self.stderr_tail.casefold()
        if says_disk_is_full(folded) or _DISK_SIGN in folded:
            detail = f"{what} found no room on the disk; it goes on from its last checkpoint"
            return ChildFailed(detail, code="storage_full", extra=extra, retryable=True)
        if any(sign in folded for sign in _MEMORY_SIGNS):
            detail = f"{what} ran out of memory; take fewer rows a step or more accumulation. {last}"
            return ChildFailed(detail, code="out_of_memory", extra=extra)
        if self.status < 0:
            name = signal.Signals(-self.status).name
            detail = f"{what} was ended by {name}; a full memory is the usual cause when nobody did it"
            return ChildFailed(detail, code=f"{what}_killed", extra=extra, retryable=True)
        if _KILLED_SIGN in folded:
            detail = f"a process of {what} was killed; a full memory is the usual cause when nobody did it"
            return ChildFailed(detail, code=f"{what}_killed", extra=extra, retryable=True)
        if self.status == os.EX_TEMPFAIL:
            return ChildFailed(f"{what} was interrupted", code=f"{what}_interrupted", extra=extra, retryable=True)
        return ChildFailed(f"{what} failed with status {self.status}: {last}", code=f"{what}_failed", extra=extra)


class Child:
    """A running child. Use from one thread."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        assert process.stdout is not None and process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read_out, name=f"child-out-{process.pid}", daemon=True),
            threading.Thread(target=self._read_err, name=f"child-err-{process.pid}", daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Process id, also that of its group."""
        return self._process.pid

    def lines(self, look: Callable[[], None]) -> Iterator[str]:
        """Lines of stdout until the child closes it; `look` is called between them, and may raise.

        Raises:
            ChildFailed: `child_silent`, nothing came for SILENT_AFTER_S; another attempt may fare better.
        """
        heard = time.monotonic()
        while True:
            look()
            try:
                line = self._lines.get(timeout=LOOK_EVERY_S)
            except queue.Empty:
                if time.monotonic() - heard > SILENT_AFTER_S:
                    detail = f"the process said nothing for {SILENT_AFTER_S:.0f} seconds"
                    raise ChildFailed(detail, code="child_silent", retryable=True) from None
                continue
            heard = time.monotonic()
            if line is None:
                return
            yield line

    def end(self) -> ChildEnd:
        """Wait for the exit after `lines` came to its end."""
        status = self._process.wait()
        for reader in self._readers:
            reader.join(timeout=5.0)
        return ChildEnd(status, "".join(self._tail)[-TAIL_CHARS:])

    def stop(self, grace_s: float) -> None:
        """SIGTERM to the group, and SIGKILL when the child outlives the grace. A dead child is fine."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)  # also what a child that obeyed has left in its group
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    def _read_out(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_err(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._tail.append(line[-1_000:])


@contextmanager
def started(
    module: str,
    arguments: Sequence[str],
    *,
    folder: Path,
    memory_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
    grace_s: float = GRACE_S,
) -> Iterator[Child]:
    """Run `python -m MODULE ARGUMENTS` for the length of the block; leaving it by an exception stops the child.

    environment: variables of the child beside ours.
    """
    limit = [] if memory_bytes is None else ["--memory-bytes", str(memory_bytes)]
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", "tuning.child", "--parent", str(os.getpid()), *limit, module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        cwd=folder,
        start_new_session=True,
        env=_environment() | dict(environment or {}),
    )
    child = Child(process)
    try:
        yield child
    finally:
        if process.poll() is None:
            child.stop(grace_s)


def _environment() -> dict[str, str]:
    """Ours, plus where this project lies: the child's working folder is that of the run."""
    root = str(Path(__file__).resolve().parent.parent)
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root, "PYTHONUNBUFFERED": "1"}


def cap_gpu_memory() -> None:
    """Make torch fail in this process, rather than in the one that serves, when the lent memory is full."""
    share = os.environ.get(MEMORY_SHARE_VARIABLE)
    if share is None:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_per_process_memory_fraction(min(1.0, float(share)))


def main() -> None:
    """The child's side: bind to the parent, take the memory limit, become MODULE."""
    from core.processes import end_with_parent

    arguments = sys.argv[1:]
    options: dict[str, str] = {}
    while arguments and arguments[0].startswith("--"):
        options[arguments[0]] = arguments[1]
        arguments = arguments[2:]
    end_with_parent(int(options["--parent"]))
    if "--memory-bytes" in options:
        limit = int(options["--memory-bytes"])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if arguments[0] != LAUNCHER:  # which computes nothing: its children bound themselves
        cap_gpu_memory()
    os.nice(5)  # the service answers people on the same cores
    sys.argv = [arguments[0], *arguments[1:]]
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
