"""Training sets over HTTP: whose they are, whether they are in force, what is left of a deleted one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from core.repositories.blobs import named_blobs
from core.repositories.lineage import SourceKind, retire_rows, versions_that_saw
from core.tables import AdapterVersion, DatasetRow, Job, RowSource, Tenant, TuningRun
from core.tables.lineage import RunRow
from tests.api_app import Api


def upload(client: TestClient, salt: str, count: int = 30, *, family: str | None = None, **row: Any) -> Any:
    lines = [{"instruction": f"{salt}{n}は?", "output": f"{salt}{n}です。", **row} for n in range(count)]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    fields = {} if family is None else {"family": family}
    answer = client.post("/v1/datasets", files={"file": (f"{salt}.jsonl", text.encode())}, data=fields)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def start(client: TestClient, family: str, **body: Any) -> Any:
    return client.post("/v1/admin/tuning-runs", json={"family": family, **body})


def end_runs(api: Api, status: str = "succeeded") -> None:
    with api.database.write() as session:
        for job in session.scalars(select(Job)):
            job.status = status


def test_a_run_takes_the_sets_of_its_family_and_no_others(api: Api, admin: TestClient) -> None:
    house, other = upload(admin, "家"), upload(admin, "営業", family="sales")
    junk = upload(admin, "屑", family="junk")
    assert [one["family"] for one in (house, other, junk)] == ["house", "sales", "junk"]
    assert start(admin, "house").json()["dataset_ids"] == [house["id"]]
    assert start(admin, "sales").json()["dataset_ids"] == [other["id"]]
    refused = start(admin, "nobody")
    assert (refused.status_code, refused.json()["code"]) == (422, "too_few_rows")
    assert "family 'nobody'" in refused.json()["detail"]
    assert start(admin, "nobody", dataset_ids=[junk["id"]]).json()["dataset_ids"] == [junk["id"]]
    listed = admin.get("/v1/datasets", params={"family": "sales"}).json()["items"]
    assert [one["id"] for one in listed] == [other["id"]]
    schedule = admin.post("/v1/admin/schedules", json={"family": "support", "cron": "0 3 * * *"}).json()
    assert admin.post(f"/v1/admin/schedules/{schedule['id']}/run-now").json()["code"] == "too_few_rows"
    moved = admin.patch(f"/v1/datasets/{junk['id']}", json={"family": "support"})
    assert (moved.status_code, moved.json()["family"]) == (200, "support")
    run = admin.post(f"/v1/admin/schedules/{schedule['id']}/run-now").json()
    assert run["dataset_ids"] == [junk["id"]]
    assert admin.patch(f"/v1/datasets/{junk['id']}", json={"family": "Not a name"}).status_code == 422
    bad = admin.post("/v1/datasets", files={"file": ("a.jsonl", b'{"instruction": "a", "output": "b"}')},
                     data={"family": "base"})  # fmt: skip
    assert (bad.status_code, bad.json()["code"]) == (422, "invalid_family")


def test_a_retired_set_is_out_of_force_until_it_is_taken_back(api: Api, admin: TestClient) -> None:
    keep, gone = upload(admin, "甲"), upload(admin, "乙")
    retired = admin.patch(f"/v1/datasets/{gone['id']}", json={"retired": True, "reason": "古い文体"}).json()
    assert (retired["row_count"], retired["retired_count"], retired["retired_reason"]) == (0, 30, "古い文体")
    assert start(admin, "house").json()["dataset_ids"] == [keep["id"]]
    named = start(admin, "house", dataset_ids=[gone["id"]])
    assert (named.status_code, named.json()["code"]) == (422, "dataset_retired")
    again = upload(admin, "乙")
    assert again["created"] is False and "dataset_retired" in [one["code"] for one in again["warnings"]]
    back = admin.patch(f"/v1/datasets/{gone['id']}", json={"retired": False}).json()
    assert (back["row_count"], back["retired_at"], back["retired_reason"]) == (30, None, None)
    assert start(admin, "house").json()["dataset_ids"] == [keep["id"], gone["id"]]
    actions = [one["action"] for one in admin.get(f"/v1/admin/audit?object_id={gone['id']}").json()["items"]]
    assert actions.count("dataset.change") == 2


def test_row_count_tells_the_truth_after_rows_were_retired(api: Api, admin: TestClient) -> None:
    found = upload(admin, "丙")
    path = f"/v1/datasets/{found['id']}"
    assert (found["row_count"], found["retired_count"]) == (30, 0)
    assert admin.get(f"{path}/quality").json()["rows"] == 30
    with api.database.write() as session:
        rows = session.scalars(select(DatasetRow).where(DatasetRow.dataset_id == found["id"])).all()
        session.add_all(RowSource(row_id=row.id, kind="document", source_id="doc_9") for row in rows[:12])
        session.flush()
        assert retire_rows(session, api.tenant.id, SourceKind.DOCUMENT, "doc_9", "deleted") == 12
    for shown in (admin.get(path).json(), admin.get("/v1/datasets").json()["items"][0], upload(admin, "丙")):
        assert (shown["row_count"], shown["retired_count"]) == (18, 12)
    assert admin.get(f"{path}/quality").json()["rows"] == 18, "flags quote no row that was retired"
    assert start(admin, "house").json()["code"] == "too_few_rows"


def test_the_same_row_many_times_is_one_row(admin: TestClient) -> None:
    text = "\n".join([json.dumps({"instruction": "何日?", "output": "25日。"})] * 40)
    found = admin.post("/v1/datasets", files={"file": ("a.jsonl", text.encode())}).json()
    refused = start(admin, "house", dataset_ids=[found["id"]]).json()
    assert (refused["code"], refused["rows"]) == ("too_few_rows", 1)


def test_a_deleted_set_is_gone_with_its_file_and_may_come_again(
    api: Api,
    admin: TestClient,
) -> None:
    found, twin = upload(admin, "丁"), upload(admin, "戊", family="sales")
    path = f"/v1/datasets/{found['id']}"
    run = start(admin, "house").json()
    busy = admin.delete(path)
    assert (busy.status_code, busy.json()["code"], busy.json()["run_id"]) == (409, "dataset_in_use", run["id"])
    end_runs(api)
    assert api.services.blobs.exists(found["source_sha256"])
    assert admin.delete(path).status_code == 204
    for method, where in (("GET", ""), ("GET", "/rows"), ("GET", "/quality"), ("DELETE", ""), ("PATCH", "")):
        body = {"retired": True} if method == "PATCH" else None
        assert admin.request(method, path + where, json=body).status_code == 404
    assert not api.services.blobs.exists(found["source_sha256"])
    assert [one["id"] for one in admin.get("/v1/datasets").json()["items"]] == [twin["id"]]
    assert start(admin, "house", dataset_ids=[found["id"]]).json()["code"] == "dataset_not_found"
    with api.database.read() as session:
        assert session.scalar(select(DatasetRow.id).where(DatasetRow.dataset_id == found["id"])) is None
        assert all(api.services.blobs.exists(digest) for digest, _ in named_blobs(session))
    assert upload(admin, "丁")["created"] is True


def test_what_a_run_saw_of_a_deleted_set_is_kept_without_its_text(api: Api, admin: TestClient) -> None:
    found = upload(admin, "己")
    version = api.add_version()
    run = start(admin, "house").json()
    end_runs(api)
    with api.database.write() as session:
        row = session.scalars(select(DatasetRow).where(DatasetRow.dataset_id == found["id"])).first()
        assert row is not None
        session.add_all([RowSource(row_id=row.id, kind="feedback", source_id="fbk_1"),
                         RunRow(run_id=run["id"], row_id=row.id, part="train")])  # fmt: skip
        session.query(AdapterVersion).filter_by(version=version).one().run_id = run["id"]
        row_id = row.id
    assert admin.delete(f"/v1/datasets/{found['id']}").status_code == 204
    with api.database.read() as session:
        left = session.scalars(select(DatasetRow).where(DatasetRow.dataset_id == found["id"])).all()
        assert [(row.id, row.content, row.lineage) for row in left] == [(row_id, {}, {})]
        assert left[0].retired_at is not None
        saw = versions_that_saw(session, api.tenant.id, SourceKind.FEEDBACK, "fbk_1")
        assert [one.version for one in saw] == [version]
        assert session.get_one(TuningRun, run["id"]).dataset_ids == [found["id"]]
    assert admin.get("/v1/datasets").json()["items"] == []
    assert admin.get(f"/v1/datasets/{found['id']}").status_code == 404
    assert upload(admin, "己")["created"] is True


@pytest.mark.parametrize(
    ("row", "codes"),
    [
        ({}, ["no_passages"]),
        ({"passages": ["倉庫は別の建物にあります。"]}, ["no_citations"]),
        ({"passages": ["倉庫は別の建物にあります。"], "output": "倉庫は別の建物です[1]。"}, []),
        ({"passages": ["年に25日の休みがあります。"], "output": "年に25日の休みがあります。"}, []),
    ],
)
def test_a_set_that_cannot_pass_the_gate_is_told_at_upload_and_at_the_request(
    admin: TestClient, row: dict[str, Any], codes: list[str]
) -> None:
    found = upload(admin, "文体", **row)
    assert [one["code"] for one in found["warnings"]] == codes
    assert [one["code"] for one in admin.get(f"/v1/datasets/{found['id']}").json()["warnings"]] == codes
    run = start(admin, "house")
    codes = [*codes, "gate_sees_little"]  # of any set as small as this
    assert run.status_code == 202 and [one["code"] for one in run.json()["warnings"]] == codes
    shown = admin.get(f"/v1/admin/tuning-runs/{run.json()['id']}").json()
    assert [one["code"] for one in shown["warnings"]] == codes


def test_a_set_beside_one_with_passages_is_no_reason_for_a_warning(admin: TestClient) -> None:
    upload(admin, "素")
    upload(admin, "典拠", passages=["年に25日の休みがあります。"], output="年に25日の休みがあります[1]。")
    assert [one["code"] for one in start(admin, "house").json()["warnings"]] == ["gate_sees_little"]


def test_sets_of_a_tenant_are_read_one_at_a_time(
    api: Api, admin: TestClient, other_tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.datasets.TURN_TIMEOUT_S", 0.05)
    other = api.client(api.key("tune", tenant=other_tenant))
    files = {"file": ("a.jsonl", b'{"instruction": "Days?", "output": "25."}')}
    with api.app.state.dataset_turns.turn(api.tenant.id, 1):
        refused = admin.post("/v1/datasets", files=files)
        assert (refused.status_code, refused.json()["code"]) == (503, "uploads_busy")
        assert other.post("/v1/datasets", files=files).status_code == 201
    assert admin.post("/v1/datasets", files=files).status_code == 201
