"""What the environment does to a job is told apart from what the job did, and costs it nothing."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from core.database import Database
from core.environment import environment_fault
from core.errors import ExtractionFailed, TsumugiError, Unavailable
from core.jobs import JobLease, JobStore
from core.jobs.machine import MAX_WAIT_S
from core.settings import Settings
from core.tables import Job, Tenant
from core.types import JobKind
from ingest import sandbox
from ingest.sandbox import Sandbox
from ingest.zygote import DISK_FULL_STATUS, STORAGE_FAILED_STATUS
from tuning.child import ChildFailed
from workers import base
from workers.base import run_job


def wrapped(error: BaseException) -> BaseException:
    try:
        raise RuntimeError("a library's own words") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("x", code="index_unreachable"), "index_unreachable"),
        (Unavailable("x", code="blob_store_unavailable"), "blob_store_unavailable"),
        (Unavailable("x", code="embedder_unreachable"), "embedder_unreachable"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage_full"),
        (wrapped(OSError(errno.EDQUOT, "Quota exceeded")), "storage_full"),
        (OSError(errno.EROFS, "Read-only file system"), "storage_failed"),
        (OSError(errno.EIO, "Input/output error"), "storage_failed"),
        (PermissionError(errno.EACCES, "Permission denied"), "storage_failed"),
        (OSError(errno.EMFILE, "Too many open files"), "system_exhausted"),
        (MemoryError(), "system_exhausted"),
        (OperationalError("q", {}, Exception("database or disk is full")), "storage_full"),
        (OperationalError("q", {}, Exception("attempt to write a readonly database")), "storage_failed"),
        (OperationalError("q", {}, Exception("disk I/O error")), "storage_failed"),
        (OperationalError("q", {}, Exception("could not extend file: No space left on device")), "storage_full"),
        (DatabaseError("q", {}, Exception("database disk image is malformed")), "storage_failed"),
        (DatabaseError("q", {}, Exception("no such column")), None),
        (OperationalError("q", {}, Exception("connection refused")), "database_unavailable"),
        (ChildFailed("x", code="storage_full", retryable=True), "storage_full"),
        (ChildFailed("x", code="train_failed"), None),
        (Unavailable("x", code="index_rejected", retryable=False), None),
        (Unavailable("x", code="index_incomplete"), None),
        (Unavailable("x", code="blob_damaged"), None),
        (ExtractionFailed("x", code="no_text"), None),
        (ExtractionFailed("x", code="extraction_crashed", retryable=True), None),
        (IntegrityError("q", {}, Exception("unique")), None),
        (FileNotFoundError(errno.ENOENT, "no such file"), None),
        (ValueError("x"), None),
    ],
)
def test_faults_of_the_environment_are_told_apart(error: BaseException, code: str | None) -> None:
    fault = environment_fault(error)
    assert (fault and fault.code) == code


class Clock:
    def __init__(self) -> None:
        self.now = datetime.fromisoformat("2030-01-01T00:00:00+00:00")

    def __call__(self) -> datetime:
        return self.now


def attempt(jobs: JobStore, clock: Clock, job: Job, work: Callable[[JobLease], object]) -> tuple[Job, float]:
    """One attempt as soon as it may begin; (the job after it, seconds until the next)."""
    row = jobs.get(job.id, job.tenant_id)
    clock.now = max(clock.now, row.not_before or clock.now) + timedelta(seconds=1)
    run_job(jobs, job.id, work)
    row = jobs.get(job.id, job.tenant_id)
    return row, (row.not_before - clock.now).total_seconds() if row.not_before else 0.0


def test_a_job_waits_with_growing_pauses_and_keeps_its_budget(
    database: Database, settings: Settings, tenant: Tenant
) -> None:
    clock = Clock()
    jobs = JobStore(database, settings, None, clock=clock)
    with database.write() as session:
        job = jobs.create(session, tenant_id=tenant.id, kind=JobKind.DELETE, subject_id="doc_1")

    def away(_: JobLease) -> None:
        raise Unavailable("the index cannot be reached", code="index_unreachable")

    pauses = []
    for _ in range(12):
        row, pause = attempt(jobs, clock, job, away)
        assert (row.status, row.failures, row.crashes) == ("queued", 0, 0)
        assert row.error == {"code": "index_unreachable", "detail": "the index cannot be reached", "retryable": True}
        pauses.append(pause)
    assert pauses == sorted(pauses) and pauses[0] < pauses[3] and pauses[-1] == pytest.approx(MAX_WAIT_S)
    assert [(entry["reason"], entry["times"]) for entry in row.attempts_log] == [("waiting", 12)]

    def throttled(_: JobLease) -> None:
        raise Unavailable("later", code="index_throttled", extra={"retry_after_s": 600.0})

    assert attempt(jobs, clock, job, throttled)[1] == pytest.approx(600)

    def own_fault(_: JobLease) -> None:
        raise ValueError("a bug")

    row, _ = attempt(jobs, clock, job, own_fault)
    assert row.failures == 1, "the work's own errors still have a budget"
    row, _ = attempt(jobs, clock, job, lambda _: None)
    assert (row.status, row.error) == ("succeeded", None)


def test_a_job_whose_database_went_away_ends_when_it_is_back(
    database: Database, settings: Settings, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as one whose worker died: that has a budget."""
    monkeypatch.setattr(base, "_PAUSES_S", (0.0,))
    jobs = JobStore(database, settings, None)
    with database.write() as session:
        job = jobs.create(session, tenant_id=tenant.id, kind=JobKind.DELETE, subject_id="doc_1")
    real, refusals = JobLease.wait, iter(range(3))

    def wait(self: JobLease, fault: Unavailable) -> None:
        if next(refusals, None) is not None:
            raise OperationalError("q", {}, Exception("connection refused"))
        real(self, fault)

    monkeypatch.setattr(JobLease, "wait", wait)

    def away(_: JobLease) -> None:
        raise OperationalError("q", {}, Exception("connection refused"))

    run_job(jobs, job.id, away)
    row = jobs.get(job.id, tenant.id)
    assert (row.status, row.failures, row.crashes) == ("queued", 0, 0)
    assert row.error is not None and row.error["code"] == "database_unavailable"


@pytest.mark.parametrize(
    ("outcome", "kind", "code", "retryable"),
    [
        ({"status": STORAGE_FAILED_STATUS}, Unavailable, "storage_failed", True),
        ({"status": -signal.SIGKILL, "max_rss_bytes": 2**27}, ExtractionFailed, "extraction_killed", True),
        ({"status": -signal.SIGKILL, "max_rss_bytes": 2**31}, ExtractionFailed, "extraction_out_of_memory", False),
        ({"status": -signal.SIGKILL, "timed_out": True}, ExtractionFailed, "extraction_timeout", False),
        ({"status": -signal.SIGSEGV}, ExtractionFailed, "extraction_crashed", False),
    ],
)
def test_how_a_reader_ended_says_whose_fault_it_was(
    settings: Settings, tmp_path: Path, outcome: dict[str, object], kind: type[TsumugiError], code: str, retryable: bool
) -> None:
    box = Sandbox(settings.ingest, tmp_path / "work")
    with pytest.raises(kind) as raised:
        box._judge({"id": "x", "timed_out": False, "max_rss_bytes": 0, "cpu_s": 0.1, **outcome}, "a.pdf")
    assert (raised.value.code, raised.value.retryable) == (code, retryable)
    box.close()


def test_a_full_disk_is_never_booked_on_a_document(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Sandbox(settings.ingest, tmp_path / "work")
    ended = {"id": "x", "status": DISK_FULL_STATUS, "timed_out": False, "max_rss_bytes": 0, "cpu_s": 0.1}
    with pytest.raises(Unavailable) as raised:
        box._judge(ended, "a.pdf")
    assert raised.value.code == "storage_full"
    crashed = {**ended, "status": 1}
    with pytest.raises(ExtractionFailed) as failed:
        box._judge(crashed, "a.pdf")
    assert failed.value.code == "extraction_crashed"
    monkeypatch.setattr(sandbox, "FULL_BELOW_BYTES", 2**62)  # a converter that found no room says it in its own words
    with pytest.raises(Unavailable):
        box._judge(crashed, "a.pdf")
    with pytest.raises(Unavailable):
        box._judge({"id": "x", "refused": os.strerror(errno.EAGAIN)}, "a.pdf")
    box.close()
