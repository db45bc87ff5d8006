"""What a Qdrant server does that is no answer, on the stand-in and on a real server (`TSUMUGI_TEST_QDRANT_URL`).

The stand-in is written to answer as a real 1.19 did; the same cases on a real one say whether it still does.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from pydantic import SecretStr
from qdrant_client import models

from benchmarks.filters import WANTED, change, fill, make_corpus, measure
from core.deadline import within
from core.errors import Unavailable
from core.settings_qdrant import QdrantSettings
from retrieval.index.connection import Connection, connect
from retrieval.index.server import ServerIndex
from tests.contract.test_vector_index import ALL, DIM, KINDS, SERVER_KEY, point, settings_of
from tests.qdrant_standin import serve


@dataclass
class Server:
    """A server with a collection of ours on it."""

    kind: str
    settings: QdrantSettings
    connection: Connection
    index: ServerIndex


@pytest.fixture(params=KINDS[2:])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve() as (url, _):
        settings = settings_of(request.param, url)
        connection = connect(settings)
        index = ServerIndex(connection, f"test-{uuid.uuid4().hex[:12]}", dim=DIM, sentences=True, settings=settings)
        yield Server(request.param, settings, connection, index)
        index.drop()
        index.close()


def test_layout_of_a_collection_and_of_an_older_one(server: Server) -> None:
    """Lines 1 and 14."""
    name = server.index.collection
    server.index.upsert([point(n) for n in range(20)])
    server.connection.client.update_collection(name, hnsw_config=models.HnswConfigDiff(m=0, full_scan_threshold=10_000))
    again = ServerIndex(server.connection, name, dim=DIM, sentences=True, settings=server.settings)
    graph = server.connection.client.get_collection(name).config.hnsw_config
    assert (graph.m, graph.full_scan_threshold) == (16, server.settings.full_scan_kb)
    deadline = time.monotonic() + 60
    while not again.settled():
        assert time.monotonic() < deadline
        time.sleep(0.2)  # the server tells no other way
    assert again.count() == 20 and len(again.search_dense(point(3).dense or (), ALL, 5)) == 5


def test_writes_larger_than_the_server_takes_arrive(server: Server) -> None:
    """Line 3: 96 passages of 384 dimensions with 60 sentences each; fewer on the stand-in, whose limit is set lower."""
    real = server.kind == "server"
    dim = 384 if real else DIM
    name = f"test-{uuid.uuid4().hex[:12]}"
    index = ServerIndex(connect(server.settings), name, dim=dim, sentences=True, settings=server.settings)
    vectors = np.random.default_rng(1).normal(size=(60, dim))
    sentences = tuple(tuple(row) for row in vectors.tolist())
    index.upsert([replace(point(n), dense=sentences[n % 60], sentences=sentences) for n in range(96)])
    assert index.count() == 96
    index.drop()
    index.close()


def test_a_vanished_collection_is_said_and_made_again(server: Server) -> None:
    """Lines 2 and 7."""
    told: list[str] = []
    server.index.on_new, server.index.on_missing = lambda: told.append("new"), lambda: told.append("missing")
    server.index.upsert([point(1)])
    server.connection.client.delete_collection(server.index.collection)
    for act in (
        server.index.count,
        lambda: server.index.upsert([point(1)]),
        lambda: server.index.delete_document("d1", tenant_id="t1"),
    ):
        with pytest.raises(Unavailable) as raised:
            act()
        assert (raised.value.code, raised.value.retryable) == ("index_missing", True)
    with pytest.raises(Unavailable):
        server.index.search_dense(point(1).dense or (), ALL, 3)
    server.index.ensure()
    assert told == ["missing"] * 4 + ["new"] and server.index.count() == 0


def test_a_wrong_key_is_the_operators_matter(server: Server) -> None:
    """Line 5."""
    if server.kind == "server" and not SERVER_KEY:
        pytest.skip("no TSUMUGI_TEST_QDRANT_API_KEY: the server takes any key")
    with serve(api_key="right") as (url, _):
        asked = server.settings if server.kind == "server" else QdrantSettings(url=url)
        with pytest.raises(Unavailable) as raised:
            connect(asked.model_copy(update={"api_key": SecretStr("wrong")}))
    assert (raised.value.code, raised.value.retryable) == ("index_unauthorised", True)


def test_foreign_points_are_skipped(server: Server) -> None:
    """Line 6."""
    server.index.upsert([point(1), point(2)])
    vector = {"dense": list(point(1).dense or ())}
    payloads = ({}, {"tenant_id": "t1"}, {"tenant_id": "t1", "document_id": "d9"}, {"tenant_id": "t1", "generation": 1})
    server.connection.client.upsert(
        server.index.collection,
        [models.PointStruct(id=str(uuid.uuid4()), vector=vector, payload=payload) for payload in payloads],
        wait=True,
    )
    assert {hit.document_id for hit in server.index.search_dense(point(1).dense or (), ALL, 10)} == {"d1", "d2"}
    foreign = [one.id for one in server.index.scan() if one.foreign]
    assert len(foreign) == 4
    server.index.delete_points(foreign)
    assert server.index.count() == 2


def test_a_server_that_hangs_costs_one_deadline_and_the_next_address_answers(server: Server) -> None:
    """Lines 9 and 10: a socket that takes connections and never answers, as a stopped process does."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with within(1.0), pytest.raises(Unavailable) as raised:
            connect(server.settings.model_copy(update={"url": url}))
        assert raised.value.code == "index_timeout" and time.monotonic() - began < 5
        both = server.settings.model_copy(update={"url": f"{url},{server.settings.url}", "timeout_s": 4.0})
        connection = connect(both)
        index = ServerIndex(connection, server.index.collection, dim=DIM, sentences=True, settings=both)
        index.upsert([point(5)])
        assert server.index.count() == 1
        connection.close()


def test_strict_mode_halves_writes_and_forbids_nothing_that_search_asks(server: Server) -> None:
    """Lines 5 and 10; a stand-in takes no strict mode: tests/integration/test_server_index.py sets it there."""
    if server.kind != "server":
        pytest.skip("the stand-in has no strict mode by request")
    strict = models.StrictModeConfig(
        enabled=True,
        upsert_max_batchsize=10,
        search_allow_exact=False,
        unindexed_filtering_retrieve=False,
        unindexed_filtering_update=False,
    )
    server.connection.client.update_collection(server.index.collection, strict_mode_config=strict)
    server.index.upsert([point(n) for n in range(64)])
    assert server.index.count() == 64
    vector = point(1).dense or ()
    ids = [hit.id for hit in server.index.search_dense(vector, ALL, 10)]
    assert len(server.index.score_dense(vector, ids, ALL)) == 10
    server.index.delete_document("d1", tenant_id="t1")
    with pytest.raises(Unavailable) as raised:
        server.index.search_dense(vector, ALL, 10, exact=True)
    assert (raised.value.code, raised.value.retryable) == ("index_strict_mode", True)


def test_every_filter_finds_on_a_server(server: Server) -> None:
    """Line 1: with graphs built, before and after deletions and replacements."""
    if server.kind != "server":
        pytest.skip("the stand-in compares all points")
    corpus = make_corpus(13_500, 384, "islands")
    queries = corpus.vectors[np.flatnonzero(corpus.tenants == 0)[::350]]
    name = f"test-{uuid.uuid4().hex[:12]}"
    index = ServerIndex(connect(server.settings), name, dim=384, settings=server.settings)
    fill(index, corpus, np.arange(13_500))
    deadline = time.monotonic() + 300
    while not index.settled():
        assert time.monotonic() < deadline
        time.sleep(0.5)  # the server tells no other way
    lines = measure(index, corpus, queries, "built")
    change(index, corpus, "islands", share=0.02)
    lines += measure(index, corpus, queries, "changed")
    index.drop()
    index.close()
    assert [line for line in lines if line["recall"] < WANTED or line["empty"]] == []
