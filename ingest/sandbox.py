"""Extraction in a child process with limits: one bad file fails alone, with a code, and takes nothing down with it.

The mother process (`ingest.zygote`) is started on first use and again whenever it is gone; when nothing was extracted
for a while it ends, and its memory is the machine's again. It and its children have an environment without a single
secret, no network, and a folder per document that is removed afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import structlog

from core.archives import Member, Wanted
from core.contents import Content, FileOnDisk, on_disk, remove_stale
from core.errors import ExtractionFailed, Unavailable
from core.settings import IngestSettings
from core.types import ExtractedDocument, PlacedText
from ingest.extract.page_search import Mark
from ingest.wire import read_document, read_members, read_page, read_unlocked, write_page_request
from ingest.zygote import DISK_FULL_STATUS, OUT_OF_MEMORY_STATUS, STORAGE_FAILED_STATUS

log = structlog.stdlib.get_logger(__name__)

POLL_S = 0.25
IDLE_S = 60.0
"""How long a mother without work is kept: starting one takes half a second."""
START_TIMEOUT_S = 60.0
MAX_UNLOCKED_BYTES = 600 * 2**20
PAGE_TIMEOUT_S = 20.0
GRACE_S = 15.0
"""How long after its own deadline the mother may stay silent before it is taken for hung, and replaced."""
FULL_BELOW_BYTES = 2**20
"""Free space below which a child that ended badly is taken for one that found none."""


class Sandbox:
    """Runs extractions. Thread-safe; many run side by side."""

    def __init__(self, settings: IngestSettings, work_dir: Path, *, idle_s: float = IDLE_S) -> None:
        self._settings = settings
        self._work_dir = work_dir
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._mother: _Mother | None = None
        self._running = 0
        self._idle: threading.Timer | None = None
        self._closed = False
        work_dir.mkdir(parents=True, exist_ok=True)
        remove_stale(work_dir)

    def extract(
        self, data: bytes, filename: str, *, encoding: str | None = None, poll: Callable[[], None] | None = None
    ) -> ExtractedDocument:
        """Extract one file. `poll` is called a few times a second while waiting; what it raises ends the extraction.

        encoding: what its sender says text is in.

        Raises:
            ExtractionFailed: with the extractor's own code, or `extraction_timeout`, `extraction_out_of_memory`,
                `extraction_crashed`; `extraction_killed`, from outside, which another attempt may survive.
            Unavailable: `storage_full`, `storage_failed`, `extraction_unavailable`: no fault of the file.
        """
        with self._folder() as folder:
            what = {"encoding": encoding}
            self._judge(self._run(folder, data, filename, what, poll or (lambda: None)), filename)
            return read_document(folder)

    def unlock(
        self, data: Content, filename: str, password: str, target: Path, *, encoding: str | None = None
    ) -> FileOnDisk | None:
        """The file without its password, put into the folder `target`; None when it has none.

        The password is on no disk, in no log.

        Raises:
            ExtractionFailed: `wrong_password`, `unlock_failed`, and those of `extract` about limits.
        """
        what = {"password": password, "encoding": encoding, "output_bytes": MAX_UNLOCKED_BYTES}
        with self._folder() as folder:
            self._judge(self._run(folder, data, filename, what, lambda: None), filename)
            unlocked = read_unlocked(folder)
            return None if unlocked is None else on_disk(Path(shutil.move(unlocked, target / uuid.uuid4().hex)))

    def unpack(self, archive: Content, target: Path, wanted: Wanted) -> list[Member]:
        """What `core.archives.unpack` does, in a child, and of a batch alone where one is wanted.

        Raises:
            ExtractionFailed: as there; `not_a_batch`; and those of `extract` about limits.
            Unavailable: as `extract`.
        """
        what = {"wanted": asdict(wanted), "output_bytes": wanted.max_bytes + 2**20}
        name = wanted.batch or "the archive"
        with self._folder() as folder:
            self._judge(self._run(folder, archive, name, what, lambda: None), name)
            return [
                replace(member, path=Path(shutil.move(member.path, target / uuid.uuid4().hex)))
                if member.path is not None
                else member
                for member in read_members(folder, wanted)
            ]

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self._work_dir))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def draw_page(
        self, data: bytes, filename: str, number: int, marks: Sequence[Mark], places: Sequence[PlacedText]
    ) -> tuple[bytes, list[tuple[int, int, int, int]]]:
        """A page of a PDF or picture as PNG, and the boxes in pixels in which the marks were found.

        Raises:
            NotFound: `no_such_page`.
            ExtractionFailed: as for `extract`.
        """
        what = {"page": number, "timeout_s": min(PAGE_TIMEOUT_S, self._settings.extract_timeout_s)}
        with self._folder() as folder:
            write_page_request(folder, number, marks, places)
            self._judge(self._run(folder, data, filename, what, lambda: None), filename)
            return read_page(folder)

    @property
    def network(self) -> str:
        """`namespace` or `guard`: how children are kept off the network."""
        return self._alive().network

    @property
    def files(self) -> str:
        """`landlock` or `limits`: how children are kept from writing outside their folders."""
        return self._alive().files

    def close(self) -> None:
        """End the mother and all extractions."""
        with self._lock:
            self._closed = True
            self._stay()
            mother, self._mother = self._mother, None
        if mother is not None:
            mother.close()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Keep the mother for the length of the block, and a while longer."""
        with self._lock:
            self._running += 1
            self._stay()
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if not self._running and not self._closed:
                    self._idle = threading.Timer(self._idle_s, self._end_idle)
                    self._idle.daemon = True
                    self._idle.start()

    def _stay(self) -> None:
        """Call off the end of an idle mother; the caller holds the lock."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _end_idle(self) -> None:
        with self._lock:
            if self._running or self._idle is not threading.current_thread():
                return  # somebody came meanwhile
            self._idle = None
            mother, self._mother = self._mother, None
        if mother is not None:
            mother.close()

    def _run(
        self, folder: Path, data: Content, filename: str, what: dict[str, Any], poll: Callable[[], None]
    ) -> dict[str, Any]:
        settings = self._settings
        if isinstance(data, bytes):
            (folder / "input").write_bytes(data)
        request = {
            "id": uuid.uuid4().hex,
            "folder": str(folder),
            "input": str(folder / "input" if isinstance(data, bytes) else data.path.resolve()),
            "filename": filename,
            "timeout_s": settings.extract_timeout_s,
            "cpu_s": settings.extract_cpu_s,
            "memory_bytes": settings.extract_memory_bytes,
            "max_chars": settings.extract_max_chars,
            "ocr_s": settings.ocr_s,
            "ocr_engine": settings.ocr_engine,
            "output_bytes": settings.extract_max_chars * 4 + 2**26,
            **what,
        }
        with self._at_work():
            outcome = self._alive().run(request, request["timeout_s"] + GRACE_S, poll)
            if outcome is None:
                # The mother died, which no child can cause; whoever did it, a fresh one deserves one more try.
                log.warning("extract.mother_lost", filename=filename)
                outcome = self._alive().run(request, request["timeout_s"] + GRACE_S, poll)
        return outcome or {"refused": "the extraction process ended"}

    def _alive(self) -> _Mother:
        with self._lock:
            if self._closed:
                raise ExtractionFailed("the service is stopping", code="extraction_crashed", retryable=True)
            if self._mother is None or not self._mother.alive:
                if self._mother is not None:
                    self._mother.close()
                self._mother = _Mother(self._work_dir)
            return self._mother

    def _judge(self, outcome: dict[str, Any], filename: str) -> None:
        """Turn the way a child ended into an error, unless it ended well."""
        if "refused" in outcome:
            raise Unavailable(
                f"no extraction process could be started: {outcome['refused']}", code="extraction_unavailable"
            )
        status = int(outcome["status"])
        if status == 0:
            return
        if status == DISK_FULL_STATUS or shutil.disk_usage(self._work_dir).free < FULL_BELOW_BYTES:
            raise Unavailable(f"there was no room on the disk to read '{filename}'", code="storage_full")
        if status == STORAGE_FAILED_STATUS:
            raise Unavailable(f"the disk failed while '{filename}' was read", code="storage_failed")
        limit = self._settings.extract_memory_bytes
        log.warning("extract.child_ended", filename=filename, **{k: v for k, v in outcome.items() if k != "id"})
        if outcome["timed_out"] or status == -signal.SIGXCPU or outcome["cpu_s"] >= self._settings.extract_cpu_s:
            raise ExtractionFailed(
                f"reading '{filename}' took longer than allowed ({self._settings.extract_timeout_s:.0f} s, of which"
                f" {self._settings.extract_cpu_s} s at work)",
                code="extraction_timeout",
            )
        small = outcome["max_rss_bytes"] < 0.5 * limit
        if status == -signal.SIGKILL and small:
            # Nobody here sends it then: a machine without memory does, and takes whoever it likes.
            raise ExtractionFailed(
                f"the reading of '{filename}' was killed from outside, as by a machine that is out of memory",
                code="extraction_killed",
                retryable=True,
            )
        if status in {OUT_OF_MEMORY_STATUS, -signal.SIGKILL} or outcome["max_rss_bytes"] > 0.7 * limit:
            raise ExtractionFailed(
                f"reading '{filename}' needs more memory than allowed ({limit // 2**20} MiB)",
                code="extraction_out_of_memory",
            )
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise ExtractionFailed(f"the extractor ended on '{filename}' with {how}", code="extraction_crashed")


class _Mother:
    """One mother process and the thread that reads its answers."""

    def __init__(self, work_dir: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-m", "ingest.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=work_dir,
            env={
                "PATH": os.defpath,
                "LANG": "C.UTF-8",
                "PYTHONPATH": os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path),
                "PYTHONDONTWRITEBYTECODE": "1",
                # one thread, so that forking is safe; extractions run side by side anyway
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
            start_new_session=True,
        )
        self._lock = threading.Lock()
        self._waiting: dict[str, _Waiter] = {}
        self._dead = threading.Event()
        ready = self._read_ready()
        self.network = str(ready["network"])
        self.files = str(ready["files"])
        self._reader = threading.Thread(target=self._read, name="extract-reader", daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return not self._dead.is_set() and self._process.poll() is None

    def run(self, request: dict[str, Any], limit_s: float, poll: Callable[[], None]) -> dict[str, Any] | None:
        """Send a request and wait; None when the mother is gone."""
        waiter = _Waiter()
        with self._lock:
            self._waiting[request["id"]] = waiter
        deadline = time.monotonic() + limit_s
        try:
            self._send(request)
            while not waiter.event.wait(POLL_S):
                poll()
                if self._dead.is_set():
                    return waiter.outcome
                if time.monotonic() > deadline:
                    self.close()
                    return None
            return waiter.outcome
        except BrokenPipeError:
            self._dead.set()
            return None
        except BaseException:
            self._cancel(request["id"])
            raise
        finally:
            with self._lock:
                self._waiting.pop(request["id"], None)

    def close(self) -> None:
        """Close its input, which makes it kill its children and end; by force if it does not."""
        self._dead.set()
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            log.debug("extract.mother_gone")
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _cancel(self, request_id: str) -> None:
        try:
            self._send({"cancel": request_id})
        except (BrokenPipeError, ValueError):
            self._dead.set()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with self._lock:
            if self._dead.is_set():
                raise BrokenPipeError("the mother process is gone")
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _read_ready(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(START_TIMEOUT_S, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            self._process.wait()
            raise ExtractionFailed(
                "the extraction process did not start; run `python -m ingest.zygote` to see why",
                code="extraction_crashed",
                retryable=True,
            )
        ready: dict[str, Any] = json.loads(line)
        return ready

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            outcome = json.loads(line)
            with self._lock:
                waiter = self._waiting.get(outcome["id"])
            if waiter is not None:
                waiter.outcome = outcome
                waiter.event.set()
        self._dead.set()
        with self._lock:
            for waiter in self._waiting.values():
                waiter.event.set()


class _Waiter:
    def __init__(self) -> None:
        self.event = threading.Event()
        self.outcome: dict[str, Any] | None = None
