"""Who sees what, through HTTP: no key, wrong scope, another tenant, another group."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from cli.client import ApiProblem, Client
from cli.service_process import ServiceProcess
from tests.e2e.conftest import upload_text


@dataclass
class Tenants:
    """A second tenant with its own admin key, beside `default`."""

    admin: Client
    other: Client


def make_key(admin: Client, service: ServiceProcess, **body: Any) -> Client:
    key = admin.post("/v1/admin/keys", {"name": "test", **body})
    return service.client(key["secret"])


def status_of(client: Client, method: str, path: str, **arguments: Any) -> int:
    try:
        return client.request(method, path, **arguments).status_code
    except ApiProblem as problem:
        assert problem.code
        return problem.status


@pytest.fixture(scope="module")
def tenants(service: ServiceProcess) -> Iterator[Tenants]:
    with service.client() as admin:
        name = f"other-{uuid.uuid4().hex[:8]}"
        admin.post("/v1/admin/tenants", {"name": name})
        with make_key(admin, service, scopes=["admin"], tenant=name) as other:
            yield Tenants(admin, other)


def test_no_key_is_401(service: ServiceProcess) -> None:
    paths = ["/v1/documents", "/v1/jobs", "/v1/datasets", "/v1/models", "/v1/admin/adapters", "/v1/admin/keys"]
    for path in paths:
        for headers in ({}, {"Authorization": "Bearer tsu_" + "x" * 43}):
            answer = httpx.get(service.url + path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.headers["content-type"] == "application/problem+json"


def test_a_revoked_key_is_401(service: ServiceProcess, client: Client) -> None:
    key = client.post("/v1/admin/keys", {"name": "short", "scopes": ["query"]})
    with service.client(key["secret"]) as short:
        assert status_of(short, "GET", "/v1/models") == 200
        client.delete(f"/v1/admin/keys/{key['id']}")
        assert status_of(short, "GET", "/v1/models") == 401


def test_wrong_scope_is_403(service: ServiceProcess, client: Client) -> None:
    with make_key(client, service, scopes=["query"]) as query_only:
        assert status_of(query_only, "POST", "/v1/search", json={"query": "lamp"}) == 200
        upload = {"text": "x", "filename": "x.txt"}
        assert status_of(query_only, "POST", "/v1/documents", json=upload) == 403
        assert status_of(query_only, "GET", "/v1/admin/keys") == 403
        assert status_of(query_only, "POST", "/v1/admin/tuning-runs", json={"family": "x", "method": "sft"}) == 403
    with make_key(client, service, scopes=["ingest"]) as ingest_only:
        assert status_of(ingest_only, "POST", "/v1/ask", json={"question": "lamp?"}) == 403


def test_another_tenant_finds_nothing(tenants: Tenants) -> None:
    admin, other = tenants.admin, tenants.other
    secret = "The vault code of the Marigold archive is 77-Kestrel-19."
    item = upload_text(admin, secret, "vault.txt")
    admin.follow_job(item["job"]["id"], timeout_s=60)
    answer = admin.post("/v1/ask", {"question": "What is the vault code of the Marigold archive?"})
    rows = b'{"instruction": "Say hello.", "input": "", "output": "Hello."}\n'
    dataset = admin.post("/v1/datasets", files={"file": ("hello.jsonl", rows)})
    document_id = item["document"]["id"]
    objects = [
        ("GET", f"/v1/documents/{document_id}", None),
        ("GET", f"/v1/documents/{document_id}/content", None),
        ("GET", f"/v1/documents/{document_id}/chunks", None),
        ("DELETE", f"/v1/documents/{document_id}", None),
        ("GET", f"/v1/jobs/{item['job']['id']}", None),
        ("GET", f"/v1/jobs/{item['job']['id']}/events", None),
        ("POST", f"/v1/jobs/{item['job']['id']}/cancel", None),
        ("POST", f"/v1/answers/{answer['id']}/feedback", {"rating": "up"}),
        ("GET", f"/v1/datasets/{dataset['id']}", None),
        ("GET", f"/v1/datasets/{dataset['id']}/rows", None),
        ("GET", "/v1/admin/adapters/house", None),
    ]
    for method, path, body in objects:
        assert status_of(other, method, path, json=body) == 404, path
    for path in ("/v1/documents", "/v1/jobs", "/v1/datasets", "/v1/admin/adapters"):
        assert other.get(path)["items"] == [], path
    assert other.post("/v1/search", {"query": "vault code Marigold archive"})["items"] == []
    asked = other.post("/v1/ask", {"question": "What is the vault code of the Marigold archive?"})
    assert asked["refused"]
    assert "77" not in asked["answer"]
    assert admin.get(f"/v1/documents/{document_id}")["status"] == "ready"


def test_groups_bound_what_a_key_reads(service: ServiceProcess, client: Client) -> None:
    item = upload_text(client, "The Heron project ends on 9 October.", "heron.txt", groups=["heron"])
    client.follow_job(item["job"]["id"], timeout_s=60)
    path = f"/v1/documents/{item['document']['id']}"
    found = {"query": "When does the Heron project end?"}
    with (
        make_key(client, service, scopes=["query", "ingest"], groups=["heron"]) as member,
        make_key(client, service, scopes=["query", "ingest"], groups=["crane"]) as stranger,
    ):
        assert status_of(member, "GET", path) == 200
        assert status_of(stranger, "GET", path) == 404
        assert "heron.txt" in {hit["filename"] for hit in member.post("/v1/search", found)["items"]}
        assert "heron.txt" not in {hit["filename"] for hit in stranger.post("/v1/search", found)["items"]}
