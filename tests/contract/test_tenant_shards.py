"""Tenants in shards of their own, on the stand-in and on a real cluster (`TSUMUGI_TEST_QDRANT_URL`)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from core.errors import Unavailable
from core.types import AccessFilter, SparseVector, TenantShard
from retrieval.index import connection as connections
from retrieval.index import tenant_shards
from retrieval.index.connection import Connection, connect
from retrieval.index.server import ServerIndex
from retrieval.index.tenant_shards import SHARED
from tests.contract.test_vector_index import ALL, DIM, KINDS, point, settings_of
from tests.qdrant_standin import Store, serve

WORDS = SparseVector((1, 2, 3, 5, 8, 13, 21, 34), (1.0,) * 8)
OTHERS = AccessFilter("t2", None)


class Stopped(Exception):
    """The process that moves a tenant ends."""


def go_on(_done: float) -> None:
    """A step that lets the work go on."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_WAITS_S", (0.0,))
    monkeypatch.setattr(tenant_shards, "_LOOK_EVERY_S", 0.01)


@pytest.fixture
def standin() -> Iterator[tuple[Connection, Store, ServerIndex]]:
    with serve() as (url, store):
        connection = connect(settings_of("rest", url))
        index = ServerIndex(connection, "chunks", dim=DIM, settings=settings_of("rest", url), tenant_shards=True)
        index.upsert([point(n) for n in range(60)] + [point(n, tenant="t2") for n in range(60, 90)])
        yield connection, store, index
        index.close()


@pytest.fixture(params=KINDS[2:])
def index(request: pytest.FixtureRequest) -> Iterator[ServerIndex]:
    with serve() as (url, _):
        settings = settings_of(request.param, url)
        connection = connect(settings)
        if connection.client.cluster_status().status != "enabled":
            pytest.skip("the server runs by itself: no shard keys")
        name = f"test-{uuid.uuid4().hex[:12]}"
        made = ServerIndex(connection, name, dim=DIM, sentences=True, settings=settings, tenant_shards=True)
        yield made
        made.drop()
        made.close()


def answers(index: ServerIndex, access: AccessFilter) -> list[list[tuple[str, float]]]:
    """What searches of a tenant find, to the sixth digit."""
    ids = [point(n).id for n in range(20)]
    found = [index.search_dense(point(3).dense or (), access, 20), index.search_sparse(WORDS, access, 20)]
    scores = index.score_sparse(WORDS, ids, access)
    arms = [[(hit.id, round(hit.score, 6)) for hit in hits] for hits in found]
    return [*arms, sorted((key, round(score, 6)) for key, score in scores.items())]


def test_a_tenant_moves_to_a_shard_of_its_own_and_back(index: ServerIndex) -> None:
    """Line 13. Orders and scores stay as they are: the IDF is that of the tenant's points before and after."""
    index.upsert([point(n) for n in range(300)] + [point(n, tenant="t2") for n in range(300, 400)])
    before = [answers(index, ALL), answers(index, OTHERS)]
    index.place(["t1"], go_on)
    assert index.tenant_shards() == [TenantShard("t1", True, 300, 0)]
    assert [answers(index, ALL), answers(index, OTHERS)] == before
    index.upsert([point(500)])
    index.delete_document("d7", tenant_id="t1")
    index.delete_points([point(8).id], tenant_id="t1")
    index.delete_points([point(9).id])
    index.set_access("d10", tenant_id="t1", collection_id="c9", groups=("hr",))
    index.place(["t1"], go_on)
    assert index.count(tenant_id="t1") == 298 and index.count() == 398
    assert index.count(tenant_id="t1", document_id="d10") == 1
    said = {one.id: one for one in index.scan()}
    assert said[point(10).id].groups == {"hr"} and point(7).id not in said
    moved = [answers(index, ALL), answers(index, OTHERS)]
    index.place([], go_on)
    assert index.tenant_shards() == [] and index.count() == 398
    assert [answers(index, ALL), answers(index, OTHERS)] == moved


def test_the_server_is_told_whose_points_are_meant(standin: tuple[Connection, Store, ServerIndex]) -> None:
    """The stand-in refuses what the server refuses; the contract's cases all run in collections of both kinds."""
    connection, _, index = standin
    client = connection.client
    for key in (None, "t1", models.ShardKeyWithFallback(target="t1", fallback="nobody")):
        with pytest.raises(UnexpectedResponse):
            client.delete("chunks", models.Filter(), shard_key_selector=key)
    with pytest.raises(UnexpectedResponse):
        client.create_shard_key("chunks", SHARED)
    assert index.count() == 90


@pytest.mark.parametrize("end", ["made", "begun", "copied"])
def test_a_move_that_was_cut_off_goes_on(
    end: str, standin: tuple[Connection, Store, ServerIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store, index = standin
    store.cluster.batch = 10
    before = answers(index, ALL)

    def stop(done: float) -> None:
        if end == "begun" and done > 0.1:
            raise Stopped

    if end != "begun":
        name = {"made": "_change", "copied": "_drop_points"}[end]
        monkeypatch.setattr(tenant_shards.TenantShards, name, _raising(Stopped()))
    with pytest.raises(Stopped):
        index.place(["t1"], stop)
    (state,) = index.tenant_shards()
    assert (state.serves, state.left) == (end == "copied", 60 if end == "copied" else 0)
    assert answers(index, ALL) == before
    monkeypatch.undo()
    monkeypatch.setattr(tenant_shards, "_LOOK_EVERY_S", 0.01)
    index.delete_document("d3", tenant_id="t1")
    index.place(["t1"], go_on)
    assert index.tenant_shards() == [TenantShard("t1", True, 59, 0)]
    assert index.count() == 89


def test_what_comes_while_points_are_copied_is_in_both_places(
    standin: tuple[Connection, Store, ServerIndex],
) -> None:
    _, store, index = standin
    store.cluster.batch = 10
    looks = 0

    def meanwhile(_done: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            index.upsert([point(200), point(201, tenant="t2")])
            index.delete_document("d1", tenant_id="t1")
            index.delete_document("d59", tenant_id="t1")
            index.set_access("d2", tenant_id="t1", collection_id="c1", groups=("hr",))

    index.place(["t1"], meanwhile)
    assert looks > 3 and index.tenant_shards() == [TenantShard("t1", True, 59, 0)]
    said = {one.id: one for one in index.scan()}
    assert said[point(2).id].groups == {"hr"} and {point(200).id, point(201).id} <= set(said)
    assert not {point(1).id, point(59).id} & set(said) and index.count() == 90


def test_a_copy_that_the_server_gave_up_is_begun_anew(standin: tuple[Connection, Store, ServerIndex]) -> None:
    _, store, index = standin
    store.cluster.batch = 10

    def breaking(done: float) -> None:
        store.cluster.breaks = done > 0.1

    with pytest.raises(Unavailable) as raised:
        index.place(["t1"], breaking)
    assert (raised.value.code, raised.value.retryable) == ("index_shard_failed", True)
    store.cluster.breaks = False
    index.delete_document("d3", tenant_id="t1")  # it is in the shard that was given up
    index.place(["t1"], go_on)
    assert index.tenant_shards() == [TenantShard("t1", True, 59, 0)]


def test_what_is_forgotten_is_gone_from_what_a_move_left_too(
    standin: tuple[Connection, Store, ServerIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store, index = standin
    monkeypatch.setattr(tenant_shards.TenantShards, "_drop_points", _raising(Stopped()))
    with pytest.raises(Stopped):
        index.place(["t1"], go_on)
    index.delete_document("d3", tenant_id="t1")
    for shard in store.cluster.shards["chunks"].values():
        held = store.client.scroll(store.cluster.local("chunks", shard), limit=1000)[0]
        assert "d3" not in {record.payload["document_id"] for record in held if record.payload}


def test_what_is_written_while_a_tenant_moves_back_comes_along(
    standin: tuple[Connection, Store, ServerIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, index = standin
    index.place(["t1"], go_on)
    real, turns = tenant_shards.TenantShards._copy_back, []

    def meanwhile(self: tenant_shards.TenantShards, tenant: str, ids: list[str]) -> None:
        real(self, tenant, ids)
        turns.append(len(ids))
        if len(turns) == 1:
            index.upsert([point(200)])
            index.delete_document("d5", tenant_id="t1")
            index.set_access("d6", tenant_id="t1", collection_id="c1", groups=("hr",))

    monkeypatch.setattr(tenant_shards.TenantShards, "_copy_back", meanwhile)
    index.place([], go_on)
    assert turns == [60, 1] and index.tenant_shards() == [] and index.count() == 90
    assert {one.id: one for one in index.scan()}[point(6).id].groups == {"hr"}


def test_a_moved_shard_has_as_many_copies_as_the_others(standin: tuple[Connection, Store, ServerIndex]) -> None:
    connection, store, _ = standin
    store.cluster.peers = [1, 2, 3]
    settings = settings_of("rest", "http://127.0.0.1:1").model_copy(update={"replicas": 3})
    index = ServerIndex(connection, "three", dim=DIM, settings=settings, tenant_shards=True)
    index.upsert([point(n) for n in range(20)])
    index.place(["t1"], go_on)
    for key in (SHARED, "t1"):
        assert set(store.cluster.shards["three"][key].states.values()) == {"Active"}
        assert set(store.cluster.shards["three"][key].states) == {1, 2, 3}


def test_a_server_by_itself_keeps_no_shards_for_tenants(standin: tuple[Connection, Store, ServerIndex]) -> None:
    connection, store, _ = standin
    store.cluster.enabled = False
    with pytest.raises(Unavailable) as raised:
        ServerIndex(connection, "alone", dim=DIM, settings=settings_of("rest", "http://a"), tenant_shards=True)
    assert (raised.value.code, raised.value.retryable) == ("index_standalone", True)


def test_a_collection_of_before_stays_as_it_is(standin: tuple[Connection, Store, ServerIndex]) -> None:
    connection, store, _ = standin
    settings = settings_of("rest", "http://a")
    ServerIndex(connection, "old", dim=DIM, settings=settings).upsert([point(1)])
    old = ServerIndex(connection, "old", dim=DIM, settings=settings, tenant_shards=True)
    old.place(["t1"], go_on)
    assert not old.keeps_apart and old.tenant_shards() == [] and "old" not in store.cluster.shards
    assert [hit.id for hit in old.search_dense(point(1).dense or (), ALL, 3)] == [point(1).id]


def test_a_collection_that_was_half_made_is_completed(standin: tuple[Connection, Store, ServerIndex]) -> None:
    connection, store, _ = standin
    settings = settings_of("rest", "http://a")
    index = ServerIndex(connection, "half", dim=DIM, settings=settings, tenant_shards=True)
    store.cluster.drop_key("half", SHARED)
    again = ServerIndex(connection, "half", dim=DIM, settings=settings, own_shards=lambda: ["t1"])
    assert set(store.cluster.shards["half"]) == {SHARED, "t1"}
    again.upsert([point(1), replace(point(2), tenant_id="t2")])
    assert index.tenant_shards() == [TenantShard("t1", True, 1, 0)] and index.count() == 2


def _raising(error: Exception) -> Callable[..., None]:
    def act(*_: object, **__: object) -> None:
        raise error

    return act
