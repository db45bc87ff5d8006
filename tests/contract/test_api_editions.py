"""Validity with uploads, PATCH of documents, and collections, over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from core.tables import Document
from tests.api_app import Api


@pytest.fixture
def document(admin: TestClient) -> dict[str, Any]:
    body = {"text": "小会議室は一時間千円です。", "filename": "料金表.txt", "external_id": "rates", "groups": ["sales"]}
    found: dict[str, Any] = admin.post("/v1/documents", json=body).json()["items"][0]["document"]
    return found


def test_validity_comes_with_an_upload(admin: TestClient, api: Api) -> None:
    said = {"valid_from": "2024-04-01", "valid_until": "2025-03-31", "supersedes": "rates-2023"}
    by_form = admin.post("/v1/documents", files={"file": ("a.txt", b"x")}, data=said).json()["items"][0]["document"]
    sent = {"text": "y", "filename": "b.txt", **said}
    by_json = admin.post("/v1/documents", json=sent).json()["items"][0]["document"]
    for found in (by_form, by_json):
        assert {name: found[name] for name in said} == said
        assert (found["validity_source"], found["edition"]) == ("given", None)
    with api.database.read() as session:
        assert session.get_one(Document, by_form["id"]).valid_from is not None


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("valid_from", "1 April", "invalid_date"),
        ("valid_until", "20250401", "invalid_date"),
        ("valid_until", "2024-02-30", "invalid_date"),
        ("valid_until", "2020-01-01", "invalid_validity"),
        ("supersedes", "x" * 513, "invalid_supersedes"),
        ("supersedes", "self", "invalid_supersedes"),
    ],
)
def test_a_form_with_a_wrong_day_is_refused(admin: TestClient, field: str, value: str, code: str) -> None:
    data = {"valid_from": "2021-01-01", "external_id": "self", field: value}
    answer = admin.post("/v1/documents", files={"file": ("a.txt", b"x")}, data=data)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_fields_are_changed_and_what_is_not_named_stays(admin: TestClient, document: dict[str, Any]) -> None:
    where = f"/v1/documents/{document['id']}"
    changed = admin.patch(where, json={"groups": ["legal", "hr"], "metadata": {"部署": "総務"}, "collection": "rooms"})
    assert changed.status_code == 200
    body = changed.json()
    assert (body["groups"], body["metadata"], body["collection"]) == (["hr", "legal"], {"部署": "総務"}, "rooms")
    body = admin.patch(where, json={"valid_until": "2025-03-31", "supersedes": "older"}).json()
    assert (body["valid_from"], body["valid_until"], body["validity_source"]) == (None, "2025-03-31", "given")
    assert (body["groups"], body["supersedes"]) == (["hr", "legal"], "older")
    body = admin.patch(where, json={"valid_until": None, "supersedes": None, "groups": [], "metadata": None}).json()
    assert (body["valid_until"], body["supersedes"], body["groups"], body["metadata"]) == (None, None, [], {})
    assert admin.patch(where, json={"validity_source": "found"}).json()["validity_source"] is None
    same = admin.patch(where, json={"collection": "rooms"}).json()
    assert admin.get(where).json() == same and same["collection"] == "rooms"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"filename": "b.txt"},
        {"valid_from": "tomorrow"},
        {"collection": None},
        {"collection": "../x"},
        {"groups": ["ok", " "]},
        {"groups": ["a\x00"]},
        {"metadata": []},
        {"validity_source": "given"},
        {"supersedes": ""},
        {"supersedes": "rates"},
        {"supersedes": "doc_0"},
        {"valid_from": "2025-01-02", "valid_until": "2025-01-01"},
    ],
)
def test_what_cannot_be_used_is_refused_and_changes_nothing(
    admin: TestClient, document: dict[str, Any], body: dict[str, Any]
) -> None:
    where = f"/v1/documents/{document['id']}"
    before = admin.get(where).json()
    assert admin.patch(where, json=body).status_code == 422
    assert admin.get(where).json() == before


def test_who_cannot_see_it_is_told_that_there_is_none(api: Api, admin: TestClient, document: dict[str, Any]) -> None:
    where = f"/v1/documents/{document['id']}"
    with api.client() as client:
        for headers, status, code in (
            (api.key("ingest", groups=["legal"]), 404, "not_found"),
            (api.key("query", groups=["sales"]), 403, "forbidden"),
        ):
            answer = client.patch(where, json={"metadata": {}}, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
        own = api.key("ingest", groups=["sales"])
        refused = client.patch(where, json={"groups": ["sales", "board"]}, headers=own)
        assert (refused.status_code, refused.json()["code"]) == (403, "group_not_held")
        assert client.patch(where, json={"groups": []}, headers=own).json()["groups"] == []
    admin.delete(where)
    assert admin.patch(where, json={"groups": []}).json()["code"] == "document_deleting"


def test_the_same_key_again_gives_the_same_answer(admin: TestClient, document: dict[str, Any]) -> None:
    where, headers = f"/v1/documents/{document['id']}", {"Idempotency-Key": "k1"}
    first = admin.patch(where, json={"groups": ["hr"]}, headers=headers)
    admin.patch(where, json={"groups": ["legal"]})
    again = admin.patch(where, json={"groups": ["hr"]}, headers=headers)
    assert again.json() == first.json() and again.headers["Idempotency-Replayed"] == "true"
    assert admin.get(where).json()["groups"] == ["legal"]
    assert admin.patch(where, json={"groups": []}, headers=headers).json()["code"] == "idempotency_conflict"


def test_changes_are_audited(admin: TestClient, document: dict[str, Any]) -> None:
    admin.patch(f"/v1/documents/{document['id']}", json={"groups": ["hr"], "valid_from": "2025-04-01"})
    (entry,) = admin.get("/v1/admin/audit", params={"action": "document.update"}).json()["items"]
    assert entry["object_id"] == document["id"]
    assert entry["detail"]["groups"] == {"before": ["sales"], "after": ["hr"]}
    assert "2025-04-01" in json.dumps(entry["detail"])


def test_an_unchanged_upload_still_names_the_job_that_read_it(admin: TestClient, document: dict[str, Any]) -> None:
    admin.patch(f"/v1/documents/{document['id']}", json={"groups": ["hr"]})
    body = {"text": "小会議室は一時間千円です。", "filename": "料金表.txt", "external_id": "rates"}
    (item,) = admin.post("/v1/documents", json=body).json()["items"]
    assert item["job"]["kind"] == "ingest"


def test_collections_are_made_listed_renamed_and_deleted(api: Api, admin: TestClient) -> None:
    made = admin.post("/v1/collections", json={"name": "規程"})
    assert made.status_code == 201 and made.json()["documents"] == 0
    assert admin.post("/v1/collections", json={"name": "規程"}).json()["code"] == "collection_exists"
    assert admin.post("/v1/collections", json={"name": "~x"}).json()["code"] == "invalid_collection"
    sent = {"text": "x", "collection": "規程", "groups": ["hr"]}
    document = admin.post("/v1/documents", json=sent).json()["items"][0]["document"]
    with api.client() as client:
        writer, outsider = api.key("ingest", groups=["hr"]), api.key("query")
        seen = {c["name"]: c["documents"] for c in client.get("/v1/collections", headers=writer).json()["items"]}
        assert seen == {"default": 0, "規程": 1}
        assert [c["name"] for c in client.get("/v1/collections", headers=outsider).json()["items"]] == ["default"]
        assert client.delete("/v1/collections/規程", headers=writer).status_code == 403
    renamed = admin.patch("/v1/collections/規程", json={"name": "社内規程"})
    assert (renamed.json()["name"], renamed.json()["documents"]) == ("社内規程", 1)
    assert admin.patch("/v1/collections/社内規程", json={"name": "default"}).json()["code"] == "collection_exists"
    for answer in (admin.delete("/v1/collections/default"), admin.patch("/v1/collections/default", json={"name": "x"})):
        assert (answer.status_code, answer.json()["code"]) == (409, "collection_is_default")
    deleted = admin.delete(f"/v1/collections/{made.json()['id']}")
    assert deleted.status_code == 202 and deleted.json()["name"] == "社内規程"
    assert deleted.json()["job"]["kind"] == "collection"
    assert admin.get(f"/v1/documents/{document['id']}").json()["status"] == "deleting"
    assert admin.delete(f"/v1/documents/{document['id']}").json()["job"] is None
    assert admin.delete("/v1/collections/社内規程").json()["code"] == "collection_not_found"
    assert [c["name"] for c in admin.get("/v1/collections").json()["items"]] == ["default"]
    assert admin.post("/v1/collections", json={"name": "社内規程"}).status_code == 201
