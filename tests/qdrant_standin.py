"""A Qdrant server for tests: its REST routes, strictly checked, over qdrant-client's in-memory mode.

    python -m tests.qdrant_standin --port 6333 [--api-key KEY] [--folder FOLDER]

Bodies are parsed by the client's own models of the OpenAPI document, which forbid unknown fields; answers and statuses
are those of the server. What the in-memory mode does not keep (graph, quantisation, shards) is stored as it was sent
and shown by `GET /collections/{name}`, so that a test can read it back. Scoring is exact and slow: good for a few
thousand points.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, TypeAdapter, ValidationError
from qdrant_client import QdrantClient
from qdrant_client.http import models

from tests.qdrant_shards import Cluster, Refused, Shard

VERSION = "1.19.0"
M = TypeVar("M")

_HNSW = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}
_OPTIMIZERS = {"default_segment_number": 0, "flush_interval_sec": 5}
_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


class Store:
    """Collections of one stand-in. The in-memory mode is not thread-safe, so one request at a time works on it."""

    def __init__(self, folder: Path | None = None) -> None:
        """folder: keeps what is written, for a stand-in that is killed and started again."""
        self.folder = folder
        self.client = (
            QdrantClient(":memory:")
            if folder is None
            else QdrantClient(path=str(folder / "local"), force_disable_check_same_thread=True)
        )
        self.lock = threading.RLock()
        self.cluster = Cluster(self.client)
        self.created: dict[str, models.CreateCollection] = {}
        self.indexes: dict[str, dict[str, models.CreateFieldIndex]] = {}
        self.calls: list[tuple[str, str, dict[str, str]]] = []
        """(method, path, query parameters) of every request, for tests that ask what was sent."""
        self.fail_next: list[int] = []
        """Statuses with which the next requests are refused before anything is done."""
        self.api_key: str | None = None
        self.body_limit = 32 * 2**20
        """`max_request_size_mb` of the server; JSON above it is refused with 400, as actix does."""
        self.retry_after_s: int | None = None
        """Set: writes are refused with 429 and this Retry-After, as strict mode does above `write_rate_limit`."""
        self.most_upserts: int | None = None
        """`upsert_max_batchsize` of strict mode."""
        self.allow_exact = True
        """`search_allow_exact` of strict mode."""
        self.disk_full = False
        """Writes are refused as on a full disk, deletions too."""
        self.frozen = threading.Event()
        """Set: requests are taken and never answered, as by a process that was stopped (SIGSTOP)."""
        self.headers: list[dict[str, str]] = []
        """Of every request, in the order of `calls`."""

        self._read()

    def _read(self) -> None:
        if self.folder is None or not (self.folder / "standin.json").exists():
            return
        kept = json.loads((self.folder / "standin.json").read_text("utf-8"))
        self.created = {name: models.CreateCollection(**one) for name, one in kept["created"].items()}
        self.indexes = {
            name: {field: models.CreateFieldIndex(**one) for field, one in fields.items()}
            for name, fields in kept["indexes"].items()
        }
        self.cluster.shards = {
            name: {
                key: Shard(number, {int(peer): state for peer, state in states.items()})
                for key, (number, states) in keys.items()
            }
            for name, keys in kept.get("shards", {}).items()
        }

    def keep(self) -> None:
        """Write down how collections were made; the client itself keeps their points and aliases."""
        if self.folder is None:
            return
        kept = {
            "created": {name: one.model_dump(mode="json", exclude_none=True) for name, one in self.created.items()},
            "indexes": {
                name: {field: one.model_dump(mode="json", exclude_none=True) for field, one in fields.items()}
                for name, fields in self.indexes.items()
            },
            "shards": {
                name: {key: (shard.number, shard.states) for key, shard in keys.items()}
                for name, keys in self.cluster.shards.items()
            },
        }
        new = self.folder / "standin.json.new"
        new.write_text(json.dumps(kept), encoding="utf-8")
        new.replace(self.folder / "standin.json")

    @property
    def full(self) -> bool:
        """Whether its disk is full: said by the test, or by a file `full` beside what it keeps."""
        return self.disk_full or (self.folder is not None and (self.folder / "full").exists())

    def lose(self, name: str) -> None:
        """Forget a collection, as a wiped disk does; its aliases go with it."""
        name = self.need(name)
        self.indexes.pop(name)
        del self.created[name]
        self.cluster.forget(name)
        self.client.delete_collection(name)

    def plant(self, name: str, point_id: str, payload: dict[str, Any], vectors: dict[str, Any] | None = None) -> None:
        """Put a point there that nobody of ours wrote: interrupted deletions leave such on a cluster."""
        name = self.need(name)
        config = self.created[name].vectors
        assert isinstance(config, dict)
        made = vectors or {"dense": [0.5] * config["dense"].size}
        place = self.cluster.read(name, None)[-1]
        self.client.upsert(place, [models.PointStruct(id=point_id, vector=made, payload=payload)])

    def need(self, name: str) -> str:
        """The collection behind a name or an alias."""
        name = self.client._client.aliases.get(name, name)  # type: ignore[attr-defined]
        if name not in self.created:
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return name

    def check_vectors(self, name: str, vectors: dict[str, Any]) -> None:
        """Names and lengths of a point's vectors, as the server checks them before it writes."""
        config = self.created[name]
        dense = config.vectors if isinstance(config.vectors, dict) else {}
        for key, value in vectors.items():
            if key in (config.sparse_vectors or {}):
                if not isinstance(value, models.SparseVector):
                    raise Refused(400, f"Wrong input: Vector {key} is sparse")
                if len(set(value.indices)) != len(value.indices) or len(value.indices) != len(value.values):
                    raise Refused(422, "Validation error in JSON body: indices must be unique and match values")
            elif key in dense:
                rows = value if value and isinstance(value[0], list) else [value]
                if any(len(row) != dense[key].size for row in rows):
                    raise Refused(
                        400, f"Wrong input: Vector dimension error: expected dim: {dense[key].size}, got {len(rows[0])}"
                    )
            else:
                raise Refused(400, f"Wrong input: Not existing vector name error: {key}")


def create_app(store: Store | None = None, *, api_key: str | None = None) -> FastAPI:
    """The routes that this project's index uses."""
    store = store or Store()
    store.api_key = api_key
    app = FastAPI()
    app.state.store = store

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"status": {"error": str(error)}, "time": 0.0}, error.status)

    @app.middleware("http")
    async def front(request: Request, call_next: Callable[[Request], Any]) -> Any:
        store.calls.append((request.method, request.url.path, dict(request.query_params)))
        store.headers.append(dict(request.headers))
        while store.frozen.is_set():
            await asyncio.sleep(0.02)  # a stopped process wakes up by itself as well
        if store.api_key is not None and request.headers.get("api-key") != store.api_key:
            known = "api-key" in request.headers
            return PlainTextResponse(
                "Invalid API key or JWT" if known else "Must provide an API key or an Authorization bearer token", 401
            )
        length = int(request.headers.get("content-length", 0))
        if length > store.body_limit:
            detail = f"JSON payload ({length} bytes) is larger than allowed (limit: {store.body_limit} bytes)."
            return JSONResponse({"status": {"error": detail}, "time": 0.0}, 400)
        writes = request.method in {"PUT", "POST"} and request.url.path.endswith(("/points", "/points/delete"))
        if writes and store.retry_after_s is not None:
            detail = "Rate limiting exceeded: Write rate limit exceeded, retry later"
            headers = {"Retry-After": str(store.retry_after_s)}
            return JSONResponse({"status": {"error": detail}, "time": 0.0}, 429, headers)
        if writes and store.full:
            detail = "Service internal error: No space left on device: WAL buffer size exceeds available disk space"
            return JSONResponse({"status": {"error": detail}, "time": 0.0}, 500)
        if store.fail_next:
            return JSONResponse({"status": {"error": "scripted"}, "time": 0.0}, store.fail_next.pop(0))
        return await call_next(request)

    def work(action: Callable[[], Any], *, layout: bool = False) -> JSONResponse:
        started = time.perf_counter()
        with store.lock:
            try:
                result = action()
                if layout:
                    store.keep()
            except (ValueError, KeyError) as error:
                raise Refused(400, f"Wrong input: {error}") from error
        if isinstance(result, BaseModel):
            result = result.model_dump(mode="json", exclude_none=True)
        return JSONResponse({"result": result, "status": "ok", "time": time.perf_counter() - started})

    def updated() -> dict[str, Any]:
        return {"operation_id": len(store.calls), "status": "completed"}

    @app.get("/")
    def root() -> dict[str, str]:
        return {"title": "qdrant - vector search engine", "version": VERSION}

    @app.get("/healthz")
    @app.get("/readyz")
    @app.get("/livez")
    async def health() -> PlainTextResponse:  # not behind the threads that wait for their turn on the store
        return PlainTextResponse("all shards are ready")

    @app.get("/collections")
    def collections() -> JSONResponse:
        return work(lambda: {"collections": [{"name": name} for name in store.created]})

    @app.get("/collections/{name}/exists")
    def exists(name: str) -> JSONResponse:
        return work(lambda: {"exists": name in store.created or name in store.client._client.aliases})  # type: ignore[attr-defined]

    @app.put("/collections/{name}")
    async def create(name: str, request: Request) -> JSONResponse:
        config = await parse(models.CreateCollection, request)

        def action() -> bool:
            if name in store.created or name in store.client._client.aliases:  # type: ignore[attr-defined]
                raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
            store.client.create_collection(name, config.vectors or {}, config.sparse_vectors)
            store.created[name], store.indexes[name] = config, {}
            if config.sharding_method is models.ShardingMethod.CUSTOM:
                store.cluster.shards[name] = {}
            return True

        return work(action, layout=True)

    @app.get("/collections/{name}")
    def info(name: str) -> JSONResponse:
        return work(lambda: _info(store, store.need(name)))

    @app.patch("/collections/{name}")
    async def update(name: str, request: Request) -> JSONResponse:
        body = await parse(models.UpdateCollection, request)

        def action() -> bool:
            key = store.need(name)
            config = store.created[key]
            if body.hnsw_config is not None:
                old = config.hnsw_config or models.HnswConfigDiff()
                config.hnsw_config = old.model_copy(update=body.hnsw_config.model_dump(exclude_none=True))
            if body.quantization_config is not None:
                config.quantization_config = _codes(body.quantization_config)
            for vector, diff in (body.vectors or {}).items():
                assert isinstance(config.vectors, dict)
                if diff.quantization_config is not None:
                    config.vectors[vector].quantization_config = _codes(diff.quantization_config)
            return True

        return work(action, layout=True)

    @app.delete("/collections/{name}")
    def drop(name: str) -> JSONResponse:
        def action() -> bool:
            store.indexes.pop(name, None)
            if store.created.pop(name, None) is None:
                return False
            store.cluster.forget(name)
            store.client.delete_collection(name)
            return True

        return work(action, layout=True)

    @app.put("/collections/{name}/index")
    async def create_index(name: str, request: Request) -> JSONResponse:
        body = await parse(models.CreateFieldIndex, request)

        def action() -> dict[str, Any]:
            store.indexes[store.need(name)][body.field_name] = body
            return updated()

        return work(action, layout=True)

    @app.put("/collections/{name}/points")
    async def upsert(name: str, request: Request) -> JSONResponse:
        body = await parse(models.PointsList, request)

        def action() -> dict[str, Any]:
            key = store.need(name)
            if store.most_upserts is not None and len(body.points) > store.most_upserts:
                detail = f'Limit exceeded {len(body.points)} > {store.most_upserts} for "upsert limit"'
                raise Refused(400, f"Bad request: {detail}. Help: Reduce the parameter.")
            for point in body.points:
                if not isinstance(point.vector, dict):
                    raise Refused(400, "Wrong input: Not existing vector name error: ")
                store.check_vectors(key, point.vector)
            store.cluster.upsert(key, body.points, body.shard_key)
            return updated()

        return work(action)

    @app.post("/collections/{name}/points/delete")
    async def delete(name: str, request: Request) -> JSONResponse:
        body = await parse(models.PointsSelector, request)

        def action() -> dict[str, Any]:
            store.cluster.delete(store.need(name), body)
            return updated()

        return work(action)

    @app.post("/collections/{name}/points/payload")
    async def set_payload(name: str, request: Request) -> JSONResponse:
        body = await parse(models.SetPayload, request)

        def action() -> dict[str, Any]:
            store.cluster.set_payload(store.need(name), body)
            return updated()

        return work(action)

    @app.post("/collections/{name}/points/query")
    async def query(name: str, request: Request) -> JSONResponse:
        body = await parse(models.QueryRequest, request)

        return work(lambda: answer(store.need(name), body))

    @app.post("/collections/{name}/points/query/batch")
    async def query_batch(name: str, request: Request) -> JSONResponse:
        body = await parse(models.QueryRequestBatch, request)

        def action() -> list[Any]:
            answers = [answer(store.need(name), one) for one in body.searches]
            return [one.model_dump(mode="json", exclude_none=True) for one in answers]

        return work(action)

    def answer(key: str, body: models.QueryRequest) -> models.QueryResponse:
        if not store.allow_exact and body.params is not None and body.params.exact:
            raise Refused(400, "Bad request: Exact search disabled!. Help: Set exact=false.")
        config = store.created[key]
        using = body.using or ""
        if using not in (config.vectors or {}) and using not in (config.sparse_vectors or {}):
            raise Refused(400, f"Wrong input: Not existing vector name error: {using}")
        scoped = body.params is not None and body.params.idf is not None
        sparse = (config.sparse_vectors or {}).get(using)
        if scoped and (sparse is None or sparse.modifier is not models.Modifier.IDF):
            raise Refused(400, "Wrong input: idf params need a sparse vector with the IDF modifier")
        nearest = body.query.nearest if isinstance(body.query, models.NearestQuery) else body.query
        store.check_vectors(key, {using: nearest})
        limit = 10 if body.limit is None else body.limit
        hits = [
            hit
            for place in store.cluster.read(key, body.shard_key)
            for hit in store.client.query_points(
                place,
                nearest,
                using=using,
                query_filter=body.filter,
                limit=limit,
                with_payload=body.with_payload or False,
                with_vectors=body.with_vector or False,
                search_params=models.SearchParams(idf=body.params.idf) if scoped and body.params else None,
            ).points
        ]
        hits.sort(key=lambda hit: -hit.score)
        return models.QueryResponse(points=list({hit.id: hit for hit in reversed(hits)}.values())[::-1][:limit])

    @app.post("/collections/{name}/points/count")
    async def count(name: str, request: Request) -> JSONResponse:
        body = await parse(models.CountRequest, request)

        def action() -> dict[str, int]:
            places = store.cluster.read(store.need(name), body.shard_key)
            return {"count": sum(store.client.count(place, body.filter, exact=True).count for place in places)}

        return work(action)

    @app.post("/collections/{name}/points")
    async def retrieve(name: str, request: Request) -> JSONResponse:
        body = await parse(models.PointRequest, request)

        def action() -> list[Any]:
            return [
                record.model_dump(mode="json", exclude_none=True)
                for place in store.cluster.read(store.need(name), body.shard_key)
                for record in store.client.retrieve(
                    place, body.ids, with_payload=body.with_payload or False, with_vectors=body.with_vector or False
                )
            ]

        return work(action)

    @app.post("/collections/{name}/points/scroll")
    async def scroll(name: str, request: Request) -> JSONResponse:
        body = await parse(models.ScrollRequest, request)

        def action() -> dict[str, Any]:
            limit = body.limit or 10
            found = {}
            for place in store.cluster.read(store.need(name), body.shard_key):
                records, _ = store.client.scroll(
                    place,
                    scroll_filter=body.filter,
                    limit=limit + 1,
                    offset=body.offset,
                    with_payload=True if body.with_payload is None else body.with_payload,
                    with_vectors=body.with_vector or False,
                )
                found |= {str(record.id): record for record in records}
            page = [found[key] for key in sorted(found)]
            points = [record.model_dump(mode="json", exclude_none=True) for record in page[:limit]]
            return {"points": points, "next_page_offset": page[limit].id if len(page) > limit else None}

        return work(action)

    @app.get("/cluster")
    def cluster_status() -> JSONResponse:
        peers = {str(peer): {"uri": f"http://node-{peer}:6335/"} for peer in store.cluster.peers}
        enabled = {
            "status": "enabled",
            "peer_id": store.cluster.peers[0],
            "peers": peers,
            "raft_info": {"term": 1, "commit": 1, "pending_operations": 0, "is_voter": True},
            "consensus_thread_status": {"consensus_thread_status": "working", "last_update": "2026-01-01T00:00:00Z"},
            "message_send_failures": {},
        }
        return work(lambda: enabled if store.cluster.enabled else {"status": "disabled"})

    @app.get("/collections/{name}/cluster")
    def collection_cluster(name: str) -> JSONResponse:
        return work(lambda: store.cluster.info(store.need(name)), layout=True)

    @app.post("/collections/{name}/cluster")
    async def change_cluster(name: str, request: Request) -> JSONResponse:
        body = await parse(models.ClusterOperations, request)
        return work(lambda: store.cluster.change(store.need(name), body), layout=True)

    @app.put("/collections/{name}/shards")
    async def create_shard_key(name: str, request: Request) -> JSONResponse:
        body = await parse(models.CreateShardingKey, request)

        def action() -> bool:
            key = store.need(name)
            return store.cluster.create_key(key, body, store.created[key].replication_factor or 1)

        return work(action, layout=True)

    @app.post("/collections/{name}/shards/delete")
    async def delete_shard_key(name: str, request: Request) -> JSONResponse:
        body = await parse(models.DropShardingKey, request)
        return work(lambda: store.cluster.drop_key(store.need(name), str(body.shard_key)), layout=True)

    @app.post("/collections/aliases")
    async def change_aliases(request: Request) -> JSONResponse:
        body = await parse(models.ChangeAliasesOperation, request)

        def action() -> bool:
            for item in body.actions:
                if isinstance(item, models.CreateAliasOperation):
                    store.need(item.create_alias.collection_name)
            return store.client.update_collection_aliases(body.actions)

        return work(action)

    @app.get("/aliases")
    def aliases() -> JSONResponse:
        return work(store.client.get_aliases)

    return app


def _codes(sent: Any) -> Any:
    return None if sent is models.Disabled.DISABLED else sent


async def parse(model: Any, request: Request) -> Any:
    """Body as one of the client's models; 400 with the reason when it is not, as the server answers."""
    adapter = _ADAPTERS.setdefault(model, TypeAdapter(model))
    try:
        return adapter.validate_json(await request.body())
    except ValidationError as error:
        raise Refused(400, f"Format error in JSON body: {error.errors()[:2]}") from error


def _info(store: Store, name: str) -> dict[str, Any]:
    sent = store.created[name].model_dump(mode="json", exclude_none=True)
    points = sum(store.client.count(place, exact=True).count for place in store.cluster.read(name, None))
    schema = {}
    for field, index in store.indexes[name].items():
        params = index.field_schema
        if isinstance(params, BaseModel):
            described = params.model_dump(mode="json", exclude_none=True)
            schema[field] = {"data_type": described["type"], "params": described, "points": points}
        else:
            schema[field] = {"data_type": models.PayloadSchemaType(params).value, "points": points}
    placement = (
        "shard_number",
        "sharding_method",
        "replication_factor",
        "write_consistency_factor",
        "payload",
        "on_disk_payload",
    )
    return {
        "status": "green",
        "optimizer_status": "ok",
        "points_count": points,
        "segments_count": 1,
        "config": {
            "params": {key: sent[key] for key in ("vectors", "sparse_vectors", *placement) if key in sent},
            "hnsw_config": _HNSW | sent.get("hnsw_config", {}),
            "optimizer_config": _OPTIMIZERS | sent.get("optimizers_config", {}),
            "quantization_config": sent.get("quantization_config"),
        },
        "payload_schema": schema,
    }


@contextmanager
def serve(store: Store | None = None, *, api_key: str | None = None, port: int = 0) -> Iterator[tuple[str, Store]]:
    """A stand-in on a free port of this machine: (URL, its store)."""
    app = create_app(store, api_key=api_key)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the stand-in did not start")
        time.sleep(0.01)  # uvicorn offers no event for it
    bound = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{bound}", app.state.store
    finally:
        server.should_exit = True
        thread.join(10)


def main() -> None:
    """Run in the foreground until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=6333)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--api-key")
    parser.add_argument("--folder", type=Path, help="keep what is written there; a file `full` in it fills the disk")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    app = create_app(Store(arguments.folder), api_key=arguments.api_key)
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
