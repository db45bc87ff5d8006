"""Adapters over HTTP: what serves, promote, roll back, history, and the names that models go by."""

from __future__ import annotations

import io
import zipfile
from typing import Any

from fastapi.testclient import TestClient

from core.tables import AdapterVersion, Tenant
from tests.api_app import Api

HOUSE = "/v1/admin/adapters/house"


def stamp(client: TestClient, **fields: Any) -> Any:
    return client.post("/v1/ask", json={"question": "days?", **fields}).json()["provenance"]["adapter"]


def test_promote_and_roll_back_decide_who_answers(api: Api, admin: TestClient) -> None:
    for _ in range(2):
        api.add_version()
    assert stamp(admin) is None
    assert admin.post(f"{HOUSE}/promote", json={"version": "house@v1"}).json()["to"] == "v1"
    assert (stamp(admin), stamp(admin, adapter="base"), stamp(admin, adapter="house@v2")) == (
        "house@v1",
        None,
        "house@v2",
    )
    moved = admin.post(f"{HOUSE}/promote", json={"version": "v2"}).json()
    assert (moved["from"], moved["to"], moved["champion"]) == ("v1", "v2", "v2")
    back = admin.post(f"{HOUSE}/rollback", json={"reason": "too stiff"}).json()
    assert (back["from"], back["to"]) == ("v2", "v1")
    assert 0 < back["effective_ms"] < 1000
    assert stamp(admin) == "house@v1"
    assert admin.post(f"{HOUSE}/rollback", json={"reason": "still"}).json()["to"] is None
    assert stamp(admin) is None
    nothing = admin.post(f"{HOUSE}/rollback", json={"reason": "again"})
    assert (nothing.status_code, nothing.json()["code"]) == (409, "nothing_to_roll_back")
    assert admin.post(f"{HOUSE}/rollback", json={"to": "house@v2", "reason": "after all"}).json()["to"] == "v2"
    history = admin.get(f"{HOUSE}/history").json()["items"]
    assert [(event["action"], event["to_version"]) for event in history] == [
        ("rollback", "v2"), ("rollback", None), ("rollback", "v1"), ("promote", "v2"), ("promote", "v1"),
    ]  # fmt: skip
    assert history[2]["reason"] == "too stiff"
    assert all(event["actor"].startswith("key:") and event["effective_ms"] > 0 for event in history)
    actions = [entry["action"] for entry in admin.get("/v1/admin/audit?object_id=house").json()["items"]]
    assert actions.count("adapter.rollback") == 3


def test_a_rejected_version_needs_force_and_a_reason(api: Api, admin: TestClient) -> None:
    api.add_version(status="rejected")
    refused = admin.post(f"{HOUSE}/promote", json={"version": "v1"})
    assert (refused.status_code, refused.json()["code"]) == (409, "gate_failed")
    assert refused.json()["reasons"] == ["style: not better"]
    wordless = admin.post(f"{HOUSE}/promote", json={"version": "v1", "force": True})
    assert (wordless.status_code, wordless.json()["code"]) == (422, "reason_required")
    body = {"version": "v1", "force": True, "reason": "for a trial"}
    assert admin.post(f"{HOUSE}/promote", json=body).status_code == 200
    assert admin.get(f"{HOUSE}/history").json()["items"][0]["forced"] is True


def test_families_versions_and_model_names(api: Api, admin: TestClient, other_tenant: Tenant) -> None:
    api.add_version()
    api.add_version(status="rejected")
    api.add_version("theirs", tenant=other_tenant)
    listed = admin.get("/v1/admin/adapters").json()["items"]
    assert [family["family"] for family in listed] == ["house"]
    shown = admin.get(HOUSE).json()
    assert [version["name"] for version in shown["versions"]] == ["house@v2", "house@v1"]
    assert shown["versions"][0]["status"] == "rejected"
    assert shown["versions"][0]["gate_report"] == {"verdict": "rejected"}
    models = [model["id"] for model in admin.get("/v1/models").json()["data"]]
    assert models == ["tsumugi", "tsumugi:base", "tsumugi:house", "tsumugi:house@v1"]
    for path in ("theirs", "theirs/history"):
        assert admin.get(f"/v1/admin/adapters/{path}").status_code == 404
    for path, body in [("promote", {"version": "v1"}), ("rollback", {"reason": "x"})]:
        assert admin.post(f"/v1/admin/adapters/theirs/{path}", json=body).status_code == 404
    theirs = {"model": "tsumugi:theirs@v1", "messages": [{"role": "user", "content": "hi"}]}
    assert admin.post("/v1/chat/completions", json=theirs).json()["code"] == "model_not_found"
    assert admin.post("/v1/ask", json={"question": "hi", "adapter": "theirs"}).status_code == 404


def test_a_canary_takes_its_share_of_conversations(api: Api, admin: TestClient) -> None:
    for _ in range(2):
        api.add_version()
    admin.post(f"{HOUSE}/promote", json={"version": "v1"})
    moved = admin.post(f"{HOUSE}/promote", json={"version": "v2", "canary_percent": 50}).json()
    assert (moved["champion"], moved["canary"], moved["aliases"]["canary"]["percent"]) == ("v1", "v2", 50)
    stamps = {name: stamp(admin, conversation_id=name) for name in map(str, range(24))}
    assert set(stamps.values()) == {"house@v1", "house@v2"}
    assert all(stamp(admin, conversation_id=name) == version for name, version in stamps.items())
    assert admin.post(f"{HOUSE}/promote", json={"version": "v2", "canary_percent": 0}).status_code == 422


def test_what_cannot_be_imported_is_refused(admin: TestClient) -> None:
    refused = admin.post("/v1/admin/adapters/Base Camp/versions", files={"file": ("a.zip", b"x")})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_family")
    empty = admin.post(f"{HOUSE}/versions", content=b"", headers={"content-type": "application/zip"})
    assert empty.json()["code"] == "missing_file"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("adapter_config.json", "{}")
    without_base = admin.post(f"{HOUSE}/versions", files={"file": ("a.zip", archive.getvalue())})
    assert (without_base.status_code, without_base.json()["code"]) == (503, "unavailable")
    assert admin.get("/v1/admin/adapters").json()["items"] == []


def test_rollback_goes_to_what_has_served_and_the_rest_is_promoted(api: Api, admin: TestClient) -> None:
    for status in ("candidate", "candidate", "rejected"):
        api.add_version(status=status)
    with api.database.write() as session:
        imported = session.query(AdapterVersion).filter_by(version="v2").one()
        imported.source, imported.gate_report = "import", None
    admin.post(f"{HOUSE}/promote", json={"version": "v1"})
    for name in ("v2", "house@v3"):  # an import that passed no gate, and one that failed it
        body = {"to": name, "reason": "a shortcut"}
        refused = admin.post(f"{HOUSE}/rollback", json=body)
        assert (refused.status_code, refused.json()["code"]) == (409, "never_served")
        assert admin.post(f"{HOUSE}/promote", json={"version": name}).json()["code"] == "gate_failed"
    assert stamp(admin) == "house@v1"
    signed = {"version": "v2", "force": True, "reason": "tried by hand"}
    assert admin.post(f"{HOUSE}/promote", json=signed).json()["to"] == "v2"
    assert admin.post(f"{HOUSE}/rollback", json={"to": "v1", "reason": "back"}).json()["to"] == "v1"
    assert admin.post(f"{HOUSE}/rollback", json={"to": "v2", "reason": "again"}).json()["to"] == "v2"
    with api.database.write() as session:
        session.query(AdapterVersion).filter_by(version="v1").one().status = "retired"
    retired = admin.post(f"{HOUSE}/rollback", json={"to": "v1", "reason": "back"})
    assert (retired.status_code, retired.json()["code"]) == (409, "adapter_retired")
    assert admin.post(f"{HOUSE}/rollback", json={"to": "v9", "reason": "back"}).status_code == 404
    assert [event["forced"] for event in admin.get(f"{HOUSE}/history").json()["items"]] == [False, False, True, False]


def test_promoting_what_plain_asks_do_not_use_says_so(api: Api, admin: TestClient) -> None:
    api.add_version()
    api.add_version("sales")
    house = admin.post(f"{HOUSE}/promote", json={"version": "v1"}).json()
    assert (house["answers_plain_asks"], house["warnings"]) == (True, [])
    path = "/v1/admin/adapters/sales"
    for body in ({"version": "v1", "canary_percent": 10}, {"version": "v1"}):
        moved = admin.post(f"{path}/promote", json=body).json()
        assert moved["answers_plain_asks"] is False
        assert [one["code"] for one in moved["warnings"]] == ["not_the_default_family"]
        assert "'house'" in moved["warnings"][0]["detail"] and "tsumugi:sales" in moved["warnings"][0]["detail"]
    assert (stamp(admin), stamp(admin, adapter="sales")) == ("house@v1", "sales@v1")
    back = admin.post(f"{path}/rollback", json={"reason": "x"}).json()
    assert back["answers_plain_asks"] is False
