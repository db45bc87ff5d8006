"""The real training worker process around a scripted runner: `python -m tests.integration.scripted_tuning_worker`.

The runner starts a sleeping child, as a training would, writes its pid beside the database, and works until stopped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from core.database import Database
from core.jobs import JobLease, JobStore
from core.settings import Settings
from workers import tuning_worker
from workers.context import WorkerContext


class SleepingRunner:
    def __init__(self, settings: Settings) -> None:
        self._folder = settings.data_dir

    def prepare(self, lease: JobLease) -> object:
        raise AssertionError("the training worker does not consume this queue")

    def train(self, lease: JobLease) -> object:
        lease.progress("train", 0.5)  # in the row before the pids are told: the tests kill as soon as they are
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        new = self._folder / "pids.new"
        new.write_text(f"{os.getpid()} {child.pid}")
        new.rename(self._folder / "pids")
        if lease.attempt > 1 and lease.arguments.get("end_on_second"):
            return None
        while True:
            lease.progress("train", 0.5)
            lease.check()
            time.sleep(0.02)


def build_context(settings: Settings, db: Database, jobs: JobStore) -> WorkerContext:
    return WorkerContext(settings=settings, jobs=jobs, tuning_runner=SleepingRunner(settings))


if __name__ == "__main__":
    tuning_worker.build_context = build_context
    code = tuning_worker.main()
    sys.stdout.flush()
    os._exit(code)
