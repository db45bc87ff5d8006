"""The data dir as a place: its lock, and the note by which client commands find the running service.

The lock is `flock` on DIR/lock, so it falls with the process that holds it, however that process ends; the text in the
file only serves the message to whoever comes second.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cli.output import EXIT_USAGE, CommandFailed
from core.errors import DataDirBusy

LOCK_NAME = "lock"
SERVICE_NAME = "service.json"


@dataclass(frozen=True, slots=True)
class ServiceNote:
    """Where the service that owns a data dir listens."""

    url: str
    pid: int
    started_at: str


@contextmanager
def exclusive(data_dir: Path, purpose: str, *, until_exit: bool = False) -> Iterator[None]:
    """Own a data dir for the length of the block, or until this process is gone: its threads may outlive the block.

    What is written meanwhile is for the owner alone, whatever the umask; so is the folder, also one that was there.

    Raises:
        DataDirBusy: another process owns it; `extra` holds its `pid` and `purpose` where known.
        CommandFailed: it cannot be written.
    """
    mask = os.umask(0o077)
    held, descriptor = False, -1
    try:
        descriptor = _opened(data_dir)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _read_holder(descriptor)
            raise DataDirBusy(
                f"{data_dir} is in use by process {holder.get('pid', 'unknown')} ({holder.get('purpose', 'unknown')}); "
                "stop it first, or choose another --data-dir",
                extra=holder,
            ) from error
        note = {"pid": os.getpid(), "purpose": purpose, "since": datetime.now(UTC).isoformat()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)
        held = until_exit
        yield
        if not held:
            os.ftruncate(descriptor, 0)
    finally:
        if not held:
            os.umask(mask)
            if descriptor >= 0:
                os.close(descriptor)


def _opened(data_dir: Path) -> int:
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        if data_dir.stat().st_uid == os.geteuid():
            data_dir.chmod(0o700)
    except OSError as error:
        raise CommandFailed(f"{data_dir} cannot be written: {error.strerror}", exit_code=EXIT_USAGE) from error
    return descriptor


def _read_holder(descriptor: int) -> dict[str, object]:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:  # the holder is between truncating and writing
        return {}
    return holder if isinstance(holder, dict) else {}


def write_service_note(data_dir: Path, url: str) -> None:
    """Say where the service listens, atomically."""
    note = ServiceNote(url=url, pid=os.getpid(), started_at=datetime.now(UTC).isoformat())
    temporary = data_dir / f".{SERVICE_NAME}.new"
    temporary.write_text(json.dumps(asdict(note)) + "\n", encoding="utf-8")
    temporary.replace(data_dir / SERVICE_NAME)


def read_service_note(data_dir: Path) -> ServiceNote | None:
    """The note of the service that last ran there and did not stop cleanly, or still runs; see `running_service`."""
    try:
        return ServiceNote(**json.loads((data_dir / SERVICE_NAME).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def running_service(data_dir: Path) -> ServiceNote | None:
    """The note of the service that runs there now.

    None unless the process that it names lives and holds the data dir: after a crash anybody may listen on the port of
    the note, and would be sent the admin key.
    """
    note = read_service_note(data_dir)
    if note is None:
        return None
    try:
        descriptor = os.open(data_dir / LOCK_NAME, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return note if _read_holder(descriptor).get("pid") == note.pid else None
    else:
        return None
    finally:
        os.close(descriptor)


def remove_service_note(data_dir: Path) -> None:
    """Forget it; the service has stopped."""
    (data_dir / SERVICE_NAME).unlink(missing_ok=True)
