"""Who gets in: 401, 403, and the 404 that another tenant's objects share with absent ones."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient

from api.security import GuardedRoute
from core.tables import AdapterFamily, Answer, ApiKey, Tenant
from core.tables.base import utc_now
from tests.api_app import Api

OPEN = {"/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"}
"""/metrics checks its key itself: a setting may open it."""

CONTRACT = [
    "POST /v1/documents",
    "POST /v1/documents/reread",
    "GET /v1/documents",
    "GET /v1/documents/{id}",
    "PATCH /v1/documents/{id}",
    "DELETE /v1/documents/{id}",
    "GET /v1/collections",
    "POST /v1/collections",
    "PATCH /v1/collections/{id}",
    "DELETE /v1/collections/{id}",
    "GET /v1/documents/{id}/content",
    "GET /v1/documents/{id}/chunks",
    "GET /v1/jobs",
    "GET /v1/jobs/{id}",
    "GET /v1/jobs/{id}/events",
    "POST /v1/jobs/{id}/cancel",
    "POST /v1/jobs/{id}/retry",
    "POST /v1/search",
    "POST /v1/ask",
    "POST /v1/chat/completions",
    "GET /v1/models",
    "GET /v1/models/{id}",
    "POST /v1/answers/{id}/feedback",
    "POST /v1/datasets",
    "GET /v1/datasets",
    "GET /v1/datasets/{id}",
    "GET /v1/datasets/{id}/rows",
    "POST /v1/admin/tuning-runs",
    "GET /v1/admin/tuning-runs",
    "GET /v1/admin/tuning-runs/{id}",
    "POST /v1/admin/tuning-runs/{id}/cancel",
    "GET /v1/admin/schedules",
    "POST /v1/admin/schedules",
    "PATCH /v1/admin/schedules/{id}",
    "DELETE /v1/admin/schedules/{id}",
    "POST /v1/admin/schedules/{id}/run-now",
    "GET /v1/admin/evaluation-sets",
    "POST /v1/admin/evaluation-sets",
    "GET /v1/admin/evaluation-sets/{id}",
    "DELETE /v1/admin/evaluation-sets/{id}",
    "GET /v1/admin/evaluations",
    "POST /v1/admin/evaluations",
    "GET /v1/admin/evaluations/{id}",
    "GET /v1/admin/evaluations/{id}/outcomes",
    "POST /v1/admin/evaluations/{id}/cancel",
    "DELETE /v1/admin/evaluations/{id}",
    "GET /v1/admin/adapters",
    "GET /v1/admin/adapters/{id}",
    "GET /v1/admin/adapters/{id}/history",
    "POST /v1/admin/adapters/{id}/promote",
    "POST /v1/admin/adapters/{id}/rollback",
    "POST /v1/admin/adapters/{id}/versions",
    "GET /v1/admin/keys",
    "POST /v1/admin/keys",
    "DELETE /v1/admin/keys/{id}",
    "GET /v1/admin/audit",
    "GET /v1/admin/tenants",
    "POST /v1/admin/tenants",
    "DELETE /v1/admin/tenants/{id}",
]


@pytest.mark.parametrize("line", CONTRACT)
def test_every_route_of_the_contract_exists_and_asks_for_a_key(api: Api, line: str) -> None:
    method, path = line.split(" ")
    client = api.client(headers={})
    answer = client.request(method, path.replace("{id}", "nothing"))
    assert answer.status_code == 401, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["code"] == "unauthenticated"


def test_the_documents_name_routes_and_parameters_that_exist(api: Api) -> None:
    described = api.app.openapi()["paths"]
    shapes = {re.sub(r"\{[^}]*\}", "{}", path): operations for path, operations in described.items()}
    named = re.compile(r"\b(GET|POST|PUT|PATCH|DELETE) (/(?:v1|healthz|readyz|metrics)[\w/{}.-]*)(\?[\w=&,%{}-]*)?")
    seen = 0
    for document in sorted(Path(__file__).parents[2].glob("docs/*.md")):
        for method, path, query in named.findall(document.read_text("utf-8")):
            place = f"{document.name}: {method} {path}{query}"
            shape = "/".join(
                "{}" if part[:1] == "{" or part.isupper() else part for part in path.rstrip(".").split("/")
            )
            operation = shapes.get(shape, {}).get(method.lower())
            assert operation is not None, place
            known = {one["name"] for one in operation.get("parameters", []) if one["in"] == "query"}
            assert {pair.partition("=")[0] for pair in query[1:].split("&") if pair} <= known, place
            seen += 1
    assert seen > 20, "too few are found to mean anything"


def test_every_route_is_guarded_or_on_the_list_of_open_ones(api: Api) -> None:
    seen = set()
    for context in iter_route_contexts(api.app.routes):
        seen.add(context.path)
        if context.path not in OPEN:
            assert isinstance(context.original_route, GuardedRoute), context.path
            assert context.original_route.guard.scopes
    assert len(seen) > 30, "the walk found too few routes to mean anything"


@pytest.mark.parametrize(
    "header",
    ["Bearer tsu_" + "A" * 43, "Bearer nonsense", "Bearer ", "Basic dXNlcjpwdw==", "Bearer tsu_\xe9"],
)
def test_a_bad_key_is_401_and_says_so(api: Api, header: str) -> None:
    answer = api.client(headers={}).get("/v1/documents", headers=[(b"Authorization", header.encode("latin-1"))])
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_revoked_and_expired_keys_are_401(api: Api) -> None:
    revoked, expired = api.key("query"), api.key("query")
    with api.database.write() as session:
        rows = session.query(ApiKey).filter(ApiKey.name == "test").order_by(ApiKey.created_at).all()
        rows[0].revoked_at = utc_now()
        rows[1].expires_at = utc_now() - timedelta(seconds=1)
    for headers in (revoked, expired):
        assert api.client(headers).get("/v1/documents").status_code == 401


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("query", "POST", "/v1/documents"),
        ("query", "DELETE", "/v1/documents/x"),
        ("query", "POST", "/v1/datasets"),
        ("query", "POST", "/v1/answers/x/feedback"),
        ("query", "GET", "/v1/admin/keys"),
        ("query", "POST", "/v1/admin/tuning-runs"),
        ("query", "GET", "/v1/admin/adapters"),
        ("ingest", "POST", "/v1/ask"),
        ("ingest", "POST", "/v1/search"),
        ("ingest", "POST", "/v1/chat/completions"),
        ("feedback", "GET", "/v1/documents"),
        ("tune", "POST", "/v1/admin/adapters/house/promote"),
        ("tune", "POST", "/v1/admin/adapters/house/versions"),
        ("tune", "GET", "/v1/admin/audit"),
        ("tune", "POST", "/v1/admin/tenants"),
    ],
)
def test_a_wrong_scope_is_403_before_the_body_is_read(api: Api, scope: str, method: str, path: str) -> None:
    answer = api.client(api.key(scope)).request(
        method, path, content=b"{not json", headers={"content-type": "application/json"}
    )
    assert answer.status_code == 403, answer.text
    assert answer.json()["code"] == "forbidden"


def test_admin_of_another_tenant_is_no_operator(api: Api, other_tenant: Tenant) -> None:
    client = api.client(api.key("admin", tenant=other_tenant))
    assert client.get("/v1/admin/keys").status_code == 200
    for method, path in [("GET", "/v1/admin/tenants"), ("GET", "/metrics")]:
        assert client.request(method, path).status_code == 403
    named = client.post("/v1/admin/keys", json={"name": "x", "scopes": ["query"], "tenant": "default"})
    absent = client.post("/v1/admin/keys", json={"name": "x", "scopes": ["query"], "tenant": "nobody"})
    assert named.status_code == absent.status_code == 403
    assert named.json()["detail"] == absent.json()["detail"], "the answer tells which tenants exist"
    own = client.post("/v1/admin/keys", json={"name": "x", "scopes": ["query"], "tenant": "other"})
    assert own.status_code == 201


def test_operator_makes_tenants_and_their_keys(api: Api, admin: TestClient) -> None:
    made = admin.post("/v1/admin/tenants", json={"name": "acme"})
    assert made.status_code == 201
    key = admin.post("/v1/admin/keys", json={"name": "first", "scopes": ["admin"], "tenant": "acme"}).json()
    assert key["tenant_id"] == made.json()["id"]
    acme = api.client({"Authorization": f"Bearer {key['secret']}"})
    assert acme.get("/v1/documents").json() == {"items": [], "next_cursor": None}
    assert [item["name"] for item in acme.get("/v1/admin/keys").json()["items"]] == ["first"]
    assert "secret" not in acme.get("/v1/admin/keys").json()["items"][0]
    assert admin.post("/v1/admin/tenants", json={"name": "acme"}).json()["code"] == "tenant_exists"
    assert admin.delete(f"/v1/admin/keys/{key['id']}").status_code == 200
    assert acme.get("/v1/documents").status_code == 401
    assert admin.delete("/v1/admin/tenants/default").json()["code"] == "tenant_is_default"
    assert admin.delete("/v1/admin/tenants/acme").status_code == 200
    assert [item["name"] for item in admin.get("/v1/admin/tenants").json()["items"]] == ["default"]
    actions = {item["action"] for item in admin.get("/v1/admin/audit").json()["items"]}
    assert {"tenant.create", "tenant.delete", "key.create"} <= actions


def test_a_tenant_with_documents_is_not_deleted(api: Api, admin: TestClient, other_tenant: Tenant) -> None:
    api.client(api.key("ingest", tenant=other_tenant)).post("/v1/documents", files={"file": ("a.txt", b"text")})
    refused = admin.delete("/v1/admin/tenants/other")
    assert refused.status_code == 409
    assert refused.json()["code"] == "tenant_not_empty"


def test_objects_of_another_tenant_are_absent(api: Api, admin: TestClient, other_tenant: Tenant) -> None:
    accepted = admin.post("/v1/documents", files={"file": ("a.txt", b"our own text")}).json()["items"][0]
    rows = "\n".join(f'{{"instruction": "q{n}", "output": "a{n}"}}' for n in range(30))
    dataset = admin.post("/v1/datasets", files={"file": ("s.jsonl", rows.encode())}).json()
    answer = admin.post("/v1/ask", json={"question": "how many days?"}).json()
    run = admin.post("/v1/admin/tuning-runs", json={"family": "house"}).json()
    schedule = admin.post("/v1/admin/schedules", json={"family": "house", "cron": "0 3 * * *"}).json()
    key = admin.post("/v1/admin/keys", json={"name": "k", "scopes": ["query"]}).json()
    assert run["job"]["status"] == "queued"

    stranger = api.client(api.key("admin", tenant=other_tenant))
    absent = "0" * 36
    for path, object_id in [
        ("/v1/documents/{}", accepted["document"]["id"]),
        ("/v1/documents/{}/content", accepted["document"]["id"]),
        ("/v1/documents/{}/chunks", accepted["document"]["id"]),
        ("/v1/jobs/{}", accepted["job"]["id"]),
        ("/v1/jobs/{}/events", accepted["job"]["id"]),
        ("/v1/jobs/{}", run["job"]["id"]),
        ("/v1/datasets/{}", dataset["id"]),
        ("/v1/datasets/{}/rows", dataset["id"]),
        ("/v1/admin/tuning-runs/{}", run["id"]),
        ("/v1/admin/schedules/{}", schedule["id"]),
        ("/v1/admin/adapters/{}", "house"),
        ("/v1/admin/adapters/{}/history", "house"),
    ]:
        found, missing = stranger.get(path.format(object_id)), stranger.get(path.format(absent))
        assert found.status_code == missing.status_code == 404, path
        assert found.json()["detail"].replace(object_id, absent) == missing.json()["detail"], "the words differ"
    for method, path, body in [
        ("DELETE", f"/v1/documents/{accepted['document']['id']}", None),
        ("POST", f"/v1/jobs/{accepted['job']['id']}/cancel", None),
        ("POST", f"/v1/jobs/{accepted['job']['id']}/retry", None),
        ("POST", f"/v1/answers/{answer['id']}/feedback", {"rating": "up"}),
        ("POST", f"/v1/admin/tuning-runs/{run['id']}/cancel", None),
        ("PATCH", f"/v1/admin/schedules/{schedule['id']}", {"enabled": False}),
        ("POST", f"/v1/admin/schedules/{schedule['id']}/run-now", None),
        ("DELETE", f"/v1/admin/schedules/{schedule['id']}", None),
        ("POST", "/v1/admin/tuning-runs", {"family": "theirs", "dataset_ids": [dataset["id"]]}),
        ("DELETE", f"/v1/admin/keys/{key['id']}", None),
    ]:
        assert stranger.request(method, path, json=body).status_code == 404, path
    for path in (
        "/v1/documents", "/v1/jobs", "/v1/datasets", "/v1/admin/tuning-runs", "/v1/admin/schedules",
        "/v1/admin/adapters",
    ):  # fmt: skip
        assert stranger.get(path).json() == {"items": [], "next_cursor": None}, path
    assert admin.get(f"/v1/documents/{accepted['document']['id']}").json()["status"] == "queued", "nothing was lost"
    models = [model["id"] for model in stranger.get("/v1/models").json()["data"]]
    assert models == ["tsumugi", "tsumugi:base"]
    assert "tsumugi:house" in [model["id"] for model in admin.get("/v1/models").json()["data"]]
    stranger.post("/v1/search", json={"query": "days"})
    assert api.search.seen[-1].tenant_id == other_tenant.id


def test_groups_hide_documents_and_their_jobs(api: Api, admin: TestClient) -> None:
    accepted = admin.post("/v1/documents", files={"file": ("pay.txt", b"salaries")}, data={"groups": '["hr"]'}).json()[
        "items"
    ][0]
    for groups, status in [((), 404), (("sales",), 404), (("hr",), 200)]:
        reader = api.client(api.key("query", groups=groups))
        assert reader.get(f"/v1/documents/{accepted['document']['id']}").status_code == status
        assert reader.get(f"/v1/jobs/{accepted['job']['id']}").status_code == status
        assert len(reader.get("/v1/documents").json()["items"]) == (status == 200)
        assert len(reader.get("/v1/jobs").json()["items"]) == (status == 200)
    uploader = api.client(api.key("ingest"))
    assert uploader.get(f"/v1/jobs/{accepted['job']['id']}").status_code == 200
    assert uploader.post(f"/v1/jobs/{accepted['job']['id']}/cancel").status_code == 404


def test_a_stored_answer_of_a_tenant_is_only_its_own(api: Api, admin: TestClient, other_tenant: Tenant) -> None:
    answer = admin.post("/v1/ask", json={"question": "how many days?"}).json()
    with api.database.read() as session:
        assert session.get_one(Answer, answer["id"]).tenant_id == api.tenant.id
        assert session.query(AdapterFamily).count() == 0
    assert admin.post(f"/v1/answers/{answer['id']}/feedback", json={"rating": "up"}).status_code == 201


def test_a_replacement_that_names_no_groups_opens_nothing(api: Api, admin: TestClient) -> None:
    body = {
        "text": "極秘の計画",
        "filename": "plan.txt",
        "external_id": "plan",
        "groups": ["board"],
        "metadata": {"a": 1},
    }
    document = admin.post("/v1/documents", json=body).json()["items"][0]["document"]
    again = {"text": "極秘の計画、改訂", "filename": "plan.txt", "external_id": "plan"}
    admin.post("/v1/documents", json=again)
    kept = admin.get(f"/v1/documents/{document['id']}").json()
    assert (kept["groups"], kept["metadata"]) == (["board"], {"a": 1})
    sent = {"external_id": "plan"}
    admin.post("/v1/documents", files={"file": ("plan.txt", "三度目".encode())}, data=sent)
    assert admin.get(f"/v1/documents/{document['id']}").json()["groups"] == ["board"]
