"""The index routes over a real index: who may call them, what they answer, what is audited."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from core.database import Database
from core.settings import Settings
from core.tables import AuditEntry
from core.types import IndexPoint, SparseVector
from ingest.rebuild import IndexBuilder
from retrieval.build import build_retrieval
from retrieval.live import Retrieval
from retrieval.switch import IndexService
from retrieval.vector_lines import decode_line
from tests.api_app import Api
from tests.retrieval_corpus import minilm
from workers.base import run_job


@pytest.fixture
def retrieval(api: Api, settings: Settings, database: Database) -> Iterator[Retrieval]:
    opened = build_retrieval(settings, database, embedder=minilm())
    api.services.index = IndexService(database, api.services.jobs, opened, settings)
    yield opened
    opened.close()


def test_build_switch_rollback_drop(
    api: Api, admin: TestClient, retrieval: Retrieval, settings: Settings, database: Database
) -> None:
    first = admin.get("/v1/admin/index").json()
    assert first["serving"] == first["configured"] == retrieval.index_version
    assert [(v["active"], v["status"], v["documents"]) for v in first["versions"]] == [(True, "ready", 0)]

    answer = admin.post("/v1/admin/index/build", json={"ingest": {"chunk_tokens": 64}})
    built = answer.json()
    assert answer.status_code == 202 and built["job"]["kind"] == "index" and built["job"]["status"] == "queued"
    early = admin.post("/v1/admin/index/switch", json={"version": built["version"]})
    assert (early.status_code, early.json()["code"]) == (409, "index_version_not_ready")
    again = admin.post("/v1/admin/index/build", json={"ingest": {"chunk_tokens": 64}})
    assert (again.status_code, again.json()["code"]) == (409, "index_build_running")

    builder = IndexBuilder(database, api.services.blobs, retrieval, settings)
    run_job(api.services.jobs, built["job"]["id"], builder.run)
    builder.close()
    assert admin.get(f"/v1/jobs/{built['job']['id']}").json()["status"] == "succeeded"
    moved = admin.post("/v1/admin/index/switch", json={"version": built["version"], "reason": "smaller chunks"}).json()
    assert (moved["from_version"], moved["to_version"]) == (first["serving"], built["version"])
    now = admin.get("/v1/admin/index").json()
    assert (now["serving"], now["configured"]) == (built["version"], first["serving"])
    assert admin.post("/v1/admin/index/rollback", json={}).json()["to_version"] == first["serving"]
    refused = admin.delete(f"/v1/admin/index/{first['serving']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "index_version_serves")
    assert admin.delete(f"/v1/admin/index/{built['version']}").status_code == 204
    assert admin.delete(f"/v1/admin/index/{built['version']}").json()["code"] == "index_version_not_found"
    with database.read() as session:
        trail = session.scalars(select(AuditEntry).where(AuditEntry.action.startswith("index."))).all()
    assert [row.action for row in trail] == ["index.build", "index.switch", "index.rollback", "index.drop"]
    assert all(row.actor.startswith("key:") and row.request_id for row in trail)


def test_texts_that_were_cut_are_counted_by_embedder(admin: TestClient, retrieval: Retrieval) -> None:
    def shown() -> float:
        lines = admin.get("/metrics").text.splitlines()
        prefix = 'tsumugi_embed_truncated_total{embedder="all-MiniLM-L6-v2"} '
        return next(float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix))

    before = shown()
    retrieval.embedder.encode_passages(["word " * 2_000, "short"])
    assert shown() == before + 1


def test_bad_settings_are_named(admin: TestClient, retrieval: Retrieval) -> None:
    for body, code in (
        ({"ingest": {"chunk_tokens": "many"}}, "setting_invalid"),
        ({"embedding": {"api_key": "x"}}, "setting_unknown"),
        ({"generation": {}}, "invalid_request"),
    ):
        answer = admin.post("/v1/admin/index/build", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert admin.post("/v1/admin/index/rollback", json={}).json()["code"] == "no_previous_index"


def test_only_the_operator_may(api: Api, admin: TestClient, retrieval: Retrieval) -> None:
    admin.post("/v1/admin/tenants", json={"name": "guest"})
    keys = [
        admin.post("/v1/admin/keys", json={"name": "k", **more}).json()["secret"]
        for more in ({"scopes": ["tune", "ingest", "query"]}, {"scopes": ["admin"], "tenant": "guest"})
    ]
    for key in keys:
        with api.client({"Authorization": f"Bearer {key}"}) as client:
            assert client.get("/v1/admin/index").status_code == 403
            assert client.post("/v1/admin/index/build", json={}).status_code == 403
            assert client.get(f"/v1/admin/index/{retrieval.index_version}/vectors").status_code == 403
            assert client.delete(f"/v1/admin/index/{retrieval.index_version}").status_code == 403


def test_a_process_without_the_index_says_so(admin: TestClient) -> None:
    answer = admin.get("/v1/admin/index")
    assert (answer.status_code, answer.json()["code"]) == (503, "index_not_here")


def test_vectors_are_handed_out_line_by_line(admin: TestClient, retrieval: Retrieval) -> None:
    sparse = SparseVector((3, 2**32 - 1), (0.5, 2.0))
    points = [
        IndexPoint(str(uuid.UUID(int=n)), "t", "c", "d", 1, n, ("*",), (1.0, *[0.0] * 383) if n else None, sparse)
        for n in range(600)
    ]
    retrieval.index.upsert(points)
    answer = admin.get(f"/v1/admin/index/{retrieval.index_version}/vectors")
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    found = [decode_line(line) for line in answer.content.splitlines()]
    assert [(one.id, one.dense, one.sparse) for one in found] == [(p.id, p.dense, p.sparse) for p in points]
    missing = admin.get("/v1/admin/index/0123456789abcdef/vectors")
    assert (missing.status_code, missing.json()["code"]) == (404, "index_version_not_found")
    for bad in (b"", b"[]", b"{}", b'{"id":1,"dense":5,"indices":"","values":"","sentences":[]}', b"\xff"):
        with pytest.raises(ValueError):
            decode_line(bad)
