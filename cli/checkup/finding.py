"""One thing that is wrong, and the parts of a system that checks look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from core.database import Database
from core.jobs import JobStore
from core.ports import BlobStore
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
    """An opened system of either topology whose processes are stopped. The data dir's lock is held."""

    settings: Settings
    db: Database
    blobs: BlobStore
    jobs: JobStore
    retrieval: Retrieval
    base: Callable[[], BaseModelInfo | None]
    """What adapters are checked against; None where the generator takes none. Made when first asked: it may be slow."""


Check = Callable[[Examination], Iterator[Finding]]
