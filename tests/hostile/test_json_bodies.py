"""JSON made to be slow: refused before it is parsed, and what is long for good reasons is taken."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from api.json_bodies import MAX_STRINGS, BodyRoom, refuse_wide
from core.database import Database
from core.errors import TooLarge
from core.settings import Settings
from core.tables import Tenant
from tests.api_app import build_api, serve
from tests.server_processes import wait_for

MIB = 2**20
SLOW = {
    "members": b"{" + b",".join(b'"%07x":1' % n for n in range(400_000)) + b"}",
    "numbers": b'{"question": [' + b",".join([b"1"] * 2_000_000) + b"]}",
    "objects": b'{"question": [' + b",".join([b"{}"] * 1_000_000) + b"]}",
    "open brackets": b'{"question": ' + b"[" * (4 * MIB),
    "digits": b'{"question": ' + b"9" * (4 * MIB) + b"}",
    "escaped quotes between strings": b'{"question": [' + b",".join([rb'"\"",1'] * 400_000) + b"]}",
}
ROUTES = ("/v1/ask", "/v1/search", "/v1/chat/completions", "/v1/documents", "/v1/admin/tuning-runs")


@pytest.fixture
def admin(settings: Settings, database: Database) -> TestClient:
    return build_api(settings, database).client()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", SLOW)
def test_it_is_refused_unparsed(admin: TestClient, kind: str, route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = json.loads

    def loads(text: Any, **how: Any) -> Any:
        assert len(text) < MIB, "it was parsed"
        return parse(text, **how)

    with monkeypatch.context() as patched:
        patched.setattr(json, "loads", loads)
        answer = admin.post(route, content=SLOW[kind], headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize("route", ROUTES)
def test_thousands_of_unknown_members_are_one_error(admin: TestClient, route: str) -> None:
    answer = admin.post(route, json={f"m{n}": 1 for n in range(5_000)})
    assert answer.status_code in {400, 422} and len(answer.content) < 1_000


def test_a_long_text_is_taken(admin: TestClient) -> None:
    text = 'Said: "yes, [1], {2}", and \\ so on.\n' * 40_000
    answer = admin.post("/v1/documents", json={"text": text, "filename": "long.txt"})
    assert answer.status_code == 202, answer.text


def test_strings_are_counted_as_json_has_them() -> None:
    refuse_wide(json.dumps(["\\", '"', '\\"', "a,b"] * (MAX_STRINGS // 4), separators=(",", ":")).encode())
    with pytest.raises(TooLarge):
        refuse_wide(json.dumps(["\\", '"', '\\"', "a,b"] * (MAX_STRINGS // 3)).encode())


@pytest.mark.parametrize("route", ["/v1/ask", "/v1/documents", "/v1/admin/dictionary", "/v1/admin/evaluation-sets"])
def test_long_bodies_of_one_tenant_fill_its_room_and_no_other(
    settings: Settings, database: Database, other_tenant: Tenant, route: str
) -> None:
    api = build_api(settings, database)
    api.app.state.body_room = room = BodyRoom(3 * MIB)
    method = "PUT" if route.endswith("dictionary") else "POST"
    keys = (f"Bearer {api.admin}", api.key("query", "ingest", "admin", tenant=other_tenant)["Authorization"])
    body = b'{"question": "' + b"a" * (2 * MIB)  # and never an end

    with serve(api.app) as url, ExitStack() as stack:

        def begin(key: str) -> socket.socket:
            place = urlsplit(url)
            one = stack.enter_context(socket.create_connection((place.hostname, place.port), timeout=60))
            head = f"{method} {route} HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {4 * MIB}\r\n\r\n"
            one.sendall(head.encode() + body)
            return one

        begin(keys[0])
        wait_for(lambda: room._held[api.tenant.id] > 1.5 * MIB, 8, "a body")
        begin(keys[1])
        wait_for(lambda: room._held[other_tenant.id] > 1.5 * MIB, 8, "a body")
        again = begin(keys[0])
        answer = b""
        while b"too_many_at_once" not in answer:
            answer += again.recv(2**16)
        assert b" 429 " in answer.split(b"\r\n")[0] and b"retry-after: 1\r\n" in answer.lower()
    wait_for(lambda: not room._held, 8, "bodies that are left")
