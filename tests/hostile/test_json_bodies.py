"""JSON made to be slow: refused before it is parsed, and what is long for good reasons is taken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.json_bodies import MAX_STRINGS, refuse_wide
from core.database import Database
from core.errors import TooLarge
from core.settings import Settings
from tests.api_app import build_api

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
