"""One thing that is wrong, and the parts of a data dir that checks look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from core.blobs import FolderBlobStore
from core.database import Database
from core.jobs import JobStore
from core.settings import Settings
from generation.models import BaseModelInfo
from retrieval.live import Retrieval

Repair = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong. `repair` mends it; None means that a person, or a backup, is needed."""

    check: str
    object_id: str
    problem: str
    repair: Repair | None = None


@dataclass(frozen=True, slots=True)
class Examination:
    """An opened data dir of a stopped service. The lock is held."""

    settings: Settings
    db: Database
    blobs: FolderBlobStore
    jobs: JobStore
    retrieval: Retrieval
    base: BaseModelInfo


Check = Callable[[Examination], Iterator[Finding]]
