"""The index versions that this process reads and writes, and which of them answers.

A search is pinned to one version from its first step to its last: embedder, lexical side, points, calibration and chunk
rows all belong together. The database says which version serves; other processes see a switch within `REREAD_S`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import structlog

from core.database import Database, WriteSession
from core.deadline import within
from core.errors import Unavailable
from core.ports import Bridge, Embedder, LexicalEncoder, VectorIndex
from core.repositories.index_versions import (
    LIVE,
    VersionStatus,
    active_version,
    documents_held,
    live_versions,
    lock_versions,
    void_version,
)
from core.settings import IngestSettings, Settings
from core.tables.operations import IndexVersion
from core.types import AccessFilter
from retrieval.relevance import RelevanceModel, load_model, newest_calibration
from retrieval.search import Searcher, SearchResult

log = structlog.stdlib.get_logger(__name__)

REREAD_S = 0.5
PIN_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class OpenVersion:
    """One index version with everything that reads or writes it."""

    id: str
    spec: Mapping[str, Any]
    chunk_set: str
    chunking: IngestSettings
    """How its chunks are cut."""
    embedder: Embedder
    lexical: LexicalEncoder
    index: VectorIndex
    searcher: Searcher
    bridge: Bridge | None = None
    """Encoder by which questions in other languages find passages; None where it has none."""


class Opener(Protocol):
    """What makes and opens versions: `retrieval.build.VersionOpener`."""

    def describe(self, settings: Settings) -> IndexVersion:
        """Row of the version that some settings make."""
        ...

    def open(self, row: IndexVersion, on_new: Callable[[], None] | None = None) -> OpenVersion:
        """Open a registered version; raises Unavailable. on_new: called before its index is made, now or later."""
        ...

    def keep_only(self, used: Collection[Embedder]) -> None:
        """Let go of models that are not used."""
        ...


@runtime_checkable
class Losable(Protocol):
    """An index that others may drop or lose."""

    on_new: Callable[[], None] | None
    """Called before it is made."""
    on_missing: Callable[[], None] | None
    """Called when it turns out to be gone."""


class Retrieval:
    """Open versions of one process. Thread-safe."""

    def __init__(
        self,
        db: Database,
        active: OpenVersion,
        opener: Opener,
        search_timeout_s: float = 10.0,
        *,
        refill_lost: bool = False,
    ) -> None:
        """search_timeout_s: for all that one search asks of others. refill_lost: see `retrieval.build`."""
        self._db = db
        self._refill_lost = refill_lost
        self.opener = opener
        self.search_timeout_s = search_timeout_s
        self.on_lost: Callable[[WriteSession, IndexVersion], None] | None = None
        """Called in the transaction that voids what a version held, because its index was lost: queues its fill."""
        self._open: dict[str, OpenVersion] = {active.id: active}
        self._active = active
        self._read_at = time.monotonic()
        self._lock = threading.RLock()
        self._mending = threading.Lock()
        self._pins: dict[str, int] = {}
        self._unpinned = threading.Condition(threading.Lock())
        self._watch(active)
        self._calibrations = {active.id: self._newest_calibration(active.id)}
        """{open version: calibration that its searcher uses}."""
        self.searcher = PinnedSearcher(self)

    @property
    def active(self) -> OpenVersion:
        """The version that serves."""
        if time.monotonic() - self._read_at > REREAD_S:
            self.refresh()
        return self._active

    @property
    def embedder(self) -> Embedder:
        """Of the version that serves."""
        return self.active.embedder

    @property
    def lexical(self) -> LexicalEncoder:
        """Of the version that serves."""
        return self.active.lexical

    @property
    def index(self) -> VectorIndex:
        """Of the version that serves."""
        return self.active.index

    @property
    def index_version(self) -> str:
        """Id of the version that serves."""
        return self.active.id

    def count(self) -> int:
        """Points of the version that serves.

        Raises:
            Unavailable: its index does not answer; `index_filling`: it lacks half or more of what it must hold.
        """
        points = self.active.index.count()
        held, wanted = self._filled()
        if held < wanted and 2 * held <= wanted:
            raise _filling(held, wanted)
        return points

    def check_complete(self) -> None:
        """Look whether the version that serves is filled.

        Raises:
            Unavailable: `index_filling`: it lacks documents that it must hold.
        """
        held, wanted = self._filled()
        if held < wanted:
            raise _filling(held, wanted)

    def _filled(self) -> tuple[int, int]:
        """(documents that the serving version holds, documents that it must hold); equal unless it is being filled."""
        with self._db.read() as session:
            row = session.get(IndexVersion, self.active.id)
            if row is None or row.status != VersionStatus.BUILDING.value:
                return 0, 0
            return documents_held(session, row.id)

    def refresh(self) -> None:
        """Serve what the database says from now on. A version that cannot be opened here leaves the old one serving."""
        with self._db.read() as session:
            row = active_version(session)
        if row is not None and row.id != self._active.id:
            try:
                opened = self.open(row)
            except Unavailable as error:
                log.error("index.switch_not_followed", version=row.id, detail=error.detail)
            else:
                self._active = opened
                log.info("index.serving", version=row.id)
        self._follow_calibration()
        self._read_at = time.monotonic()

    def _follow_calibration(self) -> None:
        """Put in force what another process has calibrated."""
        serving = self._active
        newest = self._newest_calibration(serving.id)
        if self._calibrations.get(serving.id) != newest:
            serving.searcher.use_relevance(load_model(self._db, serving.id))
            self._calibrations[serving.id] = newest
            log.info("index.calibration_followed", version=serving.id, calibration=newest)

    def _newest_calibration(self, version_id: str) -> str | None:
        with self._db.read() as session:
            return newest_calibration(session, version_id)

    def live(self) -> tuple[OpenVersion, ...]:
        """Versions that writes must reach, the serving one first. One that can no longer be made is marked so.

        Raises:
            Unavailable: a version cannot be opened now, and may be later.
        """
        with self._db.read() as session:
            rows = list(live_versions(session))
            self._follow({row.id for row in rows})
        found = []
        for row in rows:
            try:
                found.append(self.open(row))
            except Unavailable as error:
                if row.active or error.retryable:
                    raise
                log.warning("index.version_unusable", version=row.id, detail=error.detail)
                with self._db.write() as session:
                    lost = session.get(IndexVersion, row.id)
                    if lost is not None and not lost.active:
                        lost.status = VersionStatus.UNUSABLE.value
        return tuple(found) or (self._active,)

    def opened(self) -> tuple[OpenVersion, ...]:
        """Versions that are open in this process now."""
        with self._lock:
            return tuple(self._open.values())

    def open(self, row: IndexVersion) -> OpenVersion:
        """An open version; loads its models and opens its index when this process has not yet.

        Raises:
            Unavailable: it cannot be opened.
        """
        with self._lock:
            if row.id not in self._open:
                self._calibrations[row.id] = self._newest_calibration(row.id)
                opened = self.opener.open(row, lambda: self.void(row.id))
                self._watch(opened)
                self._open[row.id] = opened
            return self._open[row.id]

    def void(self, version_id: str) -> None:
        """Record that a version holds nothing, before its index is made (again), and have it filled."""
        if not self._refill_lost:
            return
        with self._db.write() as session:
            row = lock_versions(session).get(version_id)
            if row is None or not void_version(session, row):
                return
            log.error("index.lost", version=version_id)
            if self.on_lost is not None:
                self.on_lost(session, row)

    def _watch(self, version: OpenVersion) -> None:
        if isinstance(version.index, Losable):
            version.index.on_new = lambda: self.void(version.id)
            version.index.on_missing = lambda: self._missing(version)

    def _missing(self, version: OpenVersion) -> None:
        """An index that was open is gone: dropped elsewhere with its version, or lost and made again, to be filled."""
        with self._mending:
            with self._db.read() as session:
                row = session.get(IndexVersion, version.id)
            if row is not None and row.status in LIVE:
                version.index.ensure()
            else:
                with self._lock:
                    if self._open.get(version.id) is version and version is not self._active:
                        del self._open[version.id]

    def _follow(self, wanted: Collection[str]) -> None:
        """Let go of versions that another process has dropped; what still works on one ends by itself."""
        with self._lock:
            for version_id, version in list(self._open.items()):
                if version_id not in wanted and version_id != self._active.id and version.index.shared:
                    log.info("index.version_let_go", version=version_id)
                    del self._open[version_id]

    @contextmanager
    def pinned(self) -> Iterator[OpenVersion]:
        """The serving version, kept open for the length of the block."""
        while True:
            version = self.active
            with self._unpinned:
                self._pins[version.id] = self._pins.get(version.id, 0) + 1
            if version.id in self._open:
                break
            self._unpin(version.id)  # closed between the two lines: another one serves by now
            self.refresh()
        try:
            yield version
        finally:
            self._unpin(version.id)

    def forget(self, version_id: str, remove: Callable[[OpenVersion], None] | None = None) -> bool:
        """Close a version that does not serve, once the searches on it have ended, and remove what it stored.

        False when it is not open in this process.

        Raises:
            Unavailable: searches on it last longer than half a minute.
        """
        with self._lock:
            version = self._open.pop(version_id, None)
        if version is None:
            return False
        with self._unpinned:
            if not self._unpinned.wait_for(lambda: not self._pins.get(version_id), PIN_TIMEOUT_S):
                self._open[version_id] = version
                raise Unavailable(f"index version '{version_id}' is still being searched", code="index_version_in_use")
        version.index.flush()
        if remove is not None:
            remove(version)
        else:
            version.index.close()
        with self._lock:
            self.opener.keep_only([other.embedder for other in self._open.values()])
        return True

    def close(self) -> None:
        """Flush all indexes and give up their locks."""
        with self._lock:
            for version in self._open.values():
                version.index.close()
            self.opener.keep_only(())

    def _unpin(self, version_id: str) -> None:
        with self._unpinned:
            self._pins[version_id] -= 1
            self._unpinned.notify_all()


class PinnedSearcher:
    """Search over the version that serves when a search begins."""

    def __init__(self, retrieval: Retrieval) -> None:
        self._retrieval = retrieval

    def search(self, query: str, access: AccessFilter, limit: int, **options: Any) -> SearchResult:
        """As `Searcher.search`; the result names the version that it came from."""
        with self._retrieval.pinned() as version, within(self._retrieval.search_timeout_s):
            result = version.searcher.search(query, access, limit, **options)
            return replace(result, index_version=version.id, embedder=version.embedder.name)

    def use_relevance(self, relevance: RelevanceModel) -> None:
        """Put a new calibration of the serving version in force."""
        self._retrieval.active.searcher.use_relevance(relevance)


def _filling(held: int, wanted: int) -> Unavailable:
    return Unavailable(f"the index is being filled: {held} of {wanted} documents", code="index_filling")
