"""One thing that is wrong, and the parts of a system that checks look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError

from core.database import Database
from core.errors import DataDirBusy, TsumugiError
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


BROKEN = (OSError, DBAPIError, TsumugiError)
"""What looking at a broken system raises: as a finding, it does not hide the others."""


def told(check: Callable[..., Iterator[Finding]], *parts: object) -> Iterator[Finding]:
    """What a check finds. One that cannot be made, because what it reads is broken or forbidden, is a finding too."""
    try:
        yield from check(*parts)
    except DataDirBusy:
        raise
    except BROKEN as error:
        yield finding_of(check.__name__.removeprefix("check_"), error)


def finding_of(check: str, error: Exception) -> Finding:
    """An error of `BROKEN` as a finding that a person, or a backup, has to mend."""
    if isinstance(error, DBAPIError):
        return Finding(check, "database", f"cannot be read: {error.orig}; restore a backup")
    if isinstance(error, OSError):
        return Finding(check, str(error.filename or "-"), f"cannot be used: {error.strerror or error}")
    assert isinstance(error, TsumugiError)
    return Finding(check, error.code, error.detail)
