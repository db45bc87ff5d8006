"""Open streams end with the key that opened them."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from core.keys import create_key
from core.tables import ApiKey, Job
from core.tables.base import utc_now
from tests.api_app import Api

CHAT = {"model": "tsumugi", "messages": [{"role": "user", "content": "days?"}], "stream": True}
STREAMS = [
    ("GET", "/v1/jobs/job_1/events", None),
    ("GET", "/v1/admin/audit/events", None),
    ("POST", "/v1/ask", {"question": "days?", "stream": True}),
    ("POST", "/v1/chat/completions", CHAT),
]


@pytest.fixture
def secret(api: Api) -> str:
    """A second admin key; the job is never worked on, and the generator waits for ever."""
    api.engine.gate = threading.Event()
    with api.database.write() as session:
        session.add(
            Job(id="job_1", tenant_id=api.tenant.id, kind="ingest", task="ingest", subject_id="doc_1", status="queued")
        )
        return create_key(session, tenant_id=api.tenant.id, name="watcher", scopes=["admin"])[1]


def end(api: Api, how: str) -> None:
    with api.database.write() as session:
        key = session.scalars(select(ApiKey).where(ApiKey.name == "watcher")).one()
        if how == "revoked":
            key.revoked_at = utc_now()
        elif how == "expired":
            key.expires_at = utc_now() - timedelta(seconds=1)
        else:
            key.scopes = ["query"]


def last_event(lines: list[str]) -> dict[str, Any]:
    return json.loads([line for line in lines if line.startswith("data: ")][-1].removeprefix("data: "))


@pytest.mark.parametrize(("method", "path", "body"), STREAMS)
def test_a_revoked_key_loses_its_open_streams(
    api: Api, api_url: str, secret: str, method: str, path: str, body: Any
) -> None:
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.stream(method, api_url + path, json=body, headers=headers, timeout=20) as answer:
        lines = answer.iter_lines()
        seen = [next(lines)]
        end(api, "revoked")
        seen += lines  # ends by itself: within the timeout, though nothing happens
    assert answer.status_code == 200
    assert last_event(seen)["code"] == "unauthenticated"
    if body is not None:
        assert api.engine.handles[0].cancelled.wait(10), "the generator works for nobody"


@pytest.mark.parametrize(("how", "code"), [("expired", "unauthenticated"), ("narrowed", "key_changed")])
def test_so_does_one_that_expires_or_loses_a_right(api: Api, api_url: str, secret: str, how: str, code: str) -> None:
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.stream("GET", f"{api_url}/v1/jobs/job_1/events", headers=headers, timeout=20) as answer:
        lines = answer.iter_lines()
        seen = [next(lines)]
        end(api, how)
        seen += lines
    assert last_event(seen)["code"] == code


def test_another_keys_stream_goes_on(api: Api, api_url: str, secret: str) -> None:
    headers = {"Authorization": f"Bearer {api.admin}"}
    with httpx.stream("GET", f"{api_url}/v1/jobs/job_1/events", headers=headers, timeout=20) as answer:
        lines = answer.iter_lines()
        seen = [next(lines)]
        end(api, "revoked")
        timer = threading.Timer(3.0, _finish, [api])
        timer.start()
        seen += lines
    timer.join()
    assert last_event(seen)["status"] == "succeeded"


def _finish(api: Api) -> None:
    with api.database.write() as session:
        session.get_one(Job, "job_1").status = "succeeded"
