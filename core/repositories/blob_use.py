"""Bytes before rows, and rows before the end of bytes: no call to the blob store happens inside a transaction.

Whoever stores a blob holds a shared lock on it until the row that names it is committed; whoever drops one holds the
lock alone, and looks at the rows under it. So a slow bucket delays those who wait for these very bytes and nobody else.
The locks live outside transactions: in SQLite's one process in memory, in PostgreSQL as advisory locks of a session.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import structlog
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from core.contents import Content, FileOnDisk, sha256_of
from core.database import Database
from core.errors import Unavailable
from core.ports import BlobStore
from core.tables.datasets import Dataset
from core.tables.documents import DocumentGeneration

log = structlog.stdlib.get_logger(__name__)

_CLASS = 0x74736D67
"""First half of the keys of these advisory locks."""

_BUCKETS = 512
"""Digests share so many locks: an archive of 4,000 files must not fill the server's lock table of some 6,400."""

_WAIT_S = 60.0
_ASK_AGAIN_S = 0.05


@contextmanager
def storing(db: Database, blobs: BlobStore, contents: Iterable[Content]) -> Iterator[Callable[[], None]]:
    """Store bytes, then let the block commit the rows that name them; nobody drops them in between.

    Yields what the block calls last in its transaction: it raises where the lock was lost with its connection. When
    the block fails, what it would have named goes again.

    Raises:
        Unavailable: the store does not take them, or stays busy dropping one of them.
    """
    held = {sha256_of(content): content for content in contents}
    try:
        with _shared(db, held) as check:
            for content in held.values():
                if isinstance(content, FileOnDisk):
                    blobs.put_file(content.path)
                else:
                    blobs.put(content)
            yield check
    except BaseException:
        try:
            drop_unused(db, blobs, held)
        except (
            Unavailable,
            OSError,
            SQLAlchemyError,
        ) as error:  # the first error is the one to tell; `doctor` finds these
            log.warning("blobs.left", count=len(held), reason=str(error))
        raise


def drop_unused(db: Database, blobs: BlobStore, digests: Iterable[str]) -> list[str]:
    """Delete those that no committed row names; returns them. Call outside any transaction; calling again is fine.

    Raises:
        Unavailable: the store does not answer, or somebody stores such bytes for longer than a minute.
    """
    dropped = []
    for digest in sorted(digests):
        with _alone(db, digest):
            with db.read() as session:
                used = blob_is_used(session, digest)
            if not used:
                blobs.delete(digest)
                dropped.append(digest)
    return dropped


def blob_is_used(session: Session, digest: str) -> bool:
    """Whether a generation or a dataset of any tenant names a blob."""
    users = (
        select(DocumentGeneration.document_id).where(DocumentGeneration.source_sha256 == digest),
        select(DocumentGeneration.document_id).where(DocumentGeneration.text_sha256 == digest),
        select(Dataset.id).where((Dataset.source_sha256 == digest) | (Dataset.content_sha256 == digest)),
    )
    return any(session.execute(query.limit(1)).first() is not None for query in users)


class _Holders:
    """Who holds which digest in this process."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.storing: Counter[str] = Counter()
        self.dropping: set[str] = set()


_holders: WeakKeyDictionary[Database, _Holders] = WeakKeyDictionary()
_holders_lock = threading.Lock()


def _holders_of(db: Database) -> _Holders:
    with _holders_lock:
        return _holders.setdefault(db, _Holders())


@contextmanager
def _shared(db: Database, digests: Iterable[str]) -> Iterator[Callable[[], None]]:
    if not db.is_sqlite:
        with db.session_locks() as connection:
            for bucket in sorted({_bucket(digest) for digest in digests}):
                _ask(connection, "pg_try_advisory_lock_shared", bucket)

            def check() -> None:
                connection.execute(text("SELECT 1"))

            yield check
        return
    holders, held = _holders_of(db), set(digests)
    with holders.changed:
        if not holders.changed.wait_for(lambda: not held & holders.dropping, _WAIT_S):
            raise _busy()
        holders.storing.update(held)
    try:
        yield lambda: None
    finally:
        with holders.changed:
            holders.storing.subtract(held)
            for digest in held:
                if not holders.storing[digest]:
                    del holders.storing[digest]
            holders.changed.notify_all()


@contextmanager
def _alone(db: Database, digest: str) -> Iterator[None]:
    if not db.is_sqlite:
        with db.session_locks() as connection:
            _ask(connection, "pg_try_advisory_lock", _bucket(digest))
            yield
        return
    holders = _holders_of(db)
    with holders.changed:
        free = holders.changed.wait_for(
            lambda: digest not in holders.storing and digest not in holders.dropping, _WAIT_S
        )
        if not free:
            raise _busy()
        holders.dropping.add(digest)
    try:
        yield
    finally:
        with holders.changed:
            holders.dropping.discard(digest)
            holders.changed.notify_all()


def _ask(connection: Connection, function: str, bucket: int) -> None:
    """Ask again and again instead of waiting in the server, where one who wants it alone makes all others queue up."""
    deadline = time.monotonic() + _WAIT_S
    pause = threading.Event()
    while not connection.execute(
        text(f"SELECT {function}(:class, :bucket)"), {"class": _CLASS, "bucket": bucket}
    ).scalar():
        if time.monotonic() > deadline:
            raise _busy()
        pause.wait(_ASK_AGAIN_S)


def _bucket(digest: str) -> int:
    return int(digest[:8], 16) % _BUCKETS


def _busy() -> Unavailable:
    return Unavailable("these bytes are being stored or dropped for a minute already", code="blob_store_unavailable")
