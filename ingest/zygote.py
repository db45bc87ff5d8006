"""The extractors' mother process: libraries loaded once, then one fork per document. Run by `ingest.sandbox`.

Starting Python with the extraction libraries takes 0.4 s of CPU, a fork takes 5 ms. The process has one thread, so
forking it is safe; it reads requests as JSON lines from standard input and answers on standard output. When standard
input closes, because its parent ended in whatever way, it kills its children and ends.

Each child gets: limits on address space, CPU time, file size and open files; no core dump; an own session, so that
everything it may start dies with it; no network; a folder of its own as working directory, and, where the kernel has
Landlock, as the only place that it can write to. Without Landlock, only the user's own permissions limit its writes.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import selectors
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ingest.landlock import landlock_version, write_only_below
from ingest.mounts import OWN_TMP, may_need_converter, mount_over_tmp

DISK_FULL_STATUS = 120
"""Exit status of a child that found no room for what it wrote: no fault of its document."""
STORAGE_FAILED_STATUS = 121
"""The same of one to which its disk failed: read-only, or with errors of its own."""
OUT_OF_MEMORY_STATUS = 86
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_MAX_OPEN_FILES = 64


@dataclass(slots=True)
class _Child:
    request_id: str
    deadline: float
    timed_out: bool = False


def main() -> None:
    """Serve until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    network = _give_up_network()
    _preload()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    os.set_blocking(read_end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    _answer({"ready": True, "network": network, "files": "landlock" if landlock_version() else "limits"})
    _serve(read_end)


def _serve(wakeup: int) -> None:
    children: dict[int, _Child] = {}
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(wakeup, selectors.EVENT_READ)
    pending = b""
    while True:
        now = time.monotonic()
        next_deadline = min((child.deadline for child in children.values() if not child.timed_out), default=now + 3600)
        for key, _ in selector.select(max(0.0, next_deadline - now)):
            if key.fd == wakeup:
                _drain(wakeup)
                continue
            received = os.read(0, 65536)
            if not received:
                for pid in children:
                    _kill(pid)
                return
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                _take(json.loads(line), children)
        _reap(children)
        for pid, child in children.items():
            if not child.timed_out and time.monotonic() >= child.deadline:
                child.timed_out = True
                _kill(pid)


def _take(request: dict[str, Any], children: dict[int, _Child]) -> None:
    if "cancel" in request:
        for pid, child in children.items():
            if child.request_id == request["cancel"]:
                _kill(pid)
        return
    try:
        pid = os.fork()
    except OSError as error:
        _answer({"id": request["id"], "refused": str(error)})
        return
    if pid == 0:
        _run_child(request)
    children[pid] = _Child(request["id"], time.monotonic() + float(request["timeout_s"]))


def _reap(children: dict[int, _Child]) -> None:
    while children:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return
        # What it started, such as a converter that took too long, ends with it: while it is not reaped its number
        # stands for this group and no other.
        _kill(ended.si_pid)
        pid, status, usage = os.wait4(ended.si_pid, 0)
        child = children.pop(pid, None)
        if child is not None:
            _answer(
                {
                    "id": child.request_id,
                    "status": os.waitstatus_to_exitcode(status),
                    "timed_out": child.timed_out,
                    "max_rss_bytes": usage.ru_maxrss * 1024,
                    "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
                }
            )


def _run_child(request: dict[str, Any]) -> NoReturn:
    """Everything after the fork. Never returns, never raises into the mother's loop."""
    status = STORAGE_FAILED_STATUS  # until the document is read, nothing that goes wrong is its doing
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        folder = Path(request["folder"])
        data = b"" if "wanted" in request else Path(request["input"]).read_bytes()
        if may_need_converter(data) and mount_over_tmp(folder):
            folder = OWN_TMP
        os.chdir(folder)
        # For programs that are started: Tesseract's threads wait for one another longer than they save.
        os.environ.update(HOME=str(folder), TMPDIR=str(folder), OMP_THREAD_LIMIT="1")
        tempfile.tempdir = str(folder)
        os.nice(10)
        _limit(resource.RLIMIT_CORE, 0)
        # The soft limit says SIGXCPU, which names the cause; the hard one, a little later, cannot be caught.
        _limit(resource.RLIMIT_CPU, int(request["cpu_s"]), grace=2)
        _limit(resource.RLIMIT_FSIZE, int(request["output_bytes"]))
        _limit(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
        _limit(resource.RLIMIT_AS, int(request["memory_bytes"]))
        write_only_below(folder)
        status = 1
        status = _extract(folder, data, request)
    except MemoryError:
        status = OUT_OF_MEMORY_STATUS
    except BaseException as error:  # noqa: BLE001 - the only way out is _exit; the parent tells what it means
        status = _status_of_system(error) or status
    finally:
        os._exit(status)


def _extract(folder: Path, data: bytes, request: dict[str, Any]) -> int:
    from core.archives import Wanted
    from core.contents import FileOnDisk
    from core.errors import TsumugiError
    from ingest.extract import extract_document
    from ingest.extract.archive import unpack_wanted
    from ingest.extract.decrypt import unlock
    from ingest.extract.ocr import configure_ocr
    from ingest.extract.page_image import draw_page
    from ingest.wire import (
        MEMBERS_FOLDER,
        read_page_request,
        write_document,
        write_error,
        write_members,
        write_page,
        write_unlocked,
    )

    try:
        if "wanted" in request:
            path = Path(request["input"])
            (folder / MEMBERS_FOLDER).mkdir()
            archive = FileOnDisk(path, path.stat().st_size, "")
            wanted = Wanted(**request["wanted"])
            write_members(unpack_wanted(archive, folder / MEMBERS_FOLDER, wanted), folder)
            return 0
        if "password" in request:
            write_unlocked(unlock(data, request["password"], encoding=request["encoding"]), folder)
            return 0
        configure_ocr(float(request["ocr_s"]), request["ocr_engine"])
        if "page" in request:
            drawn = draw_page(data, *read_page_request(folder))
            write_page(drawn.png, drawn.boxes, folder)
            return 0
        document = extract_document(
            data, request["filename"], max_chars=int(request["max_chars"]), encoding=request["encoding"]
        )
        write_document(document, folder)
    except TsumugiError as error:
        status = _status_of_system(error)
        if status is not None:
            return status
        write_error(error.code, error.detail, folder, retryable=error.retryable)
    except MemoryError:
        return OUT_OF_MEMORY_STATUS
    except RecursionError:
        write_error("too_deeply_nested", "the document is nested too deeply to be read", folder)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        (folder / "text").unlink(missing_ok=True)
        write_error("text_too_long", "the extracted text passes the output limit; split the document", folder)
    except Exception as error:  # noqa: BLE001 - any library error on hostile bytes fails this document alone
        status = _status_of_system(error)
        if status is not None:
            return status
        write_error("extraction_crashed", f"{type(error).__name__}: {error}", folder)
    return 0


def _status_of_system(error: BaseException) -> int | None:
    """Exit status for what the machine did, also where a library wrapped it; None for what the document did.

    Handles and forbidden paths are no fault of the machine here: the child has limits of its own on both.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            if seen.errno in {errno.ENOSPC, errno.EDQUOT}:
                return DISK_FULL_STATUS
            if seen.errno in {errno.EROFS, errno.EIO}:
                return STORAGE_FAILED_STATUS
            if seen.errno == errno.ENOMEM:
                return OUT_OF_MEMORY_STATUS
        seen = seen.__cause__ or seen.__context__
    return None


def _limit(kind: int, value: int, *, grace: int = 0) -> None:
    _, hard = resource.getrlimit(kind)
    ceiling = value + grace if hard == resource.RLIM_INFINITY else min(value + grace, hard)
    resource.setrlimit(kind, (min(value, ceiling), ceiling))


def _give_up_network() -> str:
    """A network namespace with nothing in it where the kernel allows that, else sockets are made to raise.

    The second kind stops library code, not machine code that has taken over the process.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET):
            if libc.unshare(flags) == 0:
                return "namespace"
    import socket

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EACCES, "extractors have no network")

    socket.socket.__init__ = refuse  # type: ignore[method-assign]
    return "guard"


def _preload() -> None:
    """Load what the extractors import inside their functions."""
    import email.policy  # noqa: F401

    import bs4  # noqa: F401 - loads the parsers that extractors share
    import chardet  # noqa: F401
    import filetype  # noqa: F401
    import lxml.etree
    import lxml.html  # noqa: F401
    import pdfminer.high_level  # noqa: F401
    import PIL.Image  # noqa: F401
    import pptx  # noqa: F401
    import pypdfium2  # noqa: F401
    import python_calamine  # noqa: F401

    import ingest.extract.archive
    import ingest.extract.csv_table
    import ingest.extract.decrypt
    import ingest.extract.docx
    import ingest.extract.epub
    import ingest.extract.html
    import ingest.extract.legacy
    import ingest.extract.mail
    import ingest.extract.markdown
    import ingest.extract.ocr
    import ingest.extract.opendocument
    import ingest.extract.page_image
    import ingest.extract.pdf
    import ingest.extract.rtf
    import ingest.extract.slides
    import ingest.extract.text
    import ingest.extract.workbook
    import ingest.quality
    import ingest.wire  # noqa: F401
    from ingest.extract.ocr_rapid import preload_rapid

    preload_rapid()


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        # Before its setsid the child has no group of its own; after its end it has no process either.
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        return


def _answer(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
