"""Faults of the environment, told apart from faults of the work: a disk, a memory, a server that is away or full.

What fails so would have failed with any document. Nobody is to blame and nothing to be retried by hand: the job waits,
says for what, and goes on by itself.
"""

from __future__ import annotations

import errno

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from core.errors import TsumugiError, Unavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_STORAGE = frozenset({errno.EROFS, errno.EIO, errno.EACCES})
_SYSTEM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOLCK})
_FULL_DATABASE = ("disk is full", "no space left")
_BAD_STORAGE = ("readonly database", "disk i/o error", "unable to open database file")
STORAGE_CODES = frozenset({"storage_full", "storage_failed"})
"""Codes of a disk that takes no more, or none."""
_DAMAGED = ("disk image is malformed", "file is not a database")
_OUR_OWN = frozenset({"index_incomplete", "blob_damaged", "host_not_found", "fetch_failed", "index_version_in_use"})
"""Unavailable all the same, but of this object alone: trying again has a budget."""


def environment_fault(error: BaseException) -> Unavailable | None:
    """The error as something to wait for, or None when it is the work's own."""
    seen: BaseException | None = error
    while seen is not None:
        found = _fault(seen)
        if found is not None:
            return found
        seen = seen.__cause__
    return None


def says_disk_is_full(text: str) -> bool:
    """Whether the words of a library that tells no error number are those of a full disk."""
    folded = text.casefold()
    return any(words in folded for words in ("no space left", "os error 28)", "disk quota exceeded", *_FULL_DATABASE))


def _fault(error: BaseException) -> Unavailable | None:
    if isinstance(error, Unavailable):
        return error if error.retryable and error.code not in _OUR_OWN else None
    if isinstance(error, TsumugiError) and error.code in STORAGE_CODES:
        return Unavailable(error.detail, code=error.code)
    if isinstance(error, OSError) and error.errno in _FULL:
        return Unavailable(f"the disk takes no more: {error.strerror}", code="storage_full")
    if isinstance(error, OSError) and error.errno in _STORAGE:
        return Unavailable(f"the disk cannot be used: {error.strerror}", code="storage_failed")
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SYSTEM):
        said = error.strerror if isinstance(error, OSError) else "no memory"  # without the path that it may name
        return Unavailable(f"this machine is out of memory or handles: {said}", code="system_exhausted")
    if isinstance(error, DBAPIError):
        if any(words in str(error.orig) for words in _DAMAGED):
            return Unavailable("the file of the database is damaged; `tsumugi doctor` says more", code="storage_failed")
        if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
            return _database_fault(error)
    return None


def _database_fault(error: DBAPIError) -> Unavailable:
    said = str(error.orig).casefold()
    if any(words in said for words in _FULL_DATABASE):
        return Unavailable("the disk of the database is full", code="storage_full")
    if any(words in said for words in _BAD_STORAGE):
        return Unavailable(f"the disk of the database cannot be used: {error.orig}", code="storage_failed")
    return Unavailable(f"the database does not answer: {type(error.orig).__name__}", code="database_unavailable")
