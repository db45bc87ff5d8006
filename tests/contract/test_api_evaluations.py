"""Evaluations over HTTP: asked as a job of the service as it serves, by admins of one tenant, and compared."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from core.errors import Unavailable
from core.tables import Answer, AnswerFailure, EvaluationOutcome, Tenant
from generation.evaluation.runner import EvaluationRunner
from tests.api_app import Api
from workers.base import run_job

LEAVE = {
    "id": "leave", "question": "How many days of leave?", "expected": [["25 days", "25日"]], "kind": "number",
    "documents": ["handbook.md"],
}  # fmt: skip
NOTICE = {"id": "notice", "question": "退職の予告期間は？", "expected": "三か月", "kind": "rule"}
WEATHER = {"id": "weather", "question": "Will it rain tomorrow?", "unanswerable": True, "kind": "off"}
QUESTIONS = [LEAVE, NOTICE, WEATHER]


def work(api: Api, run: dict[str, Any], draining: threading.Event | None = None) -> dict[str, Any]:
    """Do the run's job once; the run as it is afterwards."""
    runner = EvaluationRunner(api.database, api.services.answers, api.services.settings, draining)
    run_job(api.services.jobs, run["job"]["id"], runner.run)
    with api.client() as client:
        return client.get(f"/v1/admin/evaluations/{run['id']}").json()


def start(admin: TestClient, **body: Any) -> dict[str, Any]:
    answer = admin.post("/v1/admin/evaluations", json={"questions": QUESTIONS, **body})
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_a_run_asks_judges_and_reports(api: Api, admin: TestClient) -> None:
    ended = work(api, start(admin))
    assert ended["status"] == "succeeded" and ended["question_count"] == 3
    report = ended["report"]
    assert report["right"] == {"count": 1, "of": 2, "share": 0.5, "low": 0.0945, "high": 0.9055}
    assert report["wrong"]["count"] == 2 and report["refused_rightly"]["count"] == 0
    assert report["verified_wrong"]["of"] == 3
    assert report["by_kind"]["number"]["right"]["count"] == 1 and report["by_kind"]["rule"]["right"]["count"] == 0
    assert set(report["by_language"]) == {"en", "ja"}
    assert ended["conditions"]["index_version"] == "iv" and ended["conditions"]["calibration"] == "shipped"
    outcomes = admin.get(f"/v1/admin/evaluations/{ended['id']}/outcomes").json()["items"]
    assert [one["status"] for one in outcomes] == ["right", "wrong", "wrong"]
    leave = outcomes[0]["outcome"]
    assert leave["answer"] == "25 days [1]." and leave["cited"] is True and leave["evidence_found"] is True
    assert leave["citations"][0]["filename"] == "handbook.md"
    assert outcomes[1]["outcome"]["why"] == "lacks 三か月" and outcomes[1]["outcome"]["evidence_found"] is False


def test_its_answers_count_for_nothing_else(api: Api, admin: TestClient) -> None:
    work(api, start(admin))
    api.engine.error = Unavailable("gone")
    work(api, start(admin))
    with api.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Answer)) == 0
        assert session.scalar(select(func.count()).select_from(AnswerFailure)) == 0
    assert len(api.engine.requests) == 3


def test_outcomes_come_in_pages_and_by_status(api: Api, admin: TestClient) -> None:
    url = f"/v1/admin/evaluations/{work(api, start(admin))['id']}/outcomes"
    first = admin.get(url, params={"limit": 2}).json()
    assert [one["ordinal"] for one in first["items"]] == [1, 2] and first["next_after"] == 2
    rest = admin.get(url, params={"limit": 2, "after": 2}).json()
    assert [one["ordinal"] for one in rest["items"]] == [3] and rest["next_after"] is None
    wrong = admin.get(url, params={"status": "wrong"}).json()["items"]
    assert [one["question"]["id"] for one in wrong] == ["notice", "weather"]
    assert [one["ordinal"] for one in admin.get(url, params={"kind": "off"}).json()["items"]] == [3]
    assert admin.get(url, params={"status": "nonsense"}).status_code == 422


def test_a_run_is_compared_with_the_last_of_its_name(api: Api, admin: TestClient) -> None:
    first = work(api, start(admin, name="staff"))
    assert first["comparison"] is None
    api.engine.pieces = ("I could not find ", "this in the documents.")
    other = work(api, start(admin, name="other"))
    assert other["compared_with"] is None
    second = work(api, start(admin, name="staff"))
    assert second["compared_with"] == first["id"]
    comparison = second["comparison"]
    assert (comparison["paired"], comparison["gained"], comparison["lost"], comparison["p"]) == (3, 1, 1, 1.0)
    assert {one["id"]: (one["before"], one["now"]) for one in comparison["changed"]} == {
        "leave": ("right", "refused"), "notice": ("wrong", "refused"), "weather": ("wrong", "right"),
    }  # fmt: skip
    assert comparison["conditions"] == {}
    chosen = admin.get(f"/v1/admin/evaluations/{second['id']}", params={"compare_to": other["id"]}).json()
    assert chosen["comparison"]["run_id"] == other["id"] and chosen["comparison"]["changed_count"] == 0


def test_a_question_whose_labels_changed_is_another_one(api: Api, admin: TestClient) -> None:
    work(api, start(admin))
    changed = [{**LEAVE, "expected": "26 days"}, NOTICE]
    ended = work(api, start(admin, questions=changed))
    assert ended["comparison"]["paired"] == 1 and ended["comparison"]["unpaired"] == 1


def test_stored_sets(api: Api, admin: TestClient) -> None:
    made = admin.post("/v1/admin/evaluation-sets", json={"name": "社内", "questions": QUESTIONS})
    assert made.status_code == 201 and made.json()["question_count"] == 3
    assert made.json()["questions"][1]["language"] == "ja"
    again = admin.post("/v1/admin/evaluation-sets", json={"name": "社内", "questions": QUESTIONS})
    assert again.status_code == 409 and again.json()["code"] == "evaluation_set_exists"
    listed = admin.get("/v1/admin/evaluation-sets").json()["items"]
    assert [one["name"] for one in listed] == ["社内"] and listed[0]["questions"] is None
    run = admin.post("/v1/admin/evaluations", json={"set": "社内", "kinds": ["number", "rule"], "limit": 1}).json()
    assert run["name"] == "社内" and run["question_count"] == 1
    assert admin.delete(f"/v1/admin/evaluation-sets/{made.json()['id']}").status_code == 200
    assert admin.get(f"/v1/admin/evaluation-sets/{made.json()['id']}").status_code == 404
    assert work(api, run)["status"] == "succeeded"  # it holds its questions itself


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_questions"),
        ({"questions": QUESTIONS, "set": "x"}, "invalid_questions"),
        ({"questions": [{"question": "why?"}]}, "invalid_questions"),
        ({"questions": [LEAVE, LEAVE]}, "invalid_questions"),
        ({"questions": [{**LEAVE, "expect": "1"}]}, "invalid_questions"),
        ({"questions": [{**WEATHER, "expected": "rain"}]}, "invalid_questions"),
        ({"questions": [{**LEAVE, "expected": " "}]}, "invalid_questions"),
        ({"questions": QUESTIONS, "kinds": ["none"]}, "no_questions"),
        ({"questions": QUESTIONS, "adapter": "nobody"}, "model_not_found"),
        ({"questions": QUESTIONS, "collection": "nowhere"}, "collection_not_found"),
        ({"questions": QUESTIONS, "compare_to": "evr_none"}, "not_found"),
        ({"set": "none"}, "not_found"),
    ],
)
def test_what_cannot_be_asked_is_refused(admin: TestClient, body: dict[str, Any], code: str) -> None:
    answer = admin.post("/v1/admin/evaluations", json=body)
    assert answer.status_code in {404, 422} and answer.json()["code"] == code, answer.text


def test_errors_name_the_question(admin: TestClient) -> None:
    answer = admin.post("/v1/admin/evaluations", json={"questions": [LEAVE, {"question": "why?"}]})
    assert answer.json()["errors"][0]["location"] == "questions.2"


def test_only_admins_of_the_same_tenant_see_it(api: Api, admin: TestClient, other_tenant: Tenant) -> None:
    run = start(admin)
    made = admin.post("/v1/admin/evaluation-sets", json={"name": "mine", "questions": QUESTIONS}).json()
    with api.client(api.key("query", "tune", "feedback")) as client:
        assert client.get(f"/v1/admin/evaluations/{run['id']}").status_code == 403
        assert client.post("/v1/admin/evaluations", json={"questions": QUESTIONS}).status_code == 403
    with api.client(api.key("admin", tenant=other_tenant)) as client:
        for path in (f"evaluations/{run['id']}", f"evaluations/{run['id']}/outcomes", f"evaluation-sets/{made['id']}"):
            assert client.get(f"/v1/admin/{path}").status_code == 404
        assert client.post(f"/v1/admin/evaluations/{run['id']}/cancel").status_code == 404
        assert client.delete(f"/v1/admin/evaluations/{run['id']}").status_code == 404
        assert client.delete("/v1/admin/evaluation-sets/mine").status_code == 404
        assert client.post("/v1/admin/evaluations", json={"set": "mine"}).status_code == 404
        body = {"questions": QUESTIONS, "compare_to": run["id"]}
        assert client.post("/v1/admin/evaluations", json=body).status_code == 404
        assert client.get("/v1/admin/evaluations").json()["items"] == []


def test_a_run_is_asked_with_the_callers_access(api: Api, admin: TestClient) -> None:
    work(api, start(admin))
    seen = api.search.seen[-1]
    assert seen.tenant_id == api.tenant.id and seen.groups is None  # an admin key reads every group of its tenant


def test_a_cancelled_run_stops_half_way_and_reports_what_it_has(api: Api, admin: TestClient) -> None:
    api.engine.gate = threading.Event()  # the first answer does not end
    asked, submit = threading.Event(), api.engine.submit
    api.engine.submit = lambda request: (submit(request), asked.set())[0]  # type: ignore[method-assign]
    run = start(admin)
    runner = EvaluationRunner(api.database, api.services.answers, api.services.settings)
    thread = threading.Thread(target=run_job, args=(api.services.jobs, run["job"]["id"], runner.run))
    thread.start()
    assert asked.wait(20)
    assert admin.post(f"/v1/admin/evaluations/{run['id']}/cancel").status_code == 202
    api.engine.gate.set()
    thread.join(20)
    assert not thread.is_alive()
    ended = admin.get(f"/v1/admin/evaluations/{run['id']}").json()
    assert ended["status"] == "cancelled" and ended["report"]["questions"] < 3
    assert len(api.engine.handles) < 3
    assert admin.post(f"/v1/admin/evaluations/{run['id']}/cancel").status_code == 202  # twice is fine


def test_a_run_that_was_interrupted_asks_the_rest_only(api: Api, admin: TestClient) -> None:
    run, draining = start(admin), threading.Event()
    answered = api.services.answers.ask

    def ask_and_drain(*given: Any) -> Any:
        draining.set()
        return answered(*given)

    api.services.answers.ask = ask_and_drain  # type: ignore[method-assign]
    halted = work(api, run, draining)
    assert halted["status"] == "queued" and halted["report"] is None
    assert len(api.engine.requests) == 1
    api.services.answers.ask = answered  # type: ignore[method-assign]
    ended = work(api, run)
    assert ended["status"] == "succeeded" and ended["report"]["questions"] == 3
    assert len(api.engine.requests) == 3


def test_a_busy_generator_postpones_and_costs_no_attempt(api: Api, admin: TestClient) -> None:
    api.engine.error = Unavailable("full", code="queue_full")
    waiting = work(api, start(admin))
    assert waiting["status"] == "queued" and waiting["job"]["error"]["code"] == "queue_full"


def test_a_question_that_cannot_be_asked_fails_alone(api: Api, admin: TestClient) -> None:
    ended = work(api, start(admin, questions=[{**LEAVE, "collection": "nowhere"}, NOTICE]))
    assert ended["status"] == "succeeded" and ended["report"]["failed"] == 1
    failed = admin.get(f"/v1/admin/evaluations/{ended['id']}/outcomes", params={"status": "failed"}).json()["items"]
    assert failed[0]["outcome"]["error"]["code"] == "collection_not_found"


def test_an_ended_run_can_be_deleted_and_a_waiting_one_not(api: Api, admin: TestClient) -> None:
    run = start(admin)
    refused = admin.delete(f"/v1/admin/evaluations/{run['id']}")
    assert refused.status_code == 409 and refused.json()["code"] == "evaluation_running"
    work(api, run)
    assert admin.delete(f"/v1/admin/evaluations/{run['id']}").status_code == 200
    assert admin.get(f"/v1/admin/evaluations/{run['id']}").status_code == 404
    with api.database.read() as session:
        assert session.scalar(select(func.count()).select_from(EvaluationOutcome)) == 0


def test_too_many_questions_are_refused(admin: TestClient) -> None:
    many = [{"question": f"q {number}", "unanswerable": True} for number in range(10_001)]
    answer = admin.post("/v1/admin/evaluations", json={"questions": many})
    assert answer.status_code == 422, answer.text


def test_ten_thousand_questions_are_taken(admin: TestClient) -> None:
    many = [{"question": f"q {number}", "unanswerable": True} for number in range(10_000)]
    assert start(admin, questions=many)["question_count"] == 10_000
