"""Idempotency-Key: done once, answered the same; another body is a conflict."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from api.idempotency import DEAD_AFTER, BoundaryFreeDigest, IdempotencyLedger, forget_interrupted
from core.tables import ApiKey, Dataset, Document, Feedback, IdempotencyRecord
from core.tables.base import utc_now
from tests.api_app import Api

KEY = {"Idempotency-Key": "first-try"}


def upload(client: TestClient, text: bytes = b"some text", **headers: str) -> Any:
    return client.post("/v1/documents", files={"file": ("a.txt", text)}, headers=headers)


def count(api: Api, table: Any) -> int:
    with api.database.read() as session:
        return len(session.scalars(select(table)).all())


def test_the_same_upload_again_is_answered_as_the_first_time(api: Api, admin: TestClient) -> None:
    first, second = upload(admin, **KEY), upload(admin, **KEY)
    assert first.status_code == second.status_code == 202
    assert first.request.content != second.request.content, "the client was expected to change its boundary"
    assert first.json() == second.json()
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert second.headers["content-type"] == "application/json"
    assert count(api, Document) == 1


def test_large_bodies_are_compared_too(api: Api, admin: TestClient) -> None:
    big = b"line\n" * 600_000
    assert upload(admin, big, **KEY).status_code == 202
    assert upload(admin, big, **KEY).headers["idempotency-replayed"] == "true"
    assert upload(admin, big[:-1] + b"!", **KEY).json()["code"] == "idempotency_conflict"
    assert count(api, Document) == 1


def test_another_body_or_route_is_a_conflict(api: Api, admin: TestClient) -> None:
    upload(admin, **KEY)
    changed = upload(admin, b"other text", **KEY)
    assert changed.status_code == 409
    assert changed.json()["code"] == "idempotency_conflict"
    elsewhere = admin.post("/v1/datasets", content=b"x", headers=KEY)
    assert elsewhere.json()["code"] == "idempotency_conflict"
    assert (count(api, Document), count(api, Dataset)) == (1, 0)


def test_keys_of_two_callers_do_not_meet(api: Api, admin: TestClient) -> None:
    upload(admin, **KEY)
    other = upload(api.client(api.key("ingest")), b"other text", **KEY)
    assert other.status_code == 202
    assert "idempotency-replayed" not in other.headers


def test_a_refused_request_frees_its_key(api: Api, admin: TestClient) -> None:
    assert upload(admin, b"", **KEY).status_code == 422
    assert upload(admin, b"text", **KEY).status_code == 202


def test_a_secret_is_not_shown_twice(api: Api, admin: TestClient) -> None:
    body = {"name": "once", "scopes": ["query"]}
    first = admin.post("/v1/admin/keys", json=body, headers=KEY).json()
    again = admin.post("/v1/admin/keys", json=body, headers=KEY).json()
    assert first["secret"].startswith("tsu_")
    assert again == {**first, "secret": None}
    with api.database.read() as session:
        assert first["secret"] not in str([row.response for row in session.scalars(select(IdempotencyRecord))])
        assert len(session.scalars(select(ApiKey).where(ApiKey.name == "once")).all()) == 1


def test_while_the_first_runs_the_second_is_told_so(api: Api, admin: TestClient) -> None:
    inside, go_on = threading.Event(), threading.Event()
    answer_id = admin.post("/v1/ask", json={"question": "days?"}).json()["id"]
    real = api.services.answers.feedback

    def slow(*arguments: Any, **named: Any) -> Any:
        inside.set()
        assert go_on.wait(10)
        return real(*arguments, **named)

    api.services.answers.feedback = slow  # type: ignore[method-assign]
    answers: list[Any] = []

    def rate() -> None:
        answers.append(admin.post(f"/v1/answers/{answer_id}/feedback", json={"rating": "up"}, headers=KEY))

    first = threading.Thread(target=rate)
    first.start()
    assert inside.wait(10)
    rate()
    go_on.set()
    first.join(10)
    rate()
    assert [answer.status_code for answer in answers] == [409, 201, 201]
    assert answers[0].json()["code"] == "idempotency_in_progress"
    assert count(api, Feedback) == 1


def test_a_first_request_that_died_does_not_hold_the_key(api: Api) -> None:
    ledger = IdempotencyLedger(api.database, "key_1", "k")
    assert ledger.begin("POST /x", "digest") is None
    with pytest.raises(Exception, match="still runs"):
        ledger.begin("POST /x", "digest")
    with api.database.write() as session:
        session.execute(update(IdempotencyRecord).values(created_at=utc_now() - DEAD_AFTER - timedelta(seconds=1)))
    assert ledger.begin("POST /x", "digest") is None
    assert forget_interrupted(api.database) == 1
    assert ledger.begin("POST /x", "other") is None


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "é"])
def test_odd_keys_are_refused(admin: TestClient, key: str) -> None:
    answer = admin.post("/v1/datasets", content=b"x", headers=[(b"Idempotency-Key", key.encode())])
    assert answer.json()["code"] == "invalid_idempotency_key"


def test_searches_and_questions_are_not_kept(api: Api, admin: TestClient) -> None:
    first = admin.post("/v1/ask", json={"question": "days?"}, headers=KEY).json()
    assert admin.post("/v1/ask", json={"question": "days?"}, headers=KEY).json()["id"] != first["id"]
    assert count(api, IdempotencyRecord) == 0


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 1000])
def test_the_digest_does_not_depend_on_boundary_or_cuts(cut: int) -> None:
    def digest(boundary: bytes, step: int, content: bytes = b"some content") -> str:
        body = b"--" + boundary + b"\r\n\r\n" + content + b"\r\n--" + boundary + b"--\r\n"
        made = BoundaryFreeDigest(boundary)
        for start in range(0, len(body), step):
            made.update(body[start : start + step])
        return made.hexdigest()

    assert digest(b"aaabaaab", cut) == digest(b"zyx", 1000) == digest(b"0123456789" * 4, 7)
    assert digest(b"aaabaaab", cut) != digest(b"aaabaaab", cut, b"other content")
