"""A Qdrant server, or its client's in-memory mode, behind the index protocol: one collection for all tenants.

The IDF of the lexical arm is counted over the collection asked or the tenant's own points, which needs Qdrant 1.19: an
older server takes that parameter and ignores it, so it is refused at the start. Collections are laid out by `layout`;
where one was made with shards for tenants, every call says whose points it means (see `tenant_shards`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog
from qdrant_client import QdrantClient, models

from core.errors import Unavailable
from core.settings_qdrant import QdrantSettings
from core.types import (
    AccessFilter,
    ArmScores,
    Found,
    IndexedPoint,
    IndexPoint,
    ScoredPoint,
    SparseVector,
    StoredVectors,
    TenantShard,
)
from retrieval.index import layout
from retrieval.index.connection import AlreadyExists, BodyTooLarge, Connection
from retrieval.index.names import (
    BRIDGE,
    DENSE,
    LEXICAL,
    SENTENCES,
    access_payload,
    indexed_point,
    scored_points,
    scores_of,
    stored_vectors,
)
from retrieval.index.server_points import access_condition, batches, equals, sparse_vector, to_point
from retrieval.index.tenant_shards import SHARED, TenantShards, key_of

log = structlog.stdlib.get_logger(__name__)

_SCAN_PAGE = 1000
_VECTOR_PAGE = 256
_PAYLOAD = ["document_id", "generation"]

T = TypeVar("T")


class ServerIndex:
    """`VectorIndex` on one collection. Thread-safe over HTTP; the in-memory mode is not."""

    shared = True
    """Other processes read, write, make and drop it as well."""

    def __init__(
        self,
        connection: Connection,
        collection: str,
        *,
        dim: int,
        idf: bool = True,
        sentences: bool = False,
        bridge: int = 0,
        settings: QdrantSettings,
        on_new: Callable[[], None] | None = None,
        tenant_shards: bool = False,
        own_shards: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """Use the collection, creating it with its payload indexes when there is none. The connection is taken over.

        dim: of the dense vector. idf: the index multiplies sparse weights by the IDF of the tenant's points; False for
        weights that a model has learnt. sentences: points carry vectors of their sentences. bridge: dimensions of the
        vectors that compare languages, 0 for none. on_new: called before a collection is made, at the start or after it
        was lost, so that nobody takes the new one for filled. tenant_shards: make it so that tenants can have shards
        of their own; `own_shards` says which have one from the first moment. A collection that is there stays as it is.

        Raises:
            Unavailable: the server does not answer, or the collection was made for other vectors; `index_standalone`:
                shards for tenants need a cluster.
        """
        self.collection = collection
        self.on_missing: Callable[[], None] | None = None
        """Called when the collection turns out to be gone, before that is raised."""
        self._connection = connection
        self._dim = dim
        self._idf = idf
        self._sentences = sentences
        self._bridge = bridge
        self._settings = settings
        self.on_new = on_new
        self._tenant_shards = tenant_shards
        self._own_shards = own_shards
        self._shards: TenantShards | None = None
        self._ordering = models.WriteOrdering(settings.write_ordering)
        read = settings.read_consistency
        self._consistency = None if read is None else models.ReadConsistencyType(read)
        self._where = f"the index collection '{collection}'"
        self.ensure()

    def ensure(self) -> None:
        """Make the collection if it is not there; check and complete it. Several processes may do so at once."""
        name = self.collection
        if not self._ask(lambda client: client.collection_exists(name)):
            if self.on_new is not None:
                self.on_new()
            make = partial(
                layout.create,
                name=name,
                dim=self._dim,
                idf=self._idf,
                sentences=self._sentences,
                bridge=self._bridge,
                settings=self._settings,
                tenant_shards=self._tenant_shards,
            )
            try:
                self._ask(make)
            except AlreadyExists:  # another process made it just now
                log.info("index.collection_made_elsewhere", collection=name)
            else:
                log.info("index.collection_made", collection=name)
        info = self._ask(lambda client: client.get_collection(name))
        wrong = layout.mismatch(info, self._dim, idf=self._idf, sentences=self._sentences, bridge=self._bridge)
        if wrong is not None:
            raise Unavailable(
                f"{self._where} {wrong}; build a new index version", code="index_mismatch", retryable=False
            )
        self._ask(lambda client: layout.complete(client, name, info, self._settings))
        self._shards = None
        if info.config.params.sharding_method is models.ShardingMethod.CUSTOM:
            self._shards = TenantShards(self._ask, self._write, name, self._settings)
            self._shards.ensure(self._own_shards)

    @property
    def keeps_apart(self) -> bool:
        """Whether tenants can have shards of their own."""
        return self._shards is not None

    def place(self, own: Collection[str], step: Callable[[float], None]) -> None:
        """Give the tenants of `own` a shard of their own, and take it from all others; see `TenantShards.place`."""
        if self._shards is not None:
            self._shards.place(own, step)

    def tenant_shards(self) -> list[TenantShard]:
        """Tenants with a shard of their own, or on their way to one."""
        return [] if self._shards is None else self._shards.found()

    def upsert(self, points: Sequence[IndexPoint]) -> None:
        """Write points; the same id overwrites. Returns when they can be searched."""
        for tenant_id in dict.fromkeys(point.tenant_id for point in points):
            own = [to_point(point) for point in points if point.tenant_id == tenant_id]
            for batch in batches(own, self._settings.upsert_batch):
                self._write(batch, self._key(tenant_id))

    def delete_document(self, document_id: str, *, tenant_id: str, keep_generation: int | None = None) -> None:
        """Drop all points of a document, or all but those of one generation."""
        kept: list[models.Condition] = [] if keep_generation is None else [equals("generation", keep_generation)]
        condition = models.Filter(must=[equals("document_id", document_id)], must_not=kept)
        self._delete(models.FilterSelector(filter=condition), tenant_id)

    def set_access(self, document_id: str, *, tenant_id: str, collection_id: str, groups: Sequence[str]) -> None:
        """Change the payload that filters need on all points of a document; vectors stay as they are."""
        points = models.Filter(must=[equals("document_id", document_id)])
        payload = access_payload(collection_id, groups)
        for key in self._everywhere(tenant_id):
            self._call(
                partial(
                    _set_payload, name=self.collection, payload=payload, points=points, order=self._ordering, key=key
                )
            )

    def delete_points(self, ids: Sequence[str], *, tenant_id: str | None = None) -> None:
        """Drop points by id; unknown ids are ignored. Without a tenant they are looked for in every shard."""
        if ids:
            self._delete(models.PointIdsList(points=list(ids)), tenant_id)

    def search_dense(
        self, vector: Sequence[float], access: AccessFilter, limit: int, *, exact: bool = False
    ) -> list[ScoredPoint]:
        """Nearest by cosine, best first. exact: compare every point that passes, whatever it takes."""
        return self._query(self._dense_request(vector, access, limit, exact=exact))

    def search_sparse(self, vector: SparseVector, access: AccessFilter, limit: int) -> list[ScoredPoint]:
        """Best by the sparse product (IDF of the collection asked or of the tenant); no shared term, no hit."""
        return self._query(self._sparse_request(vector, access, limit)) if vector.indices else []

    def find(self, dense: Sequence[float] | None, sparse: SparseVector, access: AccessFilter, limit: int) -> Found:
        """Both arms in one call; see `core.ports.VectorIndex`."""
        arms = self._batch(
            None if dense is None else self._dense_request(dense, access, limit),
            self._sparse_request(sparse, access, limit) if sparse.indices else None,
        )
        return Found(*map(scored_points, arms))

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
        """Scores of given points in one call; see `core.ports.VectorIndex`."""
        answers = self._batch(
            self._scores_request(list(dense), DENSE, by_dense, access) if by_dense else None,
            self._sparse_request(sparse, access, len(by_sparse), by_sparse) if by_sparse and sparse.indices else None,
            self._scores_request([list(dense)], SENTENCES, by_sentences, access)
            if by_sentences and self._sentences
            else None,
        )
        return ArmScores(*map(scores_of, answers))

    def score_dense(self, vector: Sequence[float], ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """Cosine of the given points; those that the filter hides are absent."""
        return dict(self.score(vector, _NO_WORDS, access, by_dense=ids, by_sparse=(), by_sentences=()).dense)

    def search_bridge(self, vector: Sequence[float], access: AccessFilter, limit: int) -> list[ScoredPoint]:
        """Nearest by the cosine of the bridge's vectors, best first; nothing where the index has none."""
        if not self._bridge:
            return []
        params = models.SearchParams(hnsw_ef=max(self._settings.hnsw_ef, limit))
        return self._query(self._request(list(vector), BRIDGE, access, limit, params))

    def score_sentences(self, vector: Sequence[float], ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """Cosine of the nearest sentence of the given points; hidden ones and ones without sentences are absent."""
        return dict(self.score(vector, _NO_WORDS, access, by_dense=(), by_sparse=(), by_sentences=ids).sentences)

    def score_sparse(self, vector: SparseVector, ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """Sparse score of the given points, on the scale of `search_sparse`; those sharing no term are absent."""
        return dict(self.score((), vector, access, by_dense=(), by_sparse=ids, by_sentences=()).sparse)

    def count(
        self, *, tenant_id: str | None = None, document_id: str | None = None, generation: int | None = None
    ) -> int:
        """Exact number of points. While a tenant moves, a count of all may hold its points twice for a moment."""
        must: list[models.Condition] = []
        if tenant_id is not None:
            must.append(equals("tenant_id", tenant_id))
        if document_id is not None:
            must.append(equals("document_id", document_id))
        if generation is not None:
            must.append(equals("generation", generation))
        condition = models.Filter(must=must) if must else None
        key = self._key(tenant_id)
        return self._call(
            lambda client: client.count(self.collection, condition, exact=True, shard_key_selector=key)
        ).count

    def scan(self) -> Iterator[IndexedPoint]:
        """What every point says of itself, ordered by id; a foreign one says nothing."""
        for record in self._records(_SCAN_PAGE, with_payload=True, with_vectors=False):
            yield indexed_point(record.id, record.payload)

    def vectors(self) -> Iterator[StoredVectors]:
        """The vectors of every point, ordered by id."""
        for record in self._records(_VECTOR_PAGE, with_payload=False, with_vectors=True):
            yield stored_vectors(str(record.id), record.vector)

    def purge(self, step: Callable[[], None]) -> bool:
        """Nothing: a server writes its segments anew when enough of their points are gone."""
        return False

    def settled(self) -> bool:
        """Whether the server has built all graphs that are due."""
        info = self._call(lambda client: client.get_collection(self.collection))
        return info.status is models.CollectionStatus.GREEN

    def flush(self) -> None:
        """Nothing to wait for: a write that was acknowledged is in the server's write-ahead log."""

    def flush_soon(self) -> None:
        """As `flush`."""

    def close(self) -> None:
        """Close the connections; closing twice is fine."""
        self._connection.close()

    def drop(self) -> None:
        """Delete the collection with everything in it."""
        self._ask(lambda client: client.delete_collection(self.collection))

    def take_alias(self, alias: str) -> None:
        """Let `alias` name this collection from now on; the server moves it in one step."""
        known = self._call(lambda client: client.get_aliases()).aliases
        if any((one.alias_name, one.collection_name) == (alias, self.collection) for one in known):
            return
        create = models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=self.collection, alias_name=alias)
        )
        self._call(lambda client: client.update_collection_aliases([create]))

    def _records(self, page: int, *, with_payload: bool, with_vectors: bool) -> Iterator[Any]:
        offset: Any = None
        while True:
            scroll = partial(
                _scroll,
                collection=self.collection,
                limit=page,
                offset=offset,
                with_payload=with_payload,
                with_vectors=with_vectors,
            )
            records, offset = self._call(scroll)
            yield from records
            if offset is None:
                return

    def _write(self, batch: list[models.PointStruct], key: models.ShardKeySelector | None) -> None:
        try:
            self._call(
                lambda client: client.upsert(
                    self.collection, batch, wait=True, ordering=self._ordering, shard_key_selector=key
                )
            )
        except BodyTooLarge as error:
            if len(batch) == 1:
                raise Unavailable(
                    f"{self._where}: one passage alone is more than the server takes at once",
                    code="index_rejected",
                    retryable=False,
                ) from error
            log.info("index.write_halved", collection=self.collection, points=len(batch))
            middle = len(batch) // 2
            self._write(batch[:middle], key)
            self._write(batch[middle:], key)

    def _delete(self, selector: models.PointsSelector, tenant_id: str | None) -> None:
        for key in self._everywhere(tenant_id):
            self._call(partial(_delete, name=self.collection, selector=selector, order=self._ordering, key=key))

    def _everywhere(self, tenant_id: str | None) -> Sequence[models.ShardKeySelector | None]:
        """Where points of a tenant may lie, of any tenant for None. While one moves, and until its old points are
        dropped, that is two places: what is forgotten must be gone from both.
        """
        if self._shards is None:
            return [None]
        return [list(self._shards.keys())] if tenant_id is None else [key_of(tenant_id), SHARED]

    def _key(self, tenant_id: str | None) -> models.ShardKeyWithFallback | None:
        return None if self._shards is None or tenant_id is None else key_of(tenant_id)

    def _dense_request(
        self, vector: Sequence[float], access: AccessFilter, limit: int, *, exact: bool = False
    ) -> models.QueryRequest:
        params = models.SearchParams(exact=True)
        if not exact:
            quantization = None
            if self._settings.quantization != "none":
                oversampling = layout.oversampling(self._settings, self._dim)
                quantization = models.QuantizationSearchParams(rescore=True, oversampling=oversampling)
            params = models.SearchParams(hnsw_ef=max(self._settings.hnsw_ef, limit), quantization=quantization)
        return self._request(list(vector), DENSE, access, limit, params)

    def _sparse_request(
        self, vector: SparseVector, access: AccessFilter, limit: int, ids: Sequence[str] | None = None
    ) -> models.QueryRequest:
        params = None
        if self._idf:
            corpus = access_condition(replace(access, groups=None, document_ids=None))
            params = models.SearchParams(idf=models.IdfCorpusParams(corpus=corpus))
        return self._request(sparse_vector(vector), LEXICAL, access, limit, params, ids)

    def _scores_request(self, query: Any, using: str, ids: Sequence[str], access: AccessFilter) -> models.QueryRequest:
        # So few points, named by id, are all compared anyway; strict mode may forbid to ask for it.
        params = None
        if using == DENSE and self._settings.quantization != "none":
            params = models.SearchParams(quantization=models.QuantizationSearchParams(ignore=True))
        return self._request(query, using, access, len(ids), params, ids)

    def _request(
        self,
        query: Any,
        using: str,
        access: AccessFilter,
        limit: int,
        params: models.SearchParams | None,
        ids: Sequence[str] | None = None,
    ) -> models.QueryRequest:
        return models.QueryRequest(
            query=models.NearestQuery(nearest=query),
            using=using,
            filter=access_condition(access, ids),
            params=params,
            limit=limit,
            with_payload=_PAYLOAD if ids is None else None,
            shard_key=self._key(access.tenant_id),
        )

    def _query(self, request: models.QueryRequest) -> list[ScoredPoint]:
        return scored_points(self._batch(request)[0])

    def _batch(self, *requests: models.QueryRequest | None) -> list[list[models.ScoredPoint]]:
        """Hits of each request, in one call; of None, none."""
        asked = [request for request in requests if request is not None]
        if not asked:
            return [[] for _ in requests]
        answers = iter(
            self._call(lambda client: client.query_batch_points(self.collection, asked, consistency=self._consistency))
        )
        return [[] if request is None else next(answers).points for request in requests]

    def _call(self, request: Callable[[QdrantClient], T]) -> T:
        try:
            return self._ask(request)
        except Unavailable as error:
            if error.code == "index_missing" and self.on_missing is not None:
                self.on_missing()
            raise

    def _ask(self, request: Callable[[QdrantClient], T]) -> T:
        return self._connection.call(request, self._where)


_NO_WORDS = SparseVector((), ())


def _delete(client: QdrantClient, *, name: str, selector: Any, order: Any, key: Any) -> Any:
    return client.delete(name, selector, wait=True, ordering=order, shard_key_selector=key)


def _set_payload(client: QdrantClient, *, name: str, payload: Any, points: Any, order: Any, key: Any) -> Any:
    return client.set_payload(name, payload, points, wait=True, ordering=order, shard_key_selector=key)


def _scroll(client: QdrantClient, *, collection: str, **arguments: Any) -> Any:
    return client.scroll(collection, **arguments)
