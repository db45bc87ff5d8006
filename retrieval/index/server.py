"""A Qdrant server, or its client's in-memory mode, behind the index protocol: one collection for all tenants.

Tenancy as Qdrant recommends it: a keyword index on `tenant_id` with `is_tenant`, no graph over everybody's points
(`m: 0`) and one graph per tenant (`payload_m`). The IDF of the lexical arm is counted over the tenant's own points,
which needs Qdrant 1.19: an older server takes that parameter and ignores it, so it is refused at the start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from core.errors import Unavailable
from core.settings import QdrantSettings
from core.types import AccessFilter, IndexPoint, ScoredPoint, SparseVector, StoredVectors
from retrieval.index.names import BRIDGE, DENSE, LEXICAL, SENTENCES, access_payload, payload_of, stored_vectors

log = structlog.stdlib.get_logger(__name__)

OLDEST_SERVER = (1, 19)
_SCAN_PAGE = 1000
_VECTOR_PAGE = 256
_KEYWORDS = ("collection_id", "document_id", "groups")
_PAYLOAD = ["document_id", "generation"]
_WAITS_S = (0.1, 0.4, 1.6)
"""Pauses before a request is sent again. Every request of this file may be: ids are deterministic."""

T = TypeVar("T")


def open_client(settings: QdrantSettings) -> QdrantClient:
    """Client of the configured server.

    Raises:
        Unavailable: it does not answer, does not take the key, or is older than 1.19.
    """
    client = QdrantClient(
        url=settings.url,
        api_key=settings.api_key.get_secret_value() if settings.api_key else None,
        timeout=int(settings.timeout_s),
        pool_size=settings.pool_size,
        check_compatibility=False,  # it warns from a thread of its own; the check below raises
    )
    try:
        version = call(client.info, f"the Qdrant server at {settings.url}").version
        if tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < OLDEST_SERVER:
            raise Unavailable(
                f"the Qdrant server at {settings.url} is version {version}; 1.19 or newer is needed",
                code="index_server_too_old",
                retryable=False,
            )
    except BaseException:
        client.close()
        raise
    return client


class ServerIndex:
    """`VectorIndex` on one collection. Thread-safe over HTTP; the in-memory mode is not."""

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        *,
        dim: int,
        idf: bool = True,
        sentences: bool = False,
        bridge: int = 0,
        settings: QdrantSettings,
    ) -> None:
        """Use the collection, creating it with its payload indexes when there is none. The client is taken over.

        dim: of the dense vector. idf: the index multiplies sparse weights by the IDF of the tenant's points; False for
        weights that a model has learnt. sentences: points carry vectors of their sentences.
        bridge: dimensions of the vectors that compare languages, 0 for none.

        Raises:
            Unavailable: the server does not answer, or the collection was made for other vectors.
        """
        self.collection = collection
        self._client = client
        self._idf = idf
        self._sentences = sentences
        self._bridge = bridge
        self._settings = settings
        self._ordering = models.WriteOrdering(settings.write_ordering)
        read = settings.read_consistency
        self._consistency = None if read is None else models.ReadConsistencyType(read)
        self._where = f"the index collection '{collection}'"
        self._ensure(dim)

    def upsert(self, points: Sequence[IndexPoint]) -> None:
        """Write points; the same id overwrites. Returns when they can be searched."""
        for start in range(0, len(points), self._settings.upsert_batch):
            batch = [_to_point(point) for point in points[start : start + self._settings.upsert_batch]]
            self._call(partial(self._client.upsert, self.collection, batch, wait=True, ordering=self._ordering))

    def delete_document(self, document_id: str, *, keep_generation: int | None = None) -> None:
        """Drop all points of a document, or all but those of one generation."""
        kept: list[models.Condition] = [] if keep_generation is None else [_equals("generation", keep_generation)]
        condition = models.Filter(must=[_equals("document_id", document_id)], must_not=kept)
        self._delete(models.FilterSelector(filter=condition))

    def set_access(self, document_id: str, *, collection_id: str, groups: Sequence[str]) -> None:
        """Change the payload that filters need on all points of a document; vectors stay as they are."""
        points = models.Filter(must=[_equals("document_id", document_id)])
        payload = access_payload(collection_id, groups)
        self._call(
            lambda: self._client.set_payload(self.collection, payload, points, wait=True, ordering=self._ordering)
        )

    def delete_points(self, ids: Sequence[str]) -> None:
        """Drop points by id; unknown ids are ignored."""
        if ids:
            self._delete(models.PointIdsList(points=list(ids)))

    def search_dense(
        self, vector: Sequence[float], access: AccessFilter, limit: int, *, exact: bool = False
    ) -> list[ScoredPoint]:
        """Nearest by cosine, best first. exact: compare every point that passes, whatever it takes."""
        if exact:
            return self._query(list(vector), DENSE, access_condition(access), limit, models.SearchParams(exact=True))
        quantization = None
        if self._settings.quantization != "none":
            quantization = models.QuantizationSearchParams(rescore=True, oversampling=self._settings.oversampling)
        params = models.SearchParams(hnsw_ef=self._settings.hnsw_ef, quantization=quantization)
        return self._query(list(vector), DENSE, access_condition(access), limit, params)

    def search_sparse(self, vector: SparseVector, access: AccessFilter, limit: int) -> list[ScoredPoint]:
        """Best by the sparse product, best first. IDF is of the collection asked, or of all the tenant's points."""
        if not vector.indices:
            return []
        return self._query(_sparse(vector), LEXICAL, access_condition(access), limit, self._idf_params(access))

    def score_dense(self, vector: Sequence[float], ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """Cosine of the given points; those that the filter hides are absent."""
        if not ids:
            return {}
        params = models.SearchParams(exact=True)
        hits = self._query(list(vector), DENSE, access_condition(access, ids), len(ids), params)
        return {point.id: point.score for point in hits}

    def search_bridge(self, vector: Sequence[float], access: AccessFilter, limit: int) -> list[ScoredPoint]:
        """Nearest by the cosine of the bridge's vectors, best first; nothing where the index has none."""
        if not self._bridge:
            return []
        return self._query(list(vector), BRIDGE, access_condition(access), limit, None)

    def score_sentences(self, vector: Sequence[float], ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """Cosine of the nearest sentence of the given points; hidden ones and ones without sentences are absent."""
        if not ids or not self._sentences:
            return {}
        params = models.SearchParams(exact=True)
        hits = self._query([list(vector)], SENTENCES, access_condition(access, ids), len(ids), params)
        return {point.id: point.score for point in hits}

    def score_sparse(self, vector: SparseVector, ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """Sparse score of the given points, on the scale of `search_sparse`; those sharing no term are absent."""
        if not ids or not vector.indices:
            return {}
        condition = access_condition(access, ids)
        hits = self._query(_sparse(vector), LEXICAL, condition, len(ids), self._idf_params(access))
        return {point.id: point.score for point in hits}

    def count(self, *, document_id: str | None = None, generation: int | None = None) -> int:
        """Exact number of points."""
        must: list[models.Condition] = []
        if document_id is not None:
            must.append(_equals("document_id", document_id))
        if generation is not None:
            must.append(_equals("generation", generation))
        condition = models.Filter(must=must) if must else None
        return self._call(lambda: self._client.count(self.collection, condition, exact=True)).count

    def scan(self) -> Iterator[ScoredPoint]:
        """Every point, score 0, ordered by id."""
        offset: Any = None
        while True:
            page = partial(self._client.scroll, self.collection, limit=_SCAN_PAGE, offset=offset, with_payload=_PAYLOAD)
            records, offset = self._call(page)
            for record in records:
                yield _to_scored(record.id, record.payload or {}, 0.0)
            if offset is None:
                return

    def vectors(self) -> Iterator[StoredVectors]:
        """The vectors of every point, ordered by id."""
        offset: Any = None
        while True:
            page = partial(
                self._client.scroll,
                self.collection,
                limit=_VECTOR_PAGE,
                offset=offset,
                with_payload=False,
                with_vectors=True,
            )
            records, offset = self._call(page)
            for record in records:
                yield stored_vectors(str(record.id), record.vector)
            if offset is None:
                return

    def flush(self) -> None:
        """Nothing to wait for: a write that was acknowledged is in the server's write-ahead log."""

    def flush_soon(self) -> None:
        """As `flush`."""

    def close(self) -> None:
        """Close the connections; closing twice is fine."""
        self._client.close()

    def drop(self) -> None:
        """Delete the collection with everything in it."""
        self._call(lambda: self._client.delete_collection(self.collection))

    def take_alias(self, alias: str) -> None:
        """Let `alias` name this collection from now on; the server moves it in one step."""
        create = models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=self.collection, alias_name=alias)
        )
        self._call(lambda: self._client.update_collection_aliases([create]))

    def _ensure(self, dim: int) -> None:
        if not self._call(lambda: self._client.collection_exists(self.collection)):
            try:
                self._call(lambda: self._create(dim))
            except _Exists:  # another process made it just now
                log.info("index.collection_made_elsewhere", collection=self.collection)
        info = self._call(lambda: self._client.get_collection(self.collection))
        vectors, sparse = info.config.params.vectors, info.config.params.sparse_vectors or {}
        found = vectors[DENSE].size if isinstance(vectors, dict) and DENSE in vectors else None
        modifier = models.Modifier.IDF if LEXICAL in sparse and sparse[LEXICAL].modifier == "idf" else None
        named = vectors if isinstance(vectors, dict) else {}
        held = named[BRIDGE].size if BRIDGE in named else 0
        lacking = (self._sentences and SENTENCES not in named) or held != self._bridge
        if (
            lacking
            or found != dim
            or LEXICAL not in sparse
            or modifier is not (models.Modifier.IDF if self._idf else None)
        ):
            raise Unavailable(
                f"{self._where} holds vectors of {found} dimensions, {dim} are needed; build a new index version",
                code="index_mismatch",
                retryable=False,
            )
        wanted: dict[str, Any] = {
            "tenant_id": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        }
        wanted |= dict.fromkeys(_KEYWORDS, models.PayloadSchemaType.KEYWORD)
        wanted["generation"] = models.PayloadSchemaType.INTEGER
        for name, schema in wanted.items():
            if name not in info.payload_schema:
                self._call(partial(self._client.create_payload_index, self.collection, name, schema, wait=True))

    def _create(self, dim: int) -> bool:
        settings = self._settings
        vectors = {
            DENSE: models.VectorParams(size=dim, distance=models.Distance.COSINE, on_disk=settings.vectors_on_disk)
        }
        if self._sentences:
            vectors[SENTENCES] = models.VectorParams(
                size=dim,
                distance=models.Distance.COSINE,
                on_disk=True,
                datatype=models.Datatype.FLOAT16,
                multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
                hnsw_config=models.HnswConfigDiff(m=0, payload_m=0),
            )
        if self._bridge:
            vectors[BRIDGE] = models.VectorParams(
                size=self._bridge,
                distance=models.Distance.COSINE,
                on_disk=settings.vectors_on_disk,
                datatype=models.Datatype.FLOAT16,
            )
        return self._client.create_collection(
            self.collection,
            vectors_config=vectors,
            sparse_vectors_config={
                LEXICAL: models.SparseVectorParams(modifier=models.Modifier.IDF if self._idf else None)
            },
            hnsw_config=models.HnswConfigDiff(m=0, payload_m=settings.payload_m, ef_construct=settings.ef_construct),
            quantization_config=_quantization(settings),
            shard_number=settings.shards,
            replication_factor=settings.replicas,
            write_consistency_factor=min(settings.write_consistency, settings.replicas),
            on_disk_payload=True,
        )

    def _idf_params(self, access: AccessFilter) -> models.SearchParams | None:
        if not self._idf:
            return None
        corpus = replace(access, groups=None, document_ids=None)
        return models.SearchParams(idf=models.IdfCorpusParams(corpus=access_condition(corpus)))

    def _delete(self, selector: models.PointsSelector) -> None:
        self._call(lambda: self._client.delete(self.collection, selector, wait=True, ordering=self._ordering))

    def _query(
        self, query: Any, using: str, condition: models.Filter, limit: int, params: models.SearchParams | None
    ) -> list[ScoredPoint]:
        response = self._call(
            lambda: self._client.query_points(
                self.collection,
                query,
                using=using,
                query_filter=condition,
                search_params=params,
                limit=limit,
                with_payload=_PAYLOAD,
                consistency=self._consistency,
            )
        )
        return [_to_scored(point.id, point.payload or {}, point.score) for point in response.points]

    def _call(self, request: Callable[[], T]) -> T:
        return call(request, self._where)


class _Exists(Exception):
    """The collection that was to be made is there already."""


def call(request: Callable[[], T], where: str) -> T:
    """Answer of a request; sent again up to three times where the server did not answer or was overloaded.

    Raises:
        Unavailable: `index_unreachable` and `index_overloaded` may pass, `index_unauthorised`, `index_missing` and
            `index_rejected` do not. No message holds the key: the client sends it as a header and shows none.
    """
    for wait_s in (*_WAITS_S, None):
        try:
            return request()
        except ResponseHandlingException as error:
            trouble = Unavailable(f"{where} cannot be reached: {error}", code="index_unreachable")
        except UnexpectedResponse as error:
            trouble = _trouble_of(error, where)
        if wait_s is None or not trouble.retryable:
            raise trouble
        log.warning("index.retry", where=where, code=trouble.code, wait_s=wait_s)
        time.sleep(wait_s)
    raise AssertionError("unreachable")


def _trouble_of(error: UnexpectedResponse, where: str) -> Unavailable:
    status = error.status_code or 500
    reason = error.content.decode("utf-8", "replace")[:300]
    if status == 409 or (status == 400 and "already exists" in reason):
        raise _Exists from error
    if status in {401, 403}:
        return Unavailable(f"{where}: the server refuses the API key", code="index_unauthorised", retryable=False)
    if status == 404:
        return Unavailable(f"{where} does not exist on the server", code="index_missing", retryable=False)
    if status == 429 or status >= 500:
        return Unavailable(f"{where}: the server answers {status}: {reason}", code="index_overloaded")
    return Unavailable(f"{where}: the server refuses the request: {reason}", code="index_rejected", retryable=False)


def access_condition(access: AccessFilter, ids: Sequence[str] | None = None) -> models.Filter:
    """Index side of the access filter: tenant AND any of the groups AND collection, of some points or of all."""
    must: list[models.Condition] = [_equals("tenant_id", access.tenant_id)]
    if access.collection_id is not None:
        must.append(_equals("collection_id", access.collection_id))
    if access.groups is not None:
        must.append(models.FieldCondition(key="groups", match=models.MatchAny(any=sorted(access.groups))))
    if access.document_ids is not None:
        must.append(models.FieldCondition(key="document_id", match=models.MatchAny(any=sorted(access.document_ids))))
    if ids is not None:
        must.append(models.HasIdCondition(has_id=list(ids)))
    return models.Filter(must=must)


def _quantization(settings: QdrantSettings) -> models.QuantizationConfig | None:
    if settings.quantization == "scalar":
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        return models.ScalarQuantization(scalar=scalar)
    if settings.quantization == "binary":
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    return None


def _equals(key: str, value: str | int) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _sparse(vector: SparseVector) -> models.SparseVector:
    return models.SparseVector(indices=list(vector.indices), values=list(vector.values))


def _to_point(point: IndexPoint) -> models.PointStruct:
    vectors: dict[str, Any] = {LEXICAL: _sparse(point.sparse)}
    if point.dense is not None:
        vectors[DENSE] = list(point.dense)
    if point.sentences:
        vectors[SENTENCES] = [list(sentence) for sentence in point.sentences]
    if point.bridge is not None:
        vectors[BRIDGE] = list(point.bridge)
    return models.PointStruct(id=point.id, vector=vectors, payload=payload_of(point))


def _to_scored(key: object, payload: dict[str, Any], score: float) -> ScoredPoint:
    return ScoredPoint(str(key), payload["document_id"], int(payload["generation"]), float(score))
