"""Composition of erasures and retention."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from core.database import Database
from core.jobs import JobStore
from core.ports import BlobStore, Engine
from core.settings import Settings
from erasure.runner import ErasureRunner
from tuning.service import TuningService

if TYPE_CHECKING:
    from retrieval.live import Retrieval


def build_erasure(
    settings: Settings,
    db: Database,
    blobs: BlobStore,
    jobs: JobStore,
    retrieval: Retrieval,
    engine: Callable[[], Engine | None],
) -> ErasureRunner:
    """For a process that can write the index. engine: that of this process, if it has one; asked when it is needed."""
    return ErasureRunner(db, blobs, jobs, retrieval, settings, TuningService(db, jobs, settings), engine)
