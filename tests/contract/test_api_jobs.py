"""Documents and their jobs over HTTP, with the real job store: lists, events, cancel, retry."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from core.errors import ExtractionFailed
from tests.api_app import Api, serve


def add(client: TestClient, name: str = "a.txt", text: str = "some text") -> Any:
    answer = client.post("/v1/documents", files={"file": (name, text.encode())})
    assert answer.status_code == 202, answer.text
    return answer.json()["items"][0]


def fail(api: Api, job_id: str, code: str = "broken_pdf") -> None:
    lease = api.services.jobs.claim(job_id, "worker")
    assert lease is not None
    lease.fail(ExtractionFailed("it is broken", code=code))


def test_many_files_in_one_upload(admin: TestClient) -> None:
    files = [("file", (f"{n}.txt", f"text {n}".encode())) for n in range(3)]
    data = {"metadata": '{"kind": "memo"}', "groups": '["hr", "it"]', "collection": "notes"}
    items = admin.post("/v1/documents", files=files, data=data).json()["items"]
    assert [item["document"]["filename"] for item in items] == ["0.txt", "1.txt", "2.txt"]
    assert all(item["document"]["groups"] == ["hr", "it"] for item in items)
    assert all(item["document"]["metadata"] == {"kind": "memo"} for item in items)
    assert all(item["job"]["subject_id"] == item["document"]["id"] for item in items)
    assert len(admin.get("/v1/documents?collection=notes").json()["items"]) == 3
    assert admin.get("/v1/documents?collection=default").json()["items"] == []
    assert admin.get("/v1/documents?status=ready").json()["items"] == []


def test_text_as_json_unchanged_and_replaced(admin: TestClient) -> None:
    body = {"text": "価格は100円", "filename": "価格.txt", "external_id": "price"}
    first = admin.post("/v1/documents", json=body).json()["items"][0]
    again = admin.post("/v1/documents", json=body).json()["items"][0]
    assert (first["unchanged"], again["unchanged"]) == (False, True)
    assert (again["document"]["id"], again["job"]["id"]) == (first["document"]["id"], first["job"]["id"])
    changed = admin.post("/v1/documents", json={**body, "text": "価格は200円"}).json()["items"][0]
    assert changed["document"]["id"] == first["document"]["id"]
    assert changed["document"]["generation"] == 2
    assert [item["id"] for item in admin.get("/v1/documents?external_id=price").json()["items"]] == [
        first["document"]["id"]
    ]


def test_content_is_sent_as_an_attachment_that_no_browser_runs(admin: TestClient) -> None:
    item = add(admin, "悪い 文書.html", "<script>alert(1)</script>")
    answer = admin.get(f"/v1/documents/{item['document']['id']}/content")
    assert answer.text == "<script>alert(1)</script>"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''%E6%82%AA")
    text = admin.get(f"/v1/documents/{item['document']['id']}/content?as=text")
    assert text.status_code == 404, "it was not extracted yet"
    assert admin.get(f"/v1/documents/{item['document']['id']}/content?as=pdf").status_code == 422


def test_lists_go_on_behind_their_cursor_while_rows_are_added(admin: TestClient) -> None:
    ids = [add(admin, f"{n}.txt", f"text {n}")["document"]["id"] for n in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        page = admin.get("/v1/documents", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [item["id"] for item in page["items"]]
        add(admin, f"late-{len(seen)}.txt", f"late {len(seen)}")
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]


def test_failed_jobs_are_found_by_code_and_retried_together(api: Api, admin: TestClient) -> None:
    jobs = [add(admin, f"{n}.txt", f"text {n}")["job"]["id"] for n in range(3)]
    fail(api, jobs[0])
    fail(api, jobs[1])
    fail(api, jobs[2], "no_text")
    assert len(admin.get("/v1/jobs?status=failed").json()["items"]) == 3
    assert {job["id"] for job in admin.get("/v1/jobs?code=broken_pdf").json()["items"]} == set(jobs[:2])
    assert admin.get(f"/v1/jobs/{jobs[2]}").json()["error"]["code"] == "no_text"
    retried = admin.post("/v1/jobs/retry?code=broken_pdf")
    assert {job["id"] for job in retried.json()["items"]} == set(jobs[:2])
    assert {job["id"] for job in admin.get("/v1/jobs?status=queued&kind=ingest").json()["items"]} == set(jobs[:2])
    again = admin.post(f"/v1/jobs/{jobs[0]}/retry")
    assert (again.status_code, again.json()["code"]) == (409, "job_not_retryable")
    assert admin.post(f"/v1/jobs/{jobs[2]}/retry").json()["status"] == "queued"
    actions = [entry["action"] for entry in admin.get("/v1/admin/audit").json()["items"]]
    assert actions.count("job.retry") == 3


def test_cancel(api: Api, admin: TestClient) -> None:
    item = add(admin)
    cancelled = admin.post(f"/v1/jobs/{item['job']['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    document = admin.get(f"/v1/documents/{item['document']['id']}").json()
    assert (document["status"], document["error"]["code"]) == ("failed", "cancelled")


def test_delete_hides_nothing_of_its_job(admin: TestClient) -> None:
    item = add(admin)
    deleted = admin.delete(f"/v1/documents/{item['document']['id']}")
    assert deleted.status_code == 202
    assert deleted.json()["document"]["status"] == "deleting"
    assert deleted.json()["job"]["kind"] == "delete"
    again = admin.delete(f"/v1/documents/{item['document']['id']}")
    assert again.json()["job"]["id"] == deleted.json()["job"]["id"]
    assert [entry["action"] for entry in admin.get("/v1/admin/audit").json()["items"]].count("document.delete") == 1


def test_events_follow_a_job_to_its_end(api: Api, api_url: str) -> None:
    with api.client() as admin:
        job_id = add(admin)["job"]["id"]
    headers = {"Authorization": f"Bearer {api.admin}", "Last-Event-ID": "7"}
    seen: list[dict[str, Any]] = []
    with httpx.stream("GET", f"{api_url}/v1/jobs/{job_id}/events", headers=headers, timeout=20) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("event:"):
                assert line == "event: job"
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
                if len(seen) == 1:
                    lease = api.services.jobs.claim(job_id, "worker")
                    assert lease is not None
                elif len(seen) == 2:
                    lease.progress("extract", 0.25)
                elif len(seen) == 3:
                    lease.succeed()
    assert [(job["status"], job["stage"]) for job in seen] == [
        ("queued", None), ("running", None), ("running", "extract"), ("succeeded", "extract"),
    ]  # fmt: skip
    assert [job["progress"] for job in seen] == [0, 0, 0.25, 1]


def test_events_of_an_ended_job_are_one(api: Api, admin: TestClient) -> None:
    job_id = add(admin)["job"]["id"]
    fail(api, job_id)
    text = admin.get(f"/v1/jobs/{job_id}/events").text
    assert text.count("event: job") == 1
    assert '"status":"failed"' in text


def test_a_change_by_another_process_is_seen_within_a_second_or_two(api: Api, api_url: str) -> None:
    with api.client() as admin:
        job_id = add(admin)["job"]["id"]
    headers = {"Authorization": f"Bearer {api.admin}"}
    with httpx.stream("GET", f"{api_url}/v1/jobs/{job_id}/events", headers=headers, timeout=5) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: job"
        with api.database.engine.begin() as connection:  # past the notifier, as another process would
            connection.exec_driver_sql("UPDATE jobs SET status = 'cancelled' WHERE id = ?", (job_id,))
        assert any('"status":"cancelled"' in line for line in lines)


def test_draining_ends_event_streams_and_readiness(api: Api) -> None:
    with serve(api.app) as url, api.client() as admin:
        job_id = add(admin)["job"]["id"]
        headers = {"Authorization": f"Bearer {api.admin}"}
        with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events", headers=headers, timeout=10) as stream:
            lines = stream.iter_lines()
            next(lines)
            threading.Timer(0.1, api.services.draining.set).start()
            assert '"status":"queued"' in list(lines)[-2]
        answer = httpx.get(f"{url}/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")


@pytest.mark.parametrize("broken", [False, True])
def test_readiness_names_each_dependency(api: Api, admin: TestClient, broken: bool) -> None:
    from api.services import Check

    def probe() -> str:
        if broken:
            raise OSError("no such socket /tmp/secret")
        return "fine"

    api.services.checks = (Check("index", probe),)
    answer = admin.get("/readyz")
    assert answer.status_code == (503 if broken else 200)
    checks = answer.json()["checks"]
    assert checks["database"]["state"] == "ok"
    assert checks["index"]["state"] == ("failing" if broken else "ok")
    assert "secret" not in answer.text


def test_metrics_count_requests_by_route_not_by_id(api: Api, admin: TestClient) -> None:
    job_id = add(admin)["job"]["id"]
    admin.get(f"/v1/jobs/{job_id}")
    admin.post("/v1/ask", json={"question": "days?"})
    text = admin.get("/metrics").text
    assert 'tsumugi_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"} 1.0' in text
    assert 'tsumugi_jobs{kind="ingest",status="queued"} 1.0' in text
    assert 'tsumugi_answers_total{outcome="answered"} 1.0' in text
    assert job_id not in text
    assert api.client(headers={}).get("/metrics").status_code == 401


def test_metrics_can_be_opened(settings: Any, database: Any) -> None:
    from tests.api_app import build_api

    http = settings.http.model_copy(update={"metrics_open": True})
    open_api = build_api(settings.model_copy(update={"http": http}), database)
    assert open_api.client(headers={}).get("/metrics").status_code == 200
