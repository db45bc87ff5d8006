"""Faults of the environment, told apart from faults of the work: a disk, a memory, a server that is away or full.

What fails so would have failed with any document. Nobody is to blame and nothing to be retried by hand: the job waits,
says for what, and goes on by itself.
"""

from __future__ import annotations

import errno

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from core.errors import Unavailable

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
_SYSTEM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOLCK})
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


def _fault(error: BaseException) -> Unavailable | None:
    if isinstance(error, Unavailable):
        return error if error.retryable and error.code not in _OUR_OWN else None
    if isinstance(error, OSError) and error.errno in _DISK:
        return Unavailable(f"the disk takes no more: {error.strerror}", code="disk_full")
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SYSTEM):
        return Unavailable(f"this machine is out of memory or handles: {error}", code="system_exhausted")
    if isinstance(error, DBAPIError) and (
        error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    ):
        if "disk is full" in str(error.orig) or "No space left" in str(error.orig):
            return Unavailable("the disk of the database is full", code="disk_full")
        return Unavailable(f"the database does not answer: {type(error.orig).__name__}", code="database_unavailable")
    return None
