"""What tasks call. A composition root fills it in; tasks themselves take ids and build nothing."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from core.jobs import JobLease, JobStore
from core.settings import Settings
from workers.desk import Desk


class IngestPipeline(Protocol):
    """Works on jobs of the kinds INGEST, DELETE, ACCESS and COLLECTION."""

    def run(self, lease: JobLease) -> object:
        """Extract, chunk, embed, index, switch."""
        ...

    def delete(self, lease: JobLease) -> object:
        """Remove what is left of a deleted document."""
        ...

    def bring_access(self, lease: JobLease) -> object:
        """Carry groups and collection of a document into the index."""
        ...

    def delete_collection(self, lease: JobLease) -> object:
        """Remove what is left of a deleted collection."""
        ...


class IndexBuilder(Protocol):
    """Works on jobs of the kind INDEX."""

    def run(self, lease: JobLease) -> object:
        """Fill an index version beside the one that serves."""
        ...


class DatasetBuilder(Protocol):
    """Works on jobs of the kind DATASET."""

    def run(self, lease: JobLease) -> object:
        """Have a teacher write or revise training rows."""
        ...


class EvaluationRunner(Protocol):
    """Works on jobs of the kind EVALUATION."""

    def run(self, lease: JobLease) -> object:
        """Ask a tenant's own questions of the service as it serves."""
        ...


class JudgeCalibrator(Protocol):
    """Works on jobs of the kind CALIBRATION."""

    def run(self, lease: JobLease) -> object:
        """Have the judges judge what people have judged."""
        ...


class ErasureRunner(Protocol):
    """Works on jobs of the kind ERASURE."""

    def run(self, lease: JobLease) -> object:
        """Plan an erasure, or carry it out."""
        ...


class Upkeep(Protocol):
    """What keeps stored things within their time."""

    def sweep(self, now: datetime | None = None) -> object:
        """Remove what is past its time, on this machine and in the database."""
        ...


class TuningRunner(Protocol):
    """Works on jobs of the kind TUNING, in two parts."""

    def prepare(self, lease: JobLease) -> object:
        """Build the training rows; reads the index, so it runs where the index lives; hands over to `train`."""
        ...

    def train(self, lease: JobLease) -> object:
        """Train in a subprocess, evaluate, gate, register."""
        ...


class Schedules(Protocol):
    """Tuning schedules."""

    def run_due(self, now: datetime | None = None) -> object:
        """Judge every schedule whose moment has come."""
        ...


class Canaries(Protocol):
    """Running canaries."""

    def look(self, now: datetime | None = None) -> object:
        """Count, test, roll back or pass."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Services of one worker process. None where this process never gets such tasks."""

    settings: Settings
    jobs: JobStore
    ingest_pipeline: IngestPipeline | None = None
    index_builder: IndexBuilder | None = None
    dataset_builder: DatasetBuilder | None = None
    judge_calibrator: JudgeCalibrator | None = None
    evaluation_runner: EvaluationRunner | None = None
    erasure_runner: ErasureRunner | None = None
    desk: Desk | None = None
    """Where evaluations run, if not in the thread that got the message."""
    tuning_runner: TuningRunner | None = None
    schedules: Schedules | None = None
    canaries: Canaries | None = None
    retention: Upkeep | None = None


_lock = threading.Lock()
_context: WorkerContext | None = None


def set_context(context: WorkerContext | None) -> None:
    """Give this process its services; before any worker starts."""
    global _context  # noqa: PLW0603 - Celery makes the task objects, so they cannot be handed the context
    with _lock:
        _context = context


def get_context() -> WorkerContext:
    """Services of this process."""
    with _lock:
        if _context is None:
            raise RuntimeError("no WorkerContext: the composition root must call set_context first")
        return _context
