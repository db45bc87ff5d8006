"""Qdrant Edge: the real engine in process, with a write-ahead log. One process owns a shard; a second is refused.

Tenancy is logical: one shard, every query filtered by tenant through a tenant-aware keyword index, and the IDF of the
lexical arm counted over the tenant's own points, those of the collection asked where one is, so that no tenant's words
can be felt in another's ranking, and a collection's ranking does not change with what is put into another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock, RLock, Thread
from typing import Any

import structlog
from qdrant_edge import (
    CountRequest,
    EdgeShard,
    Filter,
    IdfParams,
    Query,
    QueryRequest,
    ScrollRequest,
    SearchParams,
    UpdateOperation,
)

from core.environment import says_disk_is_full
from core.errors import DataDirBusy, Unavailable
from core.processes import yield_to_others
from core.storage import FOR_INDEXING, FOR_REMOVAL, require_room_in
from core.types import (
    AccessFilter,
    ArmScores,
    Found,
    IndexedPoint,
    IndexPoint,
    ScoredPoint,
    SparseVector,
    StoredVectors,
)
from retrieval.index.edge_points import (
    access_condition,
    bridge_query,
    dense_query,
    ensure_payload_indexes,
    equals,
    sampled,
    shard_config,
    sparse_query,
    to_point,
)
from retrieval.index.edge_rewrite import CONFIG_FILE, Gate, copy_points, exchange, place_of_new, settle
from retrieval.index.names import SENTENCES, access_payload, indexed_point, scored_points, scores_of, stored_vectors

log = structlog.stdlib.get_logger(__name__)

FLUSH_WITHIN_S = 2.0
OPTIMIZE_FROM = 20_000
"""Points without a graph from which it is worth making one: until then a scan takes a few milliseconds."""
OPTIMIZE_AFTER_S = 10.0
"""Seconds without a write before it is made: it takes half a second for each thousand points, and writers wait."""

EXACT_UP_TO = 20_000
"""Points of a tenant, at 384 dimensions, up to which all are compared: 1 to 4 ms."""
EXACT_FILTERED_UP_TO = 100_000
"""The same for what passes a filter within a tenant: up to 15 ms. A graph loses whole regions under a filter."""
BEAMS = (128, 256, 512)
"""Beams of the graph, the narrowest first; `_measure_beam` chooses, and compares all points where none is enough."""
_ENOUGH = 0.985
_SAMPLE = 24

_UPSERT_BATCH = 256
_SCAN_PAGE = 1000
_VECTOR_PAGE = 256


class EdgeIndex:
    """`VectorIndex` on one Edge shard in a folder."""

    shared = False

    def ensure(self) -> None:
        """Nothing to do: the folder is ours alone, and was made when it was opened."""

    def __init__(
        self,
        folder: Path,
        *,
        dim: int,
        idf: bool = True,
        sentences: bool = False,
        bridge: int = 0,
        reserve_bytes: int = 0,
    ) -> None:
        """Open the shard, creating it when the folder has none.

        idf: the index multiplies sparse weights by the IDF of the tenant's points; False for learnt weights.
        sentences: points carry vectors of their sentences; they stay on disk, two bytes a number.
        bridge: dimensions of the vectors that compare languages, 0 for none; they are compared one by one.
        reserve_bytes: what is kept free on the disk. The engine maps its files: a write to a page for which there is
            no room ends the process, so no write begins where it might come to that.

        Raises:
            DataDirBusy: another process holds it.
            Unavailable: it cannot be read; `storage_full`, a new one has no room.
        """
        self._folder = folder
        self._idf = idf
        self._sentences = sentences
        self._bridge = bridge
        self._gate = Gate()  # whoever uses the shard goes through it, as `purge` puts another one in its place
        self._lock = RLock()  # one writer at a time; the shard itself lets readers run beside it
        self._flushing = Lock()
        self._dirty = False
        self._asked = Event()
        self._closing = Event()
        self._flusher: Thread | None = None
        self._left_unindexed = 0
        self._dim = dim
        self._beam: int | None = BEAMS[-1]
        self._reserve_bytes = reserve_bytes
        settle(folder)
        folder.mkdir(parents=True, exist_ok=True)
        fresh = not (folder / CONFIG_FILE).exists()
        if fresh:
            self._require_room(FOR_INDEXING)
        try:
            self._shard: Any = EdgeShard.create(str(folder), self._config()) if fresh else EdgeShard.load(str(folder))
        except Exception as error:  # the binding raises bare Exception
            if "WouldBlock" in str(error):
                raise DataDirBusy(f"the index in {folder} is open in another process") from error
            raise Unavailable(f"the index in {folder} cannot be opened: {error}", retryable=False) from error
        self._open = True
        ensure_payload_indexes(self._shard)
        self._dirty = True
        self._measure_beam()

    def _config(self) -> Any:
        return shard_config(self._dim, self._idf, self._sentences, self._bridge)

    def upsert(self, points: Sequence[IndexPoint]) -> None:
        """Write points; the same id overwrites."""
        for start in range(0, len(points), _UPSERT_BATCH):
            batch = [to_point(point) for point in points[start : start + _UPSERT_BATCH]]
            self._update(UpdateOperation.upsert_points(batch), FOR_INDEXING)

    def delete_document(self, document_id: str, *, tenant_id: str, keep_generation: int | None = None) -> None:
        """Drop all points of a document, or all but those of one generation."""
        kept = [] if keep_generation is None else [equals("generation", keep_generation)]
        condition = Filter(must=[equals("document_id", document_id)], must_not=kept)
        with self._lock:
            # A new document has nothing old: no write then, and no flush for it.
            if self._ask("count", CountRequest(exact=True, filter=condition)):
                self._update(UpdateOperation.delete_points_by_filter(condition))

    def set_access(self, document_id: str, *, tenant_id: str, collection_id: str, groups: Sequence[str]) -> None:
        """Change the payload that filters need on all points of a document; vectors stay as they are."""
        condition = Filter(must=[equals("document_id", document_id)])
        payload = access_payload(collection_id, groups)
        self._update(UpdateOperation.set_payload_by_filter(condition, payload))

    def delete_points(self, ids: Sequence[str], *, tenant_id: str | None = None) -> None:
        """Drop points by id; unknown ids are ignored."""
        if ids:
            self._update(UpdateOperation.delete_points(list(ids)))

    def search_dense(
        self, vector: Sequence[float], access: AccessFilter, limit: int, *, exact: bool = False
    ) -> list[ScoredPoint]:
        """Nearest by cosine, best first. exact: compare every point that passes, whatever it takes."""
        condition = access_condition(access)
        beam = None if exact else self._beam_for(access, condition)
        params = SearchParams(exact=True) if beam is None else SearchParams(hnsw_ef=max(beam, limit))
        return self._query(dense_query(vector), condition, limit, params)

    def _beam_for(self, access: AccessFilter, condition: Any) -> int | None:
        """Beam of the graph, or None where all points that pass are compared: few, or lost to every beam."""
        filtered = access.groups is not None or access.collection_id is not None or access.document_ids is not None
        most = (EXACT_FILTERED_UP_TO if filtered else EXACT_UP_TO) * 384 // max(self._dim, 96)
        # Estimated by the engine from its payload indexes, for next to nothing; an exact count costs as a search does.
        if self._ask("count", CountRequest(exact=False, filter=condition)) <= most:
            return None
        return self._beam

    def _measure_beam(self) -> None:
        """Choose the narrowest beam that finds what exact search finds, for some points moved at random.

        How wide it must be depends on the vectors: 128 finds 0.99 of one embedder's and 0.7 of another's.
        """
        if int(self._ask("info").points_count) <= EXACT_UP_TO * 384 // max(self._dim, 96):
            return
        with self._gate.shared():
            asked = sampled(self._live(), _SAMPLE)
        truth = [self._best(vector, tenant, SearchParams(exact=True)) for vector, tenant in asked]
        for beam in BEAMS:
            found = [self._best(vector, tenant, SearchParams(hnsw_ef=beam)) for vector, tenant in asked]
            if sum(len(a & b) for a, b in zip(found, truth, strict=True)) >= _ENOUGH * sum(map(len, truth)):
                self._beam = beam
                break
        else:
            self._beam = None
        log.info("index.beam_measured", folder=str(self._folder), beam=self._beam)

    def _best(self, vector: list[float], tenant: str, params: Any) -> frozenset[str]:
        hits = self._query(dense_query(vector), access_condition(AccessFilter(tenant, None)), _SAMPLE, params)
        return frozenset(hit.id for hit in hits)

    def search_sparse(self, vector: SparseVector, access: AccessFilter, limit: int) -> list[ScoredPoint]:
        """Best by BM25, IDF over the collection asked or all of the tenant's, best first; no shared term, no hit."""
        if not vector.indices:
            return []
        return self._query(sparse_query(vector), access_condition(access), limit, self._idf_params(access))

    def find(self, dense: Sequence[float] | None, sparse: SparseVector, access: AccessFilter, limit: int) -> Found:
        """Both arms; see `core.ports.VectorIndex`."""
        return Found(
            [] if dense is None else self.search_dense(dense, access, limit), self.search_sparse(sparse, access, limit)
        )

    def score(
        self,
        dense: Sequence[float],
        sparse: SparseVector,
        access: AccessFilter,
        *,
        by_dense: Sequence[str],
        by_sparse: Sequence[str],
        by_sentences: Sequence[str],
    ) -> ArmScores:
        """Scores of given points; see `core.ports.VectorIndex`."""
        return ArmScores(
            self.score_dense(dense, by_dense, access),
            self.score_sparse(sparse, by_sparse, access),
            self.score_sentences(dense, by_sentences, access),
        )

    def score_dense(self, vector: Sequence[float], ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """Cosine of the given points; those that the filter hides are absent."""
        if not ids:
            return {}
        return self._scores(dense_query(vector), ids, access, SearchParams(exact=True))

    def search_bridge(self, vector: Sequence[float], access: AccessFilter, limit: int) -> list[ScoredPoint]:
        """Nearest by the cosine of the bridge's vectors, best first; nothing where the index has none."""
        if not self._bridge:
            return []
        return self._query(bridge_query(vector), access_condition(access), limit, SearchParams(exact=True))

    def score_sentences(self, vector: Sequence[float], ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """Cosine of the nearest sentence of the given points; hidden ones and ones without sentences are absent."""
        if not ids or not self._sentences:
            return {}
        query = Query.Nearest([[float(x) for x in vector]], using=SENTENCES)
        return self._scores(query, ids, access, SearchParams(exact=True))

    def score_sparse(self, vector: SparseVector, ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """BM25 of the given points, on the scale of `search_sparse`; those sharing no term are absent."""
        if not ids or not vector.indices:
            return {}
        return self._scores(sparse_query(vector), ids, access, self._idf_params(access))

    def count(
        self, *, tenant_id: str | None = None, document_id: str | None = None, generation: int | None = None
    ) -> int:
        """Exact number of points."""
        conditions = []
        if tenant_id is not None:
            conditions.append(equals("tenant_id", tenant_id))
        if document_id is not None:
            conditions.append(equals("document_id", document_id))
        if generation is not None:
            conditions.append(equals("generation", generation))
        condition = Filter(must=conditions) if conditions else None
        return int(self._ask("count", CountRequest(exact=True, filter=condition)))

    def scan(self) -> Iterator[IndexedPoint]:
        """What every point says of itself, ordered by id; a foreign one says nothing."""
        offset: str | None = None
        while True:
            request = ScrollRequest(offset=offset, limit=_SCAN_PAGE, with_payload=True, with_vector=False)
            records, offset = self._ask("scroll", request)
            for record in records:
                yield indexed_point(record.id, record.payload)
            if offset is None:
                return

    def vectors(self) -> Iterator[StoredVectors]:
        """The vectors of every point, ordered by id."""
        offset: str | None = None
        while True:
            request = ScrollRequest(offset=offset, limit=_VECTOR_PAGE, with_payload=False, with_vector=True)
            records, offset = self._ask("scroll", request)
            for record in records:
                yield stored_vectors(str(record.id), record.vector)
            if offset is None:
                return

    def purge(self, step: Callable[[], None]) -> bool:
        """Write the shard anew from its points; see `core.ports.VectorIndex`.

        Writers wait throughout (0.1 s for 2,000 points), searches only while the new shard takes the old one's place.

        Raises:
            Unavailable: `storage_full`: the new shard stands beside the old one until it is whole.
        """
        place = place_of_new(self._folder)
        with self._lock:
            settle(self._folder)
            self._require_room(FOR_REMOVAL, self._size_bytes())
            place.mkdir()
            new = EdgeShard.create(str(place), self._config())
            try:
                ensure_payload_indexes(new)
                copy_points(self._live(), new, step)
                new.optimize()
                new.flush()
            except BaseException as error:
                new.close()
                settle(self._folder)
                if says_disk_is_full(str(error)):
                    raise Unavailable("the disk of the index takes no more", code="storage_full") from error
                raise
            new.close()
            with self._gate.alone():
                self._open = False
                self._shard.close()
                exchange(self._folder)
                self._shard = EdgeShard.load(str(self._folder))
                self._open = True
            settle(self._folder)
            self._measure_beam()
        return True

    def _unindexed(self) -> int:
        """Points that no graph and no inverted index holds, about."""
        info = self._ask("info")
        fields = 2 + self._sentences + bool(self._bridge)
        return max(0, int(info.points_count) - int(info.indexed_vectors_count) // fields)

    def optimize(self) -> bool:
        """Build graph indexes and merge segments where it is due; blocks for as long as that takes.

        Raises:
            Unavailable: `storage_full`: the new segments stand beside the old ones until they are whole.
        """
        with self._lock:
            self._require_room(FOR_INDEXING, self._size_bytes())
            changed = bool(self._ask("optimize"))
            self._measure_beam()
            return changed

    def flush(self) -> None:
        """Return when all writes so far are on disk. Callers that wait for one another's flush share it."""
        with self._flushing:
            if self._dirty:
                self._dirty = False
                try:
                    self._ask("flush")
                except Exception:  # the binding raises bare Exception
                    self._dirty = True
                    raise

    def flush_soon(self) -> None:
        """Have a thread of this index flush within FLUSH_WITHIN_S, however many ask.

        Writes are in the write-ahead log at once, which outlives the process; a flush costs a tenth of a second or
        more, so one for each small document would be most of its ingest. What a power cut takes of the last seconds is
        missing beside SQL, and mended at the next start (`retrieval.reconcile`).
        """
        with self._lock:
            if self._flusher is None and self._open:
                self._flusher = Thread(target=self._flush_when_asked, name="edge-flush", daemon=True)
                self._flusher.start()
        self._asked.set()

    def _flush_when_asked(self) -> None:
        yield_to_others()  # building a graph is background work, as is what asks for it
        while True:
            self._asked.wait()
            if self._closing.wait(FLUSH_WITHIN_S):
                return
            self._asked.clear()
            try:
                self.flush()
            except Exception:  # a full disk, most likely: the log holds the writes, and the next round tries again
                log.exception("index.flush_failed", folder=str(self._folder))
                self._asked.set()
            else:
                if not self._asked.wait(OPTIMIZE_AFTER_S):
                    self._optimize_where_due()

    def _optimize_where_due(self) -> None:
        """Make graphs when enough points are without; what a round could not index is not tried again by itself."""
        unindexed = self._unindexed()
        if unindexed - self._left_unindexed < OPTIMIZE_FROM:
            return
        try:
            self.optimize()
        except Exception:  # the binding raises bare Exception; searches go on without graphs
            log.exception("index.optimize_failed", folder=str(self._folder))
        self._left_unindexed = self._unindexed()

    def close(self) -> None:
        """Flush and give up the lock; closing twice is fine."""
        self._closing.set()
        self._asked.set()
        if self._flusher is not None:
            self._flusher.join()
        with self._lock:
            if self._open:
                self._open = False
                self._shard.flush()
                self._shard.close()

    def _idf_params(self, access: AccessFilter) -> Any:
        if not self._idf:
            return None
        corpus = replace(access, groups=None, document_ids=None)
        return SearchParams(idf=IdfParams(corpus=access_condition(corpus)))

    def _ask(self, name: str, *request: Any) -> Any:
        with self._gate.shared():
            return getattr(self._live(), name)(*request)

    def _live(self) -> Any:
        if not self._open:
            raise Unavailable(f"the index in {self._folder} is closed", retryable=False)
        return self._shard

    def _size_bytes(self) -> int:
        return sum(path.stat().st_blocks * 512 for path in self._folder.rglob("*"))

    def _require_room(self, share: float, size_bytes: int = 0) -> None:
        if self._reserve_bytes:
            require_room_in(self._folder, size_bytes, reserve_bytes=round(self._reserve_bytes * share))

    def _update(self, operation: Any, share: float = FOR_REMOVAL) -> None:
        """Write. share: of the reserve, what must be free; only what adds points leaves room for what takes them."""
        with self._lock:
            self._require_room(share)
            self._dirty = True  # before the write: a flush between the two must not be the last
            try:
                self._ask("update", operation)
            except Exception as error:  # the binding raises bare Exception
                if says_disk_is_full(str(error)):
                    raise Unavailable("the disk of the index takes no more", code="storage_full") from error
                raise

    def _query(self, query: Any, condition: Any, limit: int, params: Any) -> list[ScoredPoint]:
        request = QueryRequest(
            limit=limit,
            query=query,
            filter=condition,
            params=params,
            with_payload=["document_id", "generation"],
            with_vector=False,
        )
        return scored_points(self._ask("query", request))

    def _scores(self, query: Any, ids: Sequence[str], access: AccessFilter, params: Any) -> dict[str, float]:
        condition = access_condition(access, ids)
        request = QueryRequest(
            limit=len(ids), query=query, filter=condition, params=params, with_payload=False, with_vector=False
        )
        return scores_of(self._ask("query", request))
