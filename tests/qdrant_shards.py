"""Custom sharding of the Qdrant stand-in: shard keys, routing with fallback, shards that are filled from another.

Each shard is a collection of its own in the client's in-memory mode. Rules and refusals are those of the server's
source (1.19: `shard_holder`, `forward_proxy_shard`, `cluster_ops`): a write names its key, a key that is not served
falls back, a shard that is being filled gets what is written to its source meanwhile. A copy goes on by a batch at each
look at the cluster, so that a test decides how far it has come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qdrant_client import QdrantClient
from qdrant_client.http import models

NODE = 1
"""The peer that answers."""
ACTIVE, PARTIAL, DEAD = (
    state.value for state in (models.ReplicaState.ACTIVE, models.ReplicaState.PARTIAL, models.ReplicaState.DEAD)
)


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass
class Shard:
    """One shard; its copies on several peers hold the same here."""

    number: int
    states: dict[int, str]

    @property
    def active(self) -> bool:
        return ACTIVE in self.states.values()


@dataclass
class Transfer:
    """A shard that is being filled: from another shard with a filter, or as a copy on another peer."""

    source: str
    target: str
    to: int
    filter: models.Filter | None
    after: Any = None


@dataclass
class Cluster:
    """Shards of all collections with custom sharding."""

    client: QdrantClient
    enabled: bool = True
    """`cluster.enabled`; without it no shard keys can be made."""
    peers: list[int] = field(default_factory=lambda: [NODE])
    batch: int = 1000
    """Points that are copied between two looks at the cluster; 0 holds every copy."""
    breaks: bool = False
    """The next look finds every copy broken off."""
    shards: dict[str, dict[str, Shard]] = field(default_factory=dict)
    transfers: dict[str, list[Transfer]] = field(default_factory=dict)

    def needs_cluster(self) -> None:
        if not self.enabled:
            raise Refused(405, "Qdrant is running in standalone mode")

    def read(self, name: str, selector: Any) -> list[str]:
        """Local collections that a read goes to."""
        if name not in self.shards:
            if selector is not None:
                self._unknown(selector)
            return [name]
        keys = self.shards[name]
        if selector is None:
            return [self.local(name, shard) for shard in keys.values() if shard.active]
        if isinstance(selector, models.ShardKeyWithFallback):
            target = keys.get(str(selector.target))
            chosen = target if target is not None and target.active else keys.get(str(selector.fallback))
            if chosen is None:
                self._unknown(selector)
            return [self.local(name, chosen)] if chosen is not None else []
        found = []
        for key in selector if isinstance(selector, list) else [selector]:
            if str(key) not in keys:
                raise Refused(400, f"Bad request: Shard key {key} not found")
            if not keys[str(key)].active:
                raise Refused(500, f"Service internal error: shard key {key} has no active replicas")
            found.append(self.local(name, keys[str(key)]))
        return found

    def written(self, name: str, selector: Any) -> list[str]:
        """Keys that a write goes to; None of them for a collection without keys."""
        if name not in self.shards:
            if selector is not None:
                self._unknown(selector)
            return []
        if selector is None:
            raise Refused(400, "Wrong input: Shard key not specified")
        self.read(name, selector)
        keys = self.shards[name]
        if isinstance(selector, models.ShardKeyWithFallback):
            target = keys.get(str(selector.target))
            return [str(selector.target if target is not None and target.active else selector.fallback)]
        if not selector and isinstance(selector, list):
            raise Refused(400, "Wrong input: Empty shard keys selection")
        return [str(key) for key in (selector if isinstance(selector, list) else [selector])]

    def upsert(self, name: str, points: Sequence[models.PointStruct], selector: Any) -> None:
        keys = self.written(name, selector)
        if not keys:
            self.client.upsert(name, points)
        for key in keys:
            self.client.upsert(self._of(name, key), points)
            for transfer in self._from(name, key):
                ids = [point.id for point in points]
                matching = {record.id for record in self._records(name, key, _with_ids(transfer.filter, ids))}
                if wanted := [point for point in points if str(point.id) in {str(one) for one in matching}]:
                    self.client.upsert(self._of(name, transfer.target), wanted)

    def delete(self, name: str, body: Any) -> None:
        selector = body.model_copy(update={"shard_key": None})
        for place in self._each(name, body.shard_key):
            self.client.delete(place, selector)

    def set_payload(self, name: str, body: models.SetPayload) -> None:
        for place in self._each(name, body.shard_key):
            self.client.set_payload(place, body.payload, body.filter or body.points or [], key=body.key)

    def create_key(self, name: str, body: models.CreateShardingKey, default_copies: int) -> bool:
        self.needs_cluster()
        if name not in self.shards:
            raise Refused(400, "Bad request: Shard Key cannot be created with Auto sharding method")
        key = str(body.shard_key)
        if key in self.shards[name]:
            raise Refused(400, f"Bad request: Sharding key {key} already exists for collection {name}")
        if body.initial_state not in {None, models.ReplicaState.ACTIVE, models.ReplicaState.PARTIAL}:
            raise Refused(400, "Bad request: Initial state cannot be that, only Active or Partial are allowed")
        if (body.shards_number or 1) != 1:
            raise Refused(400, "Bad request: the stand-in keeps one shard for a key")
        copies = body.replication_factor or (1 if body.initial_state else default_copies)
        state = ACTIVE if body.initial_state is None else body.initial_state.value
        number = 1 + max((shard.number for shard in self.shards[name].values()), default=-1)
        shard = Shard(number, dict.fromkeys(self.peers[:copies], state))
        self.make_local(name, shard)
        self.shards[name][key] = shard
        return True

    def drop_key(self, name: str, key: str) -> bool:
        self.needs_cluster()
        if key not in self.shards.get(name, {}):
            raise Refused(400, f"Bad request: Sharding key {key} does not exist for collection {name}")
        self.client.delete_collection(self.local(name, self.shards[name].pop(key)))
        self.transfers[name] = [one for one in self.transfers.get(name, []) if key not in {one.source, one.target}]
        return True

    def change(self, name: str, body: Any) -> bool:
        """`POST /collections/{name}/cluster`."""
        self.needs_cluster()
        keys = self.shards.get(name, {})
        if isinstance(body, models.ReplicatePointsOperation):
            asked = body.replicate_points
            for key in (asked.from_shard_key, asked.to_shard_key):
                if str(key) not in keys:
                    raise Refused(400, f"Bad request: Shard key {key} not found")
            target = keys[str(asked.to_shard_key)]
            if len(target.states) != 1:
                detail = "Only replicating to shard keys with exactly one replica is supported"
                raise Refused(400, f"Bad request: {detail}. Shard key {asked.to_shard_key} has {len(target.states)}")
            (to,) = target.states
            target.states[to] = PARTIAL
            self._start(name, Transfer(str(asked.from_shard_key), str(asked.to_shard_key), to, asked.filter))
        elif isinstance(body, models.ReplicateShardOperation):
            wanted = body.replicate_shard
            key, shard = next((k, s) for k, s in keys.items() if s.number == wanted.shard_id)
            if wanted.to_peer_id not in self.peers or wanted.from_peer_id not in shard.states:
                raise Refused(400, f"Bad request: Peer {wanted.to_peer_id} does not exist")
            shard.states[wanted.to_peer_id] = PARTIAL
            self._start(name, Transfer(key, key, wanted.to_peer_id, None))
        else:
            raise Refused(400, "Format error in JSON body: not one of the stand-in's operations")
        return True

    def info(self, name: str) -> dict[str, Any]:
        """`GET /collections/{name}/cluster`; running copies go on by a batch before it answers."""
        for transfer in list(self.transfers.get(name, [])):
            self._advance(name, transfer)
        keys = self.shards.get(name)
        here: list[dict[str, Any]] = []
        there: list[dict[str, Any]] = []
        for key, shard in (keys or {}).items():
            for peer, state in shard.states.items():
                said = {"shard_id": shard.number, "shard_key": key, "state": state}
                if peer == NODE:
                    points = self.client.count(self.local(name, shard)).count
                    here.append(said | {"points_count": points})
                else:
                    there.append(said | {"peer_id": peer})
        if keys is None:
            here = [{"shard_id": 0, "points_count": self.client.count(name).count, "state": ACTIVE}]
        running = [
            {
                "shard_id": (keys or {})[one.source].number,
                "to_shard_id": (keys or {})[one.target].number if one.source != one.target else None,
                "from": NODE,
                "to": one.to,
                "sync": True,
                "method": "stream_records",
            }
            for one in self.transfers.get(name, [])
        ]
        return {
            "peer_id": NODE,
            "shard_count": len(here) + len(there),
            "local_shards": here,
            "remote_shards": there,
            "shard_transfers": running,
        }

    def local(self, name: str, shard: Shard) -> str:
        """Collection of the in-memory mode that holds a shard."""
        return f"{name}.{shard.number}"

    def make_local(self, name: str, shard: Shard) -> None:
        config = self.client.get_collection(name).config.params
        self.client.create_collection(self.local(name, shard), config.vectors or {}, config.sparse_vectors)

    def forget(self, name: str) -> None:
        """A collection is gone."""
        for shard in self.shards.pop(name, {}).values():
            self.client.delete_collection(self.local(name, shard))
        self.transfers.pop(name, None)

    def _start(self, name: str, transfer: Transfer) -> None:
        running = self.transfers.setdefault(name, [])
        if any(one.target == transfer.target and one.to == transfer.to for one in running):
            raise Refused(400, f"Bad request: Shard transfer to {transfer.target} exists already")
        running.append(transfer)

    def _advance(self, name: str, transfer: Transfer) -> None:
        shard = self.shards[name][transfer.target]
        if self.breaks:
            shard.states[transfer.to] = DEAD
            self.transfers[name].remove(transfer)
            return
        if not self.batch:
            return
        if transfer.source != transfer.target:
            records, transfer.after = self.client.scroll(
                self._of(name, transfer.source), transfer.filter, limit=self.batch, offset=transfer.after,
                with_payload=True, with_vectors=True,
            )  # fmt: skip
            if records:
                points = [
                    models.PointStruct(id=one.id, vector=one.vector or {}, payload=one.payload) for one in records
                ]  # type: ignore[arg-type]
                self.client.upsert(self._of(name, transfer.target), points)
            if transfer.after is not None:
                return
        shard.states[transfer.to] = ACTIVE
        self.transfers[name].remove(transfer)

    def _of(self, name: str, key: str) -> str:
        return self.local(name, self.shards[name][key])

    def _from(self, name: str, key: str) -> list[Transfer]:
        return [one for one in self.transfers.get(name, []) if one.source == key and one.target != key]

    def _each(self, name: str, selector: Any) -> Iterable[str]:
        """Local collections that a write other than of points goes to, with shards that are being filled from them."""
        keys = self.written(name, selector)
        if not keys:
            return [name]
        return [
            self._of(name, place) for key in keys for place in (key, *(one.target for one in self._from(name, key)))
        ]

    def _records(self, name: str, key: str, condition: models.Filter) -> list[models.Record]:
        return self.client.scroll(self._of(name, key), condition, limit=100_000)[0]

    @staticmethod
    def _unknown(selector: Any) -> None:
        if isinstance(selector, models.ShardKeyWithFallback):
            detail = f"Neither target shard key {selector.target} nor fallback shard key {selector.fallback} exist"
            raise Refused(404, f"Not found: {detail}")
        raise Refused(400, f"Wrong input: Shard key {selector} not found")


def _with_ids(condition: models.Filter | None, ids: Sequence[Any]) -> models.Filter:
    must = list(condition.must or []) if condition is not None else []  # type: ignore[arg-type]
    return models.Filter(must=[*must, models.HasIdCondition(has_id=list(ids))])
