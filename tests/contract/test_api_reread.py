"""Reading documents again over HTTP: which of them, who may, and what is answered."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from core.tables import Job
from tests.api_app import Api

WHERE = "/v1/documents/reread"


def put(admin: TestClient, number: int) -> dict[str, Any]:
    item: dict[str, Any] = admin.post("/v1/documents", json={"text": f"{number}", "filename": "a.txt"}).json()["items"][
        0
    ]
    return item


def finish(api: Api) -> None:
    """End the jobs of all uploads."""
    with api.database.read() as session:
        ids = [job.id for job in session.query(Job) if job.status == "queued"]
    for job_id in ids:
        lease = api.services.jobs.claim(job_id)
        assert lease is not None
        lease.succeed()


def test_named_documents_and_all_of_them_page_by_page(admin: TestClient, api: Api) -> None:
    put_first = [put(admin, number) for number in range(3)]
    ids = [item["document"]["id"] for item in put_first]
    under_way = admin.post(WHERE, json={"documents": ids[:1]})
    assert under_way.status_code == 202
    (item,) = under_way.json()["items"]
    assert item["under_way"] and item["job"]["id"] == put_first[0]["job"]["id"]
    finish(api)
    body = admin.post(WHERE, json={"documents": [ids[2], ids[0]]}).json()
    assert body["next_cursor"] is None
    assert [item["document"]["id"] for item in body["items"]] == [ids[2], ids[0]]
    assert [(item["document"]["generation"], item["job"]["kind"]) for item in body["items"]] == [(2, "ingest")] * 2
    finish(api)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = admin.post(WHERE, json={"all": True, "limit": 2, "cursor": cursor}).json()
        seen += [item["document"]["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == sorted(ids)
    assert admin.post(WHERE, json={"all": True, "read_before": "2020-01-01T00:00:00Z"}).json()["items"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"all": False},
        {"documents": []},
        {"documents": ["doc_1"], "all": True},
        {"documents": ["doc_1"], "collection": "rooms"},
        {"all": True, "read_before": "2020-01-01T00:00:00"},
        {"all": True, "limit": 0},
    ],
)
def test_what_names_neither_some_nor_all_is_refused(admin: TestClient, body: dict[str, Any]) -> None:
    answer = admin.post(WHERE, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_a_key_that_only_asks_may_not(admin: TestClient, api: Api) -> None:
    item = put(admin, 1)
    with api.client(api.key("query")) as reader:
        assert reader.post(WHERE, json={"documents": [item["document"]["id"]]}).status_code == 403
    assert admin.post(WHERE, json={"documents": ["doc_unknown"]}).status_code == 404
