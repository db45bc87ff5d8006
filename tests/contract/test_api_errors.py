"""Bad input is answered with a coded problem, and loses nothing."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import IntegrityError

from core.errors import Unavailable
from core.settings import Settings
from tests.api_app import Api, build_api, serve

MEMBERS = {"type", "title", "status", "detail", "code", "request_id"}


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) >= MEMBERS
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


@pytest.mark.parametrize("path", ["/v1/ask", "/v1/search", "/v1/chat/completions", "/v1/documents", "/v1/admin/keys"])
@pytest.mark.parametrize("body", [b"{", b'{"question": "a",}', b"\xff\xfe{}", b"[" * 100_000])
def test_malformed_json(admin: TestClient, path: str, body: bytes) -> None:
    answer = admin.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    problem(answer, 400, answer.json()["code"])
    assert answer.json()["code"] in {"malformed_json", "malformed_body"}


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({}, "body.question"),
        ({"question": 5}, "body.question"),
        ({"question": "a", "temperature": 9}, "body.temperature"),
        ({"question": "a", "max_tokens": 0}, "body.max_tokens"),
        ({"question": "a", "adaptor": "house"}, "body.adaptor"),
        ({"question": "a\x00b"}, "body"),
        ({"question": "a", "conversation_id": "x" * 101}, "body.conversation_id"),
    ],
)
def test_invalid_fields_are_named(admin: TestClient, body: dict[str, Any], location: str) -> None:
    answer = admin.post("/v1/ask", json=body)
    assert [error["location"] for error in problem(answer, 422, "invalid_request")["errors"]] == [location]


@pytest.mark.parametrize("raw", [b'{"question": "\\ud800"}', b'{"question": "ok", "collection": "\\udfff"}'])
def test_half_a_surrogate_pair_is_refused(admin: TestClient, raw: bytes) -> None:
    answer = admin.post("/v1/ask", content=raw, headers={"content-type": "application/json"})
    assert problem(answer, 422, "invalid_request")["errors"][0]["code"] == "invalid_text"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/ask", {"question": "あ" * 100_000}),
        ("/v1/search", {"query": "a" * 100_000}),
        ("/v1/chat/completions", {"model": "tsumugi", "messages": [{"role": "user", "content": "a" * 100_000}]}),
    ],
)
def test_a_question_of_100_000_characters(api: Api, admin: TestClient, path: str, body: dict[str, Any]) -> None:
    found = problem(admin.post(path, json=body), 422, "question_too_long")
    assert (found["actual"], found["limit"]) == (100_000, api.services.settings.http.max_question_chars)
    assert not api.engine.requests


def test_unknown_routes_methods_and_types(admin: TestClient) -> None:
    problem(admin.get("/v1/nothing"), 404, "route_not_found")
    refused = admin.put("/v1/documents")
    problem(refused, 405, "method_not_allowed")
    assert "POST" in refused.headers["allow"]
    problem(
        admin.post("/v1/documents", content=b"x", headers={"content-type": "text/csv"}), 415, "unsupported_media_type"
    )
    problem(admin.get("/v1/documents/%00"), 404, "not_found")
    problem(admin.get("/v1/jobs?cursor=!!!"), 400, "invalid_cursor")
    problem(admin.get("/v1/jobs?limit=0"), 422, "invalid_request")
    problem(admin.get("/v1/jobs?status=sleeping"), 422, "invalid_request")


def test_json_needs_its_content_type_or_none(admin: TestClient) -> None:
    body = b'{"question": "days?"}'
    form = {"content-type": "application/x-www-form-urlencoded"}
    problem(admin.post("/v1/ask", content=body, headers=form), 415, "unsupported_media_type")
    assert admin.post("/v1/ask", content=body).status_code == 200


def test_names_of_models_adapters_and_collections(api: Api, admin: TestClient) -> None:
    api.add_version()
    problem(admin.post("/v1/ask", json={"question": "a", "adapter": "nobody"}), 404, "model_not_found")
    problem(admin.post("/v1/ask", json={"question": "a", "collection": "nobody"}), 404, "collection_not_found")
    problem(admin.post("/v1/search", json={"query": "a", "collection": "nobody"}), 404, "collection_not_found")
    for model in ("gpt-4o", "tsumugi:nobody", "tsumugi:house@v9", "house", "base"):
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        found = problem(admin.post("/v1/chat/completions", json=body), 404, "model_not_found")
        assert found["error"]["code"] == "model_not_found"


def test_a_full_queue_is_429_with_retry_after(api: Api, admin: TestClient) -> None:
    api.engine.error = Unavailable("64 requests wait", code="queue_full", extra={"retry_after_s": 3})
    for stream in (False, True):
        answer = admin.post("/v1/ask", json={"question": "days?", "stream": stream})
        problem(answer, 429, "queue_full")
        assert answer.headers["retry-after"] == "3"
    api.engine.error = Unavailable("the engine stopped")
    problem(admin.post("/v1/ask", json={"question": "days?"}), 503, "unavailable")


def test_a_database_that_does_not_answer_is_503(api: Api, admin: TestClient) -> None:
    admin.get("/v1/documents")  # with a key whose use is recorded by now
    with api.database.engine.connect() as connection:
        connection.exec_driver_sql("ALTER TABLE documents RENAME TO elsewhere")
        connection.commit()
    answer = admin.get("/v1/documents")
    problem(answer, 503, "unavailable")
    assert "documents" not in answer.text, "SQL does not leak"
    assert answer.headers["retry-after"]


def test_a_bug_is_500_and_says_nothing_of_the_inside(api: Api, admin: TestClient) -> None:
    api.engine.pieces = ("half ", "!")
    answer = admin.post("/v1/ask", json={"question": "days?"}, headers={"X-Request-ID": "mine-1"})
    assert problem(answer, 500, "internal")["request_id"] == "mine-1"
    assert "secret detail" not in answer.text


def test_request_ids_come_back_unless_they_are_odd(admin: TestClient) -> None:
    assert admin.get("/healthz", headers={"X-Request-ID": "abc-123"}).headers["x-request-id"] == "abc-123"
    for odd in ("x" * 65, "a b", "a\tb", '<script>"'):
        assert admin.get("/healthz", headers={"X-Request-ID": odd}).headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"groups": "hr"}, "invalid_groups"),
        ({"groups": '{"a": 1}'}, "invalid_groups"),
        ({"groups": "[1]"}, "invalid_groups"),
        ({"metadata": "[]"}, "invalid_metadata"),
        ({"metadata": '{"a": "\\u0000"}'}, "invalid_metadata"),
        ({"metadata": '{"a": NaN}'}, "invalid_metadata"),
        ({"collection": "../x"}, "invalid_collection"),
        ({"external_id": "x" * 600}, "invalid_external_id"),
        ({"colection": "x"}, "invalid_request"),
    ],
)
def test_bad_form_fields_of_an_upload(admin: TestClient, fields: dict[str, str], code: str) -> None:
    problem(admin.post("/v1/documents", files={"file": ("a.txt", b"text")}, data=fields), 422, code)
    assert admin.get("/v1/documents").json()["items"] == []


def test_uploads_without_a_usable_file(admin: TestClient) -> None:
    problem(admin.post("/v1/documents", files={"file": ("a.txt", b"")}), 422, "empty_file")
    problem(admin.post("/v1/documents", files={"other": ("a.txt", b"x")}), 422, "invalid_request")
    problem(admin.post("/v1/documents", json={"text": ""}), 422, "empty_file")
    many = [("file", ("a.txt", b"a")), ("file", ("b.txt", b"b"))]
    problem(admin.post("/v1/documents", files=many, data={"external_id": "one"}), 422, "external_id_of_many")
    mixed = [("file", ("a.txt", b"a")), ("file", ("b.txt", b""))]
    problem(admin.post("/v1/documents", files=mixed), 422, "empty_file")
    assert admin.get("/v1/documents").json()["items"] == [], "all or none"
    problem(
        admin.post("/v1/documents", content=b"no boundary here", headers={"content-type": "multipart/form-data"}),
        400,
        "malformed_body",
    )


def test_invalid_rows_of_a_dataset_are_named_by_line(admin: TestClient) -> None:
    lines = ['{"instruction": "q", "output": "a"}', "{broken", '{"instruction": "q2", "output": "a2"}', '{"x": 1}']
    answer = admin.post(
        "/v1/datasets", content="\n".join(lines).encode(), headers={"content-type": "application/jsonl"}
    )
    assert answer.status_code == 201, answer.text
    assert (answer.json()["row_count"], answer.json()["invalid_count"]) == (2, 2)
    assert [row["line"] for row in answer.json()["report"]["invalid"]] == [2, 4]
    refused = admin.post("/v1/datasets", files={"file": ("a.jsonl", b"{broken\n")})
    assert refused.status_code == 422
    assert refused.json()["errors"]
    problem(admin.post("/v1/datasets", content=b"", headers={"content-type": "text/plain"}), 422, "missing_file")


def small(settings: Settings) -> Settings:
    http = settings.http.model_copy(update={"max_upload_bytes": 2**20, "max_json_bytes": 2**16})
    return settings.model_copy(update={"http": http})


def test_bodies_over_the_limit_are_413_however_they_come(settings: Settings, database: Any) -> None:
    api = build_api(small(settings), database)
    big = b"x" * (8 * 2**20)

    def trickle(head: bytes = b"") -> Any:
        yield head or b"{}"
        for start in range(0, len(big), 2**16):
            yield big[start : start + 2**16]

    headers = {"Authorization": f"Bearer {api.admin}"}
    with serve(api.app) as url, httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        problem(client.post("/v1/documents", files={"file": ("big.txt", big)}), 413, "too_large")
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        chunked = {"content-type": "multipart/form-data; boundary=b"}
        problem(client.post("/v1/documents", content=trickle(part), headers=chunked), 413, "too_large")
        problem(client.post("/v1/datasets", content=trickle()), 413, "too_large")
        problem(client.post("/v1/ask", json={"question": "x" * 2**17}), 413, "too_large")
        problem(client.post("/v1/documents", json={"text": "x" * 2**17}), 413, "too_large")
        keyed = {"Idempotency-Key": "k"}
        problem(client.post("/v1/datasets", content=trickle(), headers=keyed), 413, "too_large")
        assert client.get("/v1/documents").json()["items"] == []
        nobody = client.post("/v1/documents", files={"file": ("a.txt", big[: 2**19])}, headers={"Authorization": ""})
        problem(nobody, 401, "unauthenticated")


def test_a_300_mb_upload_is_refused_while_it_comes(api_url: str, api: Api) -> None:
    size = 300 * 2**20
    block = b"x" * 2**20
    host, port = api_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = (
            f"POST /v1/documents HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {api.admin}\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {size}\r\n\r\n"
        )
        connection.sendall(head.encode())
        for _ in range(300):  # a simple client: it writes everything before it reads
            connection.sendall(block)
        answer = connection.makefile("rb").read(4096)
    assert answer.startswith(b"HTTP/1.1 413")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "too_large"


def test_every_answer_carries_the_security_headers(admin: TestClient) -> None:
    for path in ("/healthz", "/v1/documents", "/v1/nothing"):
        headers = admin.get(path, headers={"Origin": "https://evil.example"}).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


def test_a_write_that_lost_a_race_is_a_conflict(api: Api, admin: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_arguments: object, **_named: object) -> None:
        raise IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed: collections.name"))

    monkeypatch.setattr(api.services.ingest.collections, "create", lose)
    answer = admin.post("/v1/collections", json={"name": "a"})
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (409, "conflict", True)
    assert "collections.name" not in answer.text, "the database's words are its own"


def test_a_query_parameter_that_does_not_exist_is_an_error(api: Api) -> None:
    with api.client() as client:
        for path, near in (("/v1/jobs?error_code=broken_pdf", "code"), ("/v1/documents?colection=a", "collection")):
            answer = client.get(path)
            assert answer.status_code == 422 and answer.json()["code"] == "invalid_request", path
            assert near in answer.json()["detail"]
            assert "query." in str(answer.json()["errors"][0])
        assert client.post("/v1/search?limit=3", json={"query": "a"}).status_code == 422
        assert client.get("/v1/jobs?status=failed&code=a&limit=5").status_code == 200


def test_fields_of_a_raw_upload_may_stand_in_the_query(api: Api) -> None:
    row = b'{"instruction": "a question", "output": "an answer"}\n'
    with api.client() as client:
        taken = client.post("/v1/datasets?name=mine", content=row, headers={"Content-Type": "application/jsonl"})
        assert taken.status_code in {200, 201}, taken.text
        assert client.post("/v1/datasets?nam=mine", content=row).status_code == 422
