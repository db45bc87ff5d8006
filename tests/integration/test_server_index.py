"""The server index over real HTTP: what it sends, and what becomes of a server's refusals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from qdrant_client import QdrantClient

from core.errors import Unavailable
from core.settings import QdrantSettings
from retrieval.index import server
from retrieval.index.server import ServerIndex, open_client
from tests import qdrant_standin
from tests.contract.test_vector_index import ALL, DIM, point
from tests.qdrant_standin import Store, serve

KEY = "a-secret-of-the-index"


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[QdrantSettings, QdrantClient, Store]]:
    monkeypatch.setattr(server, "_WAITS_S", (0.0, 0.0))
    with serve(api_key=KEY) as (url, store):
        settings = QdrantSettings(url=url, api_key=SecretStr(KEY))
        client = open_client(settings)
        yield settings, client, store
        client.close()


def changed(settings: QdrantSettings, **values: object) -> QdrantSettings:
    return settings.model_copy(update=values)


def test_a_collection_is_laid_out_for_tenants(standin: tuple[QdrantSettings, QdrantClient, Store]) -> None:
    settings, client, _ = standin
    settings = changed(settings, shards=3, replicas=2, write_consistency=2, quantization="scalar", payload_m=24)
    ServerIndex(client, "chunks", dim=DIM, settings=settings)
    info = client.get_collection("chunks")
    assert (info.config.hnsw_config.m, info.config.hnsw_config.payload_m) == (0, 24)
    params = info.config.params
    assert (params.shard_number, params.replication_factor, params.write_consistency_factor) == (3, 2, 2)
    assert info.config.quantization_config is not None and params.on_disk_payload is True
    tenant = info.payload_schema["tenant_id"]
    assert tenant.params is not None and tenant.params.is_tenant is True  # type: ignore[union-attr]
    assert set(info.payload_schema) == {"tenant_id", "collection_id", "document_id", "groups", "generation"}
    # Opening it again changes nothing, and one of other vectors is not taken for it.
    ServerIndex(client, "chunks", dim=DIM, settings=settings).upsert([point(1)])
    for wrong in ({"dim": DIM + 1}, {"dim": DIM, "idf": False}):
        with pytest.raises(Unavailable) as raised:
            ServerIndex(client, "chunks", settings=settings, **wrong)  # type: ignore[arg-type]
        assert (raised.value.code, raised.value.retryable) == ("index_mismatch", False)


def test_a_collection_half_made_by_another_process_is_completed(
    standin: tuple[QdrantSettings, QdrantClient, Store],
) -> None:
    settings, client, store = standin
    ServerIndex(client, "chunks", dim=DIM, settings=settings)
    del store.indexes["chunks"]["tenant_id"]
    ServerIndex(client, "chunks", dim=DIM, settings=settings)
    assert "tenant_id" in store.indexes["chunks"]


def test_writes_wait_and_are_ordered(standin: tuple[QdrantSettings, QdrantClient, Store]) -> None:
    settings, client, store = standin
    index = ServerIndex(client, "chunks", dim=DIM, settings=changed(settings, upsert_batch=2))
    store.calls.clear()
    index.upsert([point(n) for n in range(5)])
    index.delete_document("d1")
    sent = [(path, query) for method, path, query in store.calls if method in {"PUT", "POST"}]
    assert len(sent) == 4
    assert all(query == {"wait": "true", "ordering": "medium"} for _, query in sent)
    assert index.count() == 4


def test_what_may_pass_is_tried_again(standin: tuple[QdrantSettings, QdrantClient, Store]) -> None:
    settings, client, store = standin
    index = ServerIndex(client, "chunks", dim=DIM, settings=settings)
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
    standin: tuple[QdrantSettings, QdrantClient, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, client, _ = standin
    index = ServerIndex(client, "chunks", dim=DIM, settings=settings)
    found: dict[str, Unavailable] = {}

    def refused(act: object) -> None:
        assert callable(act)
        with pytest.raises(Unavailable) as raised:
            act()
        assert KEY not in str(raised.value) and "wrong-key" not in str(raised.value)
        found[raised.value.code] = raised.value

    refused(lambda: open_client(changed(settings, api_key=SecretStr("wrong-key"))))
    refused(lambda: open_client(changed(settings, url="http://127.0.0.1:9")))
    index.drop()
    refused(index.count)
    monkeypatch.setattr(qdrant_standin, "VERSION", "1.18.3")
    refused(lambda: open_client(settings))
    assert {code: error.retryable for code, error in found.items()} == {
        "index_unauthorised": False,
        "index_unreachable": True,
        "index_missing": False,
        "index_server_too_old": False,
    }
