"""The server index over real HTTP: what it sends, and what becomes of a server's refusals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from qdrant_client import models
from structlog.testing import capture_logs

from core.deadline import within
from core.errors import Unavailable
from core.measures import FOREIGN_POINTS
from core.settings_qdrant import QdrantSettings
from core.types import SparseVector
from retrieval.index import connection as connections
from retrieval.index import layout, server_points
from retrieval.index.connection import Connection, connect
from retrieval.index.server import ServerIndex
from tests import qdrant_standin
from tests.contract.test_vector_index import ALL, DIM, point
from tests.qdrant_standin import Store, serve

KEY = "a-secret-of-the-index"


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[QdrantSettings, Connection, Store]]:
    monkeypatch.setattr(connections, "_WAITS_S", (0.0, 0.0))
    with serve(api_key=KEY) as (url, store):
        settings = QdrantSettings(url=url, api_key=SecretStr(KEY))
        connection = connect(settings)
        yield settings, connection, store
        connection.close()


def changed(settings: QdrantSettings, **values: object) -> QdrantSettings:
    return settings.model_copy(update=values)


def test_a_collection_is_laid_out_for_tenants(standin: tuple[QdrantSettings, Connection, Store]) -> None:
    settings, connection, _ = standin
    settings = changed(settings, shards=3, replicas=2, write_consistency=2, quantization="scalar", payload_m=24)
    ServerIndex(connection, "chunks", dim=DIM, settings=settings)
    info = connection.client.get_collection("chunks")
    graph = info.config.hnsw_config
    assert (graph.m, graph.payload_m, graph.full_scan_threshold) == (16, 24, 150_000)
    params = info.config.params
    assert (params.shard_number, params.replication_factor, params.write_consistency_factor) == (3, 2, 2)
    vectors = params.vectors
    assert isinstance(vectors, dict) and vectors["dense"].quantization_config is not None
    assert info.config.quantization_config is None, "it would take vectors of sentences as well"
    for name in ("document_id", "generation"):
        assert info.payload_schema[name].params.enable_hnsw is False  # type: ignore[union-attr]
    tenant = info.payload_schema["tenant_id"]
    assert tenant.params is not None and tenant.params.is_tenant is True  # type: ignore[union-attr]
    assert set(info.payload_schema) == {"tenant_id", "collection_id", "document_id", "groups", "generation"}
    # Opening it again changes nothing, and one of other vectors is not taken for it.
    ServerIndex(connection, "chunks", dim=DIM, settings=settings).upsert([point(1)])
    for wrong in ({"dim": DIM + 1}, {"dim": DIM, "idf": False}):
        with pytest.raises(Unavailable) as raised:
            ServerIndex(connection, "chunks", settings=settings, **wrong)  # type: ignore[arg-type]
        assert (raised.value.code, raised.value.retryable) == ("index_mismatch", False)


def test_a_collection_half_made_by_another_process_is_completed(
    standin: tuple[QdrantSettings, Connection, Store],
) -> None:
    settings, connection, store = standin
    ServerIndex(connection, "chunks", dim=DIM, settings=settings)
    del store.indexes["chunks"]["tenant_id"]
    ServerIndex(connection, "chunks", dim=DIM, settings=settings)
    assert "tenant_id" in store.indexes["chunks"]


def test_writes_wait_and_are_ordered(standin: tuple[QdrantSettings, Connection, Store]) -> None:
    settings, connection, store = standin
    index = ServerIndex(connection, "chunks", dim=DIM, settings=changed(settings, upsert_batch=2))
    store.calls.clear()
    index.upsert([point(n) for n in range(5)])
    index.delete_document("d1", tenant_id="t1")
    sent = [(path, query) for method, path, query in store.calls if method in {"PUT", "POST"}]
    assert len(sent) == 4
    assert all(query == {"wait": "true", "ordering": "medium"} for _, query in sent)
    assert index.count() == 4


def test_what_may_pass_is_tried_again(standin: tuple[QdrantSettings, Connection, Store]) -> None:
    settings, connection, store = standin
    index = ServerIndex(connection, "chunks", dim=DIM, settings=settings)
    index.upsert([point(1)])
    store.fail_next = [503, 500]
    assert [p.document_id for p in index.search_dense(point(1).dense or (), ALL, 3)] == ["d1"]
    store.fail_next = [503, 429, 500]
    with pytest.raises(Unavailable) as raised:
        index.count()
    assert (raised.value.code, raised.value.retryable) == ("index_overloaded", True)
    store.fail_next = [400]
    with pytest.raises(Unavailable) as raised:
        index.count()
    assert (raised.value.code, raised.value.retryable) == ("index_rejected", False)
    assert index.count() == 1  # not tried again: the next answer is still there


def test_refusals_are_coded_and_never_show_the_key(
    standin: tuple[QdrantSettings, Connection, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an operator can mend may pass: it is retryable, and no document is blamed for it."""
    settings, connection, store = standin
    index = ServerIndex(connection, "chunks", dim=DIM, settings=settings)
    found: dict[str, Unavailable] = {}

    def refused(act: Callable[[], object]) -> None:
        with pytest.raises(Unavailable) as raised:
            act()
        assert KEY not in str(raised.value) and "wrong-key" not in str(raised.value)
        found[raised.value.code] = raised.value

    refused(lambda: connect(changed(settings, api_key=SecretStr("wrong-key"))))
    refused(lambda: connect(changed(settings, url="http://127.0.0.1:9")))
    store.disk_full = True
    refused(lambda: index.upsert([point(1)]))
    store.disk_full, store.retry_after_s = False, 60
    refused(lambda: index.upsert([point(1)]))
    store.retry_after_s, store.allow_exact = None, False
    refused(lambda: index.search_dense(point(1).dense or (), ALL, 3, exact=True))
    assert index.search_dense(point(1).dense or (), ALL, 3) == [], "nothing that search asks is forbidden"
    index.drop()
    refused(index.count)
    monkeypatch.setattr(qdrant_standin, "VERSION", "1.18.3")
    refused(lambda: connect(settings))
    assert {code: error.retryable for code, error in found.items()} == {
        "index_unauthorised": True,
        "index_unreachable": True,
        "index_disk_full": True,
        "index_throttled": True,
        "index_strict_mode": True,
        "index_missing": True,
        "index_server_too_old": False,
    }
    assert found["index_throttled"].extra == {"retry_after_s": 60.0}


def test_a_key_that_is_refused_is_not_tried_again_at_once(standin: tuple[QdrantSettings, Connection, Store]) -> None:
    settings, connection, store = standin
    index = ServerIndex(connection, "chunks", dim=DIM, settings=settings)
    store.calls.clear()
    store.api_key = "rotated"
    with pytest.raises(Unavailable):
        index.count()
    assert len(store.calls) == 1
    store.api_key = KEY
    assert index.count() == 0


def test_an_older_collection_is_mended_in_place(standin: tuple[QdrantSettings, Connection, Store]) -> None:
    """As this project made them before: no graph over all points, codes for every vector, graphs per document."""
    settings, connection, store = standin
    settings = changed(settings, quantization="scalar")
    ServerIndex(connection, "chunks", dim=DIM, sentences=True, settings=settings).upsert([point(1)])
    made = store.created["chunks"]
    assert isinstance(made.vectors, dict)
    codes = made.vectors["dense"].quantization_config
    made.hnsw_config = models.HnswConfigDiff(m=0, payload_m=16, ef_construct=128)
    made.quantization_config, made.vectors["dense"].quantization_config = codes, None
    for name, schema in (("document_id", "keyword"), ("generation", "integer")):
        store.indexes["chunks"][name] = models.CreateFieldIndex(field_name=name, field_schema=schema)
    index = ServerIndex(connection, "chunks", dim=DIM, sentences=True, settings=settings)
    info = connection.client.get_collection("chunks")
    assert (info.config.hnsw_config.m, info.config.hnsw_config.full_scan_threshold) == (16, 150_000)
    assert info.config.quantization_config is None and made.vectors["dense"].quantization_config == codes
    assert all(
        info.payload_schema[name].params.enable_hnsw is False  # type: ignore[union-attr]
        for name in ("document_id", "generation")
    )
    assert index.count() == 1 and index.settled()
    store.calls.clear()
    ServerIndex(connection, "chunks", dim=DIM, sentences=True, settings=settings)
    assert {method for method, _, _ in store.calls} == {"GET"}, "what is as it should be is left alone"


@pytest.mark.parametrize(
    "dense",
    [
        {"distance": "Dot"},
        {"distance": "Cosine", "datatype": "uint8"},
        {"distance": "Cosine", "multivector_config": {"comparator": "max_sim"}},
    ],
)
def test_a_collection_made_by_hand_otherwise_is_refused(
    dense: dict[str, Any], standin: tuple[QdrantSettings, Connection, Store]
) -> None:
    settings, connection, _ = standin
    connection.client.create_collection(
        "chunks",
        vectors_config={"dense": models.VectorParams(size=DIM, **dense)},
        sparse_vectors_config={"lexical": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    with pytest.raises(Unavailable) as raised:
        ServerIndex(connection, "chunks", dim=DIM, settings=settings)
    assert raised.value.code == "index_mismatch"


def test_writes_are_cut_by_bytes_and_halved_where_the_server_takes_less(
    standin: tuple[QdrantSettings, Connection, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 passages with vectors of their sentences were 38 to 64 MB of JSON; the server takes 32."""
    settings, connection, store = standin
    index = ServerIndex(connection, "chunks", dim=DIM, sentences=True, settings=settings)
    sentence = point(1).dense or ()
    points = [replace(point(n), sentences=(sentence,) * 400) for n in range(64)]
    monkeypatch.setattr(server_points, "WRITE_BYTES", 400_000)
    store.calls.clear()
    index.upsert(points)
    sizes = [int(sent.get("content-length", 0)) for sent in store.headers[-len(store.calls) :]]
    assert max(sizes) <= 400_000 and len(sizes) > 4
    store.body_limit = 90_000  # less than was reckoned with
    index.delete_points([one.id for one in points])
    index.upsert(points)
    store.most_upserts = 3
    index.upsert(points)
    assert index.count() == 64
    store.body_limit = 10_000
    with pytest.raises(Unavailable) as raised:
        index.upsert(points[:1])
    assert (raised.value.code, raised.value.retryable) == ("index_rejected", False)


def test_foreign_points_are_skipped_counted_and_shown_to_doctor(
    standin: tuple[QdrantSettings, Connection, Store],
) -> None:
    settings, connection, store = standin
    index = ServerIndex(connection, "chunks", dim=DIM, settings=settings)
    index.upsert([point(1), point(2)])
    vectors = {"dense": list(point(1).dense or ()), "lexical": models.SparseVector(indices=[1, 2], values=[1.0, 1.0])}
    strange = "00000000-0000-4000-8000-00000000000"
    store.plant("chunks", f"{strange}1", {}, vectors)
    store.plant("chunks", f"{strange}2", {"tenant_id": "t1", "document_id": 5}, vectors)
    store.plant("chunks", f"{strange}3", {"tenant_id": "t1"}, vectors)
    before = FOREIGN_POINTS._value.get()
    assert {hit.document_id for hit in index.search_dense(point(1).dense or (), ALL, 10)} == {"d1", "d2"}
    assert FOREIGN_POINTS._value.get() == before + 2
    index.search_sparse(SparseVector((1, 2), (1.0, 1.0)), ALL, 10)
    said = {one.id: one for one in index.scan()}
    assert sum(one.foreign for one in said.values()) == 3
    assert said[point(1).id].groups == frozenset({"*"}) and said[point(1).id].tenant_id == "t1"


def test_a_search_is_two_calls_and_asks_for_plain_answers(standin: tuple[QdrantSettings, Connection, Store]) -> None:
    """Compressed answers over kept connections cost 40 ms each, and five calls in a row were made."""
    settings, connection, store = standin
    index = ServerIndex(connection, "chunks", dim=DIM, sentences=True, settings=settings)
    index.upsert([replace(point(n), sentences=(point(n).dense or (),)) for n in range(20)])
    store.calls.clear(), store.headers.clear()
    query, words = point(3).dense or (), SparseVector((1, 2, 3), (1.0, 1.0, 1.0))
    found = index.find(query, words, ALL, 5)
    ids = [hit.id for hit in found.dense]
    scores = index.score(query, words, ALL, by_dense=ids, by_sparse=ids, by_sentences=ids)
    assert [path for _, path, _ in store.calls] == ["/collections/chunks/points/query/batch"] * 2
    assert {sent["accept-encoding"] for sent in store.headers} == {"identity"}
    assert found.dense == index.search_dense(query, ALL, 5) and found.sparse == index.search_sparse(words, ALL, 5)
    assert scores.dense == pytest.approx({hit.id: hit.score for hit in found.dense}, abs=1e-6)
    assert scores.sentences == pytest.approx(scores.dense, abs=2e-3)
    assert index.find(None, SparseVector((), ()), ALL, 5).dense == []


def test_a_frozen_server_costs_one_deadline_for_all_calls(standin: tuple[QdrantSettings, Connection, Store]) -> None:
    settings, connection, store = standin
    index = ServerIndex(connection, "chunks", dim=DIM, settings=settings)
    store.frozen.set()
    began = time.monotonic()
    with within(0.6):
        for _ in range(3):
            with pytest.raises(Unavailable) as raised:
                index.count()
            assert raised.value.code == "index_timeout"
    assert time.monotonic() - began < 3.0
    store.frozen.clear()
    assert index.count() == 0


def test_addresses_are_tried_in_turn(standin: tuple[QdrantSettings, Connection, Store]) -> None:
    """One of them refuses, one takes requests and never answers: the third does."""
    settings, _, store = standin
    with serve(api_key=KEY) as (silent_url, silent):
        both = changed(settings, url=f"http://127.0.0.1:9,{silent_url},{settings.url}", timeout_s=4.0)
        silent.frozen.set()
        connection = connect(both)
        index = ServerIndex(connection, "chunks", dim=DIM, settings=both)
        index.upsert([point(1)])
        assert index.count() == 1 and "chunks" in store.created and not silent.created
        silent.frozen.clear()
        connection.close()


def test_addresses_are_checked_and_https_means_443() -> None:
    settings = QdrantSettings(url="https://one.example, http://two.example:7000")
    assert settings.addresses == ("https://one.example", "http://two.example:7000")
    ports = [connections._client(address, settings)._client._port for address in settings.addresses]  # type: ignore[attr-defined]
    assert ports == [443, 7000]
    for wrong in ("", "http://a:6333,", "localhost:6333", "ftp://a", "http://"):
        with pytest.raises(ValidationError):
            QdrantSettings(url=wrong)


@pytest.mark.parametrize("version", ["dev", "1.20.0-dev", "2.0"])
def test_odd_versions_are_no_traceback(
    version: str, standin: tuple[QdrantSettings, Connection, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _, _ = standin
    monkeypatch.setattr(qdrant_standin, "VERSION", version)
    connect(settings).close()


def test_a_page_of_html_is_said_to_be_no_qdrant(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<html>welcome</html>", encoding="utf-8")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        try:
            with pytest.raises(Unavailable) as raised:
                connect(QdrantSettings(url=f"http://127.0.0.1:{other.server_port}"))
        finally:
            other.shutdown()
    assert raised.value.code == "index_not_qdrant"


def test_what_goes_wrong_in_clusters_is_doubted_at_the_start() -> None:
    good = QdrantSettings(url="http://a:6333,http://b:6333,http://c:6333", replicas=3)
    assert (good.confirmations, good.doubts()) == (2, [])
    assert QdrantSettings(replicas=2).confirmations == 1
    assert len(QdrantSettings(replicas=2, write_consistency=2).doubts()) == 2
    assert any("weak" in doubt for doubt in changed(good, write_ordering="weak").doubts())
    assert any("read_consistency" in doubt for doubt in changed(good, read_consistency="majority").doubts())
    assert any("IDF" in doubt for doubt in changed(good, shards=2).doubts())


def test_a_collection_that_vanished_is_told_and_made_again_by_who_asks(
    standin: tuple[QdrantSettings, Connection, Store],
) -> None:
    settings, connection, store = standin
    told: list[str] = []
    index = ServerIndex(connection, "chunks", dim=DIM, settings=settings, on_new=lambda: told.append("new"))
    index.on_missing = lambda: told.append("missing")
    index.upsert([point(1)])
    store.lose("chunks")
    with pytest.raises(Unavailable) as raised:
        index.upsert([point(2)])
    assert (raised.value.code, raised.value.retryable) == ("index_missing", True)
    index.ensure()
    index.upsert([point(2)])
    assert told == ["new", "missing", "new"] and index.count() == 1


def test_short_binary_codes_are_rescored_more() -> None:
    binary = QdrantSettings(quantization="binary")
    assert (layout.oversampling(binary, 384), layout.oversampling(binary, 1024)) == (4.0, 2.0)
    assert layout.oversampling(changed(binary, oversampling=3.0), 384) == 3.0
    assert layout.oversampling(QdrantSettings(quantization="scalar"), 384) == 2.0


def test_warnings_of_the_client_go_through_the_log(
    standin: tuple[QdrantSettings, Connection, Store], recwarn: pytest.WarningsRecorder
) -> None:
    settings, _, _ = standin
    with capture_logs() as logs:
        connect(settings).close()
    assert any(entry["event"] == "index.client_warning" for entry in logs), "a key over http"
    assert [w for w in recwarn if "insecure" in str(w.message)] == []
