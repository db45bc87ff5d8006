"""Shards of tenants in one collection with custom sharding: one that all share, and one of its own for a tenant that
outgrew the rest.

Every call names `{"target": tenant, "fallback": "shared"}`. The server goes to the tenant's shard once that can be read
and to the shared one until then, so no process has to know which tenants have moved. Moving a tenant is Qdrant's tenant
promotion (1.16): a shard that takes part in nothing yet (`Partial`), points copied into it by the server, which sends
writes that come meanwhile after them, and the copy in the shared shard dropped once the new one serves. Only a cluster
keeps shard keys, be it of one node (`cluster.enabled`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog
from qdrant_client import QdrantClient, models
from qdrant_client.http.models import ReplicaState

from core.errors import Unavailable
from core.settings_qdrant import QdrantSettings
from core.types import TenantShard
from retrieval.index.connection import AlreadyExists
from retrieval.index.server_points import batches, equals

log = structlog.stdlib.get_logger(__name__)

SHARED = "shared"
"""Key of the shard of all tenants that have none of their own; no tenant's id."""
_LOOK_EVERY_S = 0.5
_PAGE = 1000
_MOST_ROUNDS = 10
_STILL = 4
"""Looks in a row that must find a copy neither running nor done before it counts as broken off: nodes hear of what
another one decided a moment later."""

T = TypeVar("T")


class Call(Protocol):
    """One request to the server, with its retries."""

    def __call__(self, request: Callable[[QdrantClient], T], /) -> T:
        """Its answer; raises Unavailable."""
        ...


@dataclass(slots=True)
class _Shard:
    number: int = -1
    peers: dict[int, ReplicaState] = field(default_factory=dict)
    moving: bool = False
    """Points are being copied into it."""

    @property
    def serves(self) -> bool:
        return ReplicaState.ACTIVE in self.peers.values()


def key_of(tenant_id: str) -> models.ShardKeyWithFallback:
    """Where the points of a tenant are."""
    return models.ShardKeyWithFallback(target=tenant_id, fallback=SHARED)


class TenantShards:
    """Shard keys of one collection. Every step may be repeated: what is there already is not made again."""

    def __init__(
        self,
        call: Call,
        write: Callable[[list[models.PointStruct], models.ShardKeySelector], None],
        collection: str,
        settings: QdrantSettings,
    ) -> None:
        self._call = call
        self._write = write
        self._name = collection
        self._settings = settings
        self._ordering = models.WriteOrdering(settings.write_ordering)

    def ensure(self, own: Callable[[], Collection[str]]) -> None:
        """Make the keys of a new collection: those of tenants with a shard of their own first, the shared one last.

        A collection with the shared one is whole, and may hold points: a key made there by hand would hide them.
        """
        if SHARED in self._shards():
            return
        for key in (*sorted(own()), SHARED):
            self._create(key)

    def keys(self) -> list[str]:
        """Keys of shards that can be read and written."""
        return sorted(key for key, shard in self._shards().items() if shard.serves)

    def found(self) -> list[TenantShard]:
        """Shards of single tenants, and what is left of them in the shared one."""
        return [
            TenantShard(
                key,
                shard.serves,
                self._count(key, key) if shard.serves else 0,
                self._count(SHARED, key) if shard.serves else 0,
            )
            for key, shard in sorted(self._shards().items())
            if key != SHARED
        ]

    def place(self, own: Collection[str], step: Callable[[float], None]) -> None:
        """Give the tenants of `own` a shard of their own, and take it from all others.

        step: called while the server copies, with the fraction done; what it raises ends the work, which goes on from
        there when asked again.

        Raises:
            Unavailable: the server does not answer; `index_shard_failed`: it gave a copy up.
        """
        moves = [(tenant, self._promote) for tenant in sorted(own)]
        moves += [(key, self._demote) for key in sorted(self._shards()) if key != SHARED and key not in own]
        for number, (tenant, move) in enumerate(moves):
            move(tenant, lambda done, number=number: step((number + done) / len(moves)))  # type: ignore[misc]

    def _promote(self, tenant: str, step: Callable[[float], None]) -> None:
        shard = self._shards().get(tenant)
        if shard is not None and not shard.serves and not shard.moving:
            # A copy that broke off. What was deleted since is still in it, and copying again would not take that away.
            self._drop(tenant)
            shard = None
        if shard is None:
            log.info("index.shard_made", collection=self._name, tenant=tenant)
            self._create(tenant, filling=True)
            copy = models.ReplicatePoints(filter=_of(tenant), from_shard_key=SHARED, to_shard_key=tenant)
            self._change(models.ReplicatePointsOperation(replicate_points=copy))
        self._wait_until_it_serves(tenant, step)
        self._spread(tenant, step)
        self._drop_points(models.FilterSelector(filter=_of(tenant)))
        log.info("index.shard_serves", collection=self._name, tenant=tenant)

    def _wait_until_it_serves(self, tenant: str, step: Callable[[float], None]) -> None:
        wanted, still = self._count(SHARED, tenant), 0
        while True:
            shard = self._shards().get(tenant, _Shard())
            if shard.serves and not shard.moving:
                return
            still = 0 if shard.moving else still + 1
            if still == _STILL:
                raise Unavailable(
                    f"the server gave up copying tenant '{tenant}' into a shard of its own in '{self._name}'",
                    code="index_shard_failed",
                )
            step(0.8 * min(1.0, self._copied(tenant) / wanted) if wanted else 0.8)
            time.sleep(_LOOK_EVERY_S)

    def _spread(self, tenant: str, step: Callable[[float], None]) -> None:
        """Copies of a shard on other nodes: one that is filled may have a single one until it serves."""
        status = self._call(lambda client: client.cluster_status())
        nodes = {int(peer) for peer in getattr(status, "peers", {})}
        tried: set[int] = set()
        while True:
            step(0.85)
            shard = self._shards()[tenant]
            free = sorted(nodes - set(shard.peers) - tried)
            if shard.moving:
                time.sleep(_LOOK_EVERY_S)
            elif len(shard.peers) < min(self._settings.replicas, len(nodes)) and free:
                tried.add(free[0])
                source = next(peer for peer, state in shard.peers.items() if state is ReplicaState.ACTIVE)
                copy = models.ReplicateShard(shard_id=shard.number, to_peer_id=free[0], from_peer_id=source)
                self._change(models.ReplicateShardOperation(replicate_shard=copy))
            else:
                return

    def _demote(self, tenant: str, step: Callable[[float], None]) -> None:
        """Copy what differs into the shared shard until nothing does, then drop the key: calls fall back at once.

        What is written in the moment between is found by comparing with the database, which the caller does next.
        """
        shard = self._shards().get(tenant)
        if shard is not None and shard.moving:  # what runs cannot be called back over REST
            self._wait_until_it_serves(tenant, step)
            shard = self._shards().get(tenant)
        if shard is not None and shard.serves:
            for turn in range(_MOST_ROUNDS):
                there, here = self._held(tenant, tenant), self._held(SHARED, tenant)
                changed = [key for key, said in there.items() if here.get(key) != said]
                gone = [key for key in here if key not in there]
                if not changed and not gone:
                    break
                for start in range(0, len(changed), self._settings.upsert_batch):
                    step(0.9 * start / len(changed) if turn == 0 else 0.9)
                    self._copy_back(tenant, changed[start : start + self._settings.upsert_batch])
                if gone:
                    self._drop_points(models.PointIdsList(points=list(gone)))
        self._drop(tenant)
        log.info("index.shard_dropped", collection=self._name, tenant=tenant)

    def _copy_back(self, tenant: str, ids: Sequence[models.ExtendedPointId]) -> None:
        records = self._call(
            lambda client: client.retrieve(
                self._name, ids, with_payload=True, with_vectors=True, shard_key_selector=tenant
            )
        )
        points = [models.PointStruct(id=one.id, vector=one.vector or {}, payload=one.payload) for one in records]
        for batch in batches(points, self._settings.upsert_batch):
            self._write(batch, SHARED)

    def _held(self, key: str, tenant: str) -> dict[models.ExtendedPointId, Any]:
        return {record.id: record.payload for record in self._scroll(key, tenant)}

    def _scroll(self, key: str, tenant: str) -> Iterator[Any]:
        offset: Any = None
        while True:
            records, offset = self._call(partial(_page, name=self._name, key=key, tenant=tenant, offset=offset))
            yield from records
            if offset is None:
                return

    def _count(self, key: str, tenant: str) -> int:
        return self._call(
            lambda client: client.count(self._name, _of(tenant), exact=True, shard_key_selector=key)
        ).count

    def _copied(self, tenant: str) -> int:
        """Points in a shard that is being filled, where the node that is asked holds it; else none are known of."""
        info = self._call(lambda client: client.collection_cluster_info(self._name))
        return sum(one.points_count for one in info.local_shards if one.shard_key == tenant)

    def _shards(self) -> dict[str, _Shard]:
        info = self._call(lambda client: client.collection_cluster_info(self._name))
        found: dict[str, _Shard] = {}
        here = [(one.shard_key, one.shard_id, info.peer_id, one.state) for one in info.local_shards]
        there = [(one.shard_key, one.shard_id, one.peer_id, one.state) for one in info.remote_shards]
        for key, number, peer, state in [*here, *there]:
            found.setdefault(str(key), _Shard(number)).peers[peer] = state
        filled = {one.shard_id if one.to_shard_id is None else one.to_shard_id for one in info.shard_transfers}
        for shard in found.values():
            shard.moving = shard.number in filled
        return found

    def _create(self, key: str, *, filling: bool = False) -> None:
        begun: dict[str, Any] = {"initial_state": ReplicaState.PARTIAL} if filling else {}
        copies = 1 if filling else self._settings.replicas
        try:
            self._call(
                lambda client: client.create_shard_key(
                    self._name, key, shards_number=1, replication_factor=copies, **begun
                )
            )
        except AlreadyExists:  # another process made it just now
            log.info("index.shard_made_elsewhere", collection=self._name, key=key)

    def _drop(self, key: str) -> None:
        if key in self._shards():
            self._call(lambda client: client.delete_shard_key(self._name, key))

    def _drop_points(self, selector: models.PointsSelector) -> None:
        """From the shared shard."""
        self._call(
            lambda client: client.delete(
                self._name, selector, wait=True, ordering=self._ordering, shard_key_selector=SHARED
            )
        )

    def _change(self, operation: models.ClusterOperations) -> None:
        self._call(lambda client: client.cluster_collection_update(self._name, operation))


def _page(client: QdrantClient, *, name: str, key: str, tenant: str, offset: Any) -> Any:
    return client.scroll(
        name, scroll_filter=_of(tenant), limit=_PAGE, offset=offset, with_payload=True, shard_key_selector=key
    )


def _of(tenant: str) -> models.Filter:
    return models.Filter(must=[equals("tenant_id", tenant)])
