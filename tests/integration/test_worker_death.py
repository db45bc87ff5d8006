"""Workers that die: by SIGKILL, by SIGTERM, with their parent. The real training worker in processes of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from core.database import Database
from core.errors import LeaseLost
from core.jobs import JobLease, JobStore
from core.queue import CeleryTaskQueue, Task
from core.settings import Settings, load_settings
from core.tables import Job, Tenant
from core.types import JobKind, JobStatus

ROOT = Path(__file__).parents[2]
WORKER = [sys.executable, "-m", "tests.integration.scripted_tuning_worker"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path, jobs={"stalled_after_s": 3600, "resend_after_s": 0.5})


@pytest.fixture
def jobs(database: Database, settings: Settings, redis_url: str) -> Iterator[JobStore]:
    queue = CeleryTaskQueue(redis_url)
    yield JobStore(database, settings, queue)
    queue.close()


@contextmanager
def worker(settings: Settings, redis_url: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [*WORKER, "--data-dir", str(settings.data_dir), "--broker", redis_url, *options]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def training(jobs: JobStore, database: Database, tenant: Tenant, **arguments: object) -> Job:
    with database.write() as session:
        return jobs.create(
            session,
            tenant_id=tenant.id,
            kind=JobKind.TUNING,
            subject_id="run_1",
            task=Task.TUNING_TRAIN,
            arguments=arguments,
        )


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for what another process does, which no event here can tell."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def pids(settings: Settings) -> tuple[int, int]:
    path = settings.data_dir / "pids"
    until(path.exists)
    worker_pid, child_pid = path.read_text().split()
    path.unlink()
    return int(worker_pid), int(child_pid)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_killed_worker_is_noticed_and_its_job_redone_by_the_next(
    jobs: JobStore, database: Database, settings: Settings, tenant: Tenant, redis_url: str
) -> None:
    job = training(jobs, database, tenant, end_on_second=True)
    with worker(settings, redis_url) as process:
        _, child = pids(settings)
        old = JobLease(database, jobs._machine, settings.jobs, threading.Event(), jobs.get(job.id, tenant.id))
        old.check()  # a handle on the same attempt, as the worker holds it
        process.kill()
        process.wait()
    psutil.Process(child).kill()  # SIGKILL gave the worker no chance; the real trainer watches its parent
    assert jobs.get(job.id, tenant.id).status == JobStatus.RUNNING
    assert jobs.sweep().stalled == 1  # at once, though the heartbeat may be silent for an hour here
    with worker(settings, redis_url):
        _, child = pids(settings)
        ended = jobs.wait(job.id, tenant.id, 30.0)
        psutil.Process(child).kill()
    assert (ended.status, ended.attempt, ended.crashes, ended.failures) == (JobStatus.SUCCEEDED, 2, 1, 0)
    assert ended.attempts_log[0]["reason"] == "worker_lost" and ended.attempts_log[0]["stage"] == "train"
    with pytest.raises(LeaseLost), old.write():
        pytest.fail("the fence let an old attempt in")


def test_sigterm_gives_the_job_back_and_leaves_no_process(
    jobs: JobStore, database: Database, settings: Settings, tenant: Tenant, redis_url: str
) -> None:
    job = training(jobs, database, tenant)
    with worker(settings, redis_url) as process:
        _, child = pids(settings)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert gone(child)
    after = jobs.get(job.id, tenant.id)
    assert (after.status, after.failures, after.crashes) == (JobStatus.QUEUED, 0, 0)
    assert after.attempts_log[-1]["reason"] == "interrupted"


def test_cancel_reaches_another_process(
    jobs: JobStore, database: Database, settings: Settings, tenant: Tenant, redis_url: str
) -> None:
    job = training(jobs, database, tenant)
    with worker(settings, redis_url):
        _, child = pids(settings)
        jobs.request_cancel(job.id, tenant.id)
        assert jobs.wait(job.id, tenant.id, 10.0).status == JobStatus.CANCELLED
        psutil.Process(child).kill()


def test_a_worker_ends_with_its_parent_and_takes_its_children_down(
    jobs: JobStore, database: Database, settings: Settings, tenant: Tenant, redis_url: str
) -> None:
    training(jobs, database, tenant)
    command = [*WORKER, "--data-dir", str(settings.data_dir), "--broker", redis_url, "--parent-pid"]
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys; subprocess.Popen([*sys.argv[1:], str(os.getpid())]).wait()",
            *command,
        ],
        cwd=ROOT,
    )
    worker_pid, child_pid = pids(settings)
    assert psutil.Process(worker_pid).ppid() == parent.pid
    parent.kill()
    parent.wait()
    until(lambda: gone(worker_pid) and gone(child_pid), 10.0)


def test_a_parent_that_is_already_gone_is_noticed(settings: Settings, redis_url: str) -> None:
    with worker(settings, redis_url, "--parent-pid", str(2**22 - 1)) as process:
        assert process.wait(30) == 1
