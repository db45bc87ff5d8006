"""Composition root of tuning. The service takes all of it, the training worker only the runner."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from core.blobs import open_blobs
from core.database import Database
from core.gpu import GpuLeases
from core.jobs import JobStore
from core.ports import BlobStore
from core.settings import Settings
from generation.engines.vllm_sleep import VllmSleeper
from tuning.datasets.service import DatasetService
from tuning.judging import JudgeCalibrator
from tuning.negatives import Search
from tuning.runner import Registry, TuningRunner
from tuning.schedules import SchedulesService
from tuning.service import TuningService
from tuning.teacher.builds import DatasetBuilder

if TYPE_CHECKING:
    from generation.models import BaseModelInfo


class HasSearcher(Protocol):
    """The part of `retrieval.build.Retrieval` that is used here."""

    @property
    def searcher(self) -> Search:
        """Search over the live index."""
        ...


@dataclass(frozen=True, slots=True)
class Tuning:
    """Everything about tuning that a process can offer."""

    datasets: DatasetService
    service: TuningService
    schedules: SchedulesService
    runner: TuningRunner
    builder: DatasetBuilder
    calibrator: JudgeCalibrator


def build_tuning(
    settings: Settings,
    db: Database,
    blobs: BlobStore,
    jobs: JobStore,
    registry: Registry,
    retrieval: HasSearcher | None = None,
    base: BaseModelInfo | None = None,
) -> Tuning:
    """Services over one database.

    retrieval: the live index, where this process owns one; negatives come from it. base: default is the prepared base
    of this data dir.
    """
    service = TuningService(db, jobs, settings)
    search = None if retrieval is None else retrieval.searcher
    runner = TuningRunner(
        db,
        blobs,
        registry,
        settings,
        base=base_of(settings) if base is None else lambda: base,
        search=search,
    )
    datasets = DatasetService(db, blobs, settings.tuning.default_family)
    builder = DatasetBuilder(db, datasets, settings.tuning, search)
    calibrator = JudgeCalibrator(db, settings.tuning)
    return Tuning(datasets, service, SchedulesService(db, service), runner, builder, calibrator)


def build_runner(settings: Settings, db: Database, jobs: JobStore) -> TuningRunner:
    """The runner of the training worker: no index and no engine there; the base is looked up at the first run."""
    from generation.adapters.registry import AdapterRegistry

    sleeper = VllmSleeper(settings.endpoint) if settings.generation.engine == "vllm" else None
    return TuningRunner(
        db,
        open_blobs(settings),
        AdapterRegistry(db, settings, None),
        settings,
        base=base_of(settings),
        gpus=GpuLeases(db, settings.gpu, sleeper=sleeper),
    )


def base_of(settings: Settings) -> Callable[[], BaseModelInfo]:
    """The prepared base of this data dir, made when nobody has yet; looked up once, safe from several threads."""
    lock = threading.Lock()
    found: list[BaseModelInfo] = []

    def look_up() -> BaseModelInfo:
        from generation.build import build_base

        with lock:
            if not found:
                found.append(build_base(settings))
            return found[0]

    return look_up
