"""Canaries over HTTP: real answers, real votes, the monitor's looks; policy, groups and shadow."""

from __future__ import annotations

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from core.errors import Unavailable
from core.tables import AdapterAlias, Answer, AnswerFailure, CanaryTrial, Feedback, ShadowAnswer
from core.tables.base import utc_now
from core.types import GenerationRequest
from generation.adapters.routing import in_canary
from generation.answer import AnswerService, Stamp
from generation.canary.monitor import CanaryMonitor
from generation.canary.shadow import ShadowRunner
from tests.api_app import Api

HOUSE = "/v1/admin/adapters/house"
POLICY = {"canary_conversations": 20, "settle_s": 60, "false_alarm": 0.05, "weights": {"down_vote": 1.0}}


@pytest.fixture
def monitor(api: Api) -> CanaryMonitor:
    return CanaryMonitor(api.database, api.services.registry)


def start(api: Api, admin: TestClient, policy: dict) -> None:
    for _ in range(2):
        api.add_version()
    assert admin.put(f"{HOUSE}/policy", json=policy).status_code == 200
    assert admin.post(f"{HOUSE}/promote", json={"version": "v1"}).status_code == 200
    assert admin.post(f"{HOUSE}/promote", json={"version": "v2", "canary_percent": 50}).status_code == 200


def converse(admin: TestClient, number: int, *, down_on: str | None) -> str:
    given = admin.post("/v1/ask", json={"question": "days?", "conversation_id": f"c{number}"}).json()
    version = str(given["provenance"]["adapter"])
    if version == down_on:
        assert admin.post(f"/v1/answers/{given['id']}/feedback", json={"rating": "down"}).status_code == 201
    return version


def test_votes_against_the_canary_roll_it_back_with_the_reason(
    api: Api, admin: TestClient, monitor: CanaryMonitor
) -> None:
    start(api, admin, POLICY)
    served = [converse(admin, number, down_on="house@v2") for number in range(30)]
    assert {"house@v1", "house@v2"} == set(served)
    assert list(monitor.look()) == [], "nothing has settled"
    early = admin.get(f"{HOUSE}/canaries").json()["items"][0]
    assert early["outcome"] == "running" and early["figures"]["conversations"] == {"canary": 0, "champion": 0}
    later = utc_now() + timedelta(seconds=61)
    (ended,) = monitor.look(later)
    trial = admin.get(f"{HOUSE}/canaries").json()["items"][0]
    assert (trial["id"], trial["outcome"], trial["version"], trial["champion"]) == (ended, "rolled_back", "v2", "v1")
    assert trial["figures"]["conversations"] == {
        "canary": served.count("house@v2"), "champion": served.count("house@v1"),
    }  # fmt: skip
    assert trial["figures"]["figures"]["down_vote"]["canary"] == 1.0
    assert "mostly by down_vote" in trial["reason"]
    event = admin.get(f"{HOUSE}/history").json()["items"][0]
    assert (event["action"], event["alias"], event["actor"]) == ("rollback", "canary", "system:policy")
    assert event["reason"] == trial["reason"]
    entry = admin.get("/v1/admin/audit?object_id=house").json()["items"][0]
    assert (entry["action"], entry["actor"]) == ("adapter.rollback", "system:policy")
    assert {converse(admin, number, down_on=None) for number in range(30)} == {"house@v1"}
    assert list(monitor.look(later + timedelta(hours=1))) == [], "a trial ends once"


def test_a_decision_survives_a_death_before_the_alias_moved(
    api: Api, admin: TestClient, monitor: CanaryMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(api, admin, POLICY)
    for number in range(30):
        converse(admin, number, down_on="house@v2")

    def die(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api.services.registry, "rollback", die)
    later = utc_now() + timedelta(seconds=61)
    with pytest.raises(KeyboardInterrupt):
        monitor.look(later)
    monkeypatch.undo()
    assert admin.get(HOUSE).json()["canary"] == "v2"
    monitor.look(later + timedelta(seconds=15))
    assert admin.get(HOUSE).json()["canary"] is None


def test_a_hand_on_the_alias_ends_the_trial(api: Api, admin: TestClient, monitor: CanaryMonitor) -> None:
    start(api, admin, POLICY)
    monitor.look()
    assert admin.post(f"{HOUSE}/rollback", json={"reason": "not now"}).status_code == 200
    monitor.look()
    trial = admin.get(f"{HOUSE}/canaries").json()["items"][0]
    assert (trial["outcome"], trial["reason"]) == ("ended", "the canary was moved by hand")


def test_by_rule_a_candidate_becomes_canary_and_champion_by_itself(
    api: Api, admin: TestClient, monitor: CanaryMonitor
) -> None:
    api.add_version()
    admin.put(f"{HOUSE}/policy", json={**POLICY, "promotion": "by_rule", "canary_percent": 50, "max_worse": 0.2})
    monitor.look()
    assert admin.get(HOUSE).json()["canary"] == "v1", "against the base"
    served = [converse(admin, number, down_on=None) for number in range(60)]
    assert served.count("house@v1") >= 20 and "None" in served
    monitor.look(utc_now() + timedelta(seconds=61))
    shown = admin.get(HOUSE).json()
    assert (shown["champion"], shown["canary"]) == ("v1", None)
    trial = admin.get(f"{HOUSE}/canaries").json()["items"][0]
    assert (trial["outcome"], trial["champion"]) == ("promoted", None)
    monitor.look(utc_now() + timedelta(seconds=90))
    assert admin.get(HOUSE).json()["canary"] is None, "what was tried is not tried again"


def test_only_what_the_alias_chose_counts_and_late_votes_do_not(
    api: Api, admin: TestClient, monitor: CanaryMonitor
) -> None:
    start(api, admin, POLICY)
    admin.post("/v1/ask", json={"question": "days?", "adapter": "house@v2", "conversation_id": "named"})
    mine = next(number for number in range(99) if converse(admin, number, down_on="house@v2") == "house@v2")
    with api.database.write() as session:
        session.execute(update(Feedback).values(created_at=utc_now() + timedelta(seconds=70)))
    monitor.look(utc_now() + timedelta(seconds=200))
    figures = admin.get(f"{HOUSE}/canaries").json()["items"][0]["figures"]
    assert figures["conversations"] == {"canary": 1, "champion": mine}
    assert figures["figures"]["down_vote"]["canary_events"] == 0


CHAT = {"model": "tsumugi", "messages": [{"role": "user", "content": "days?"}]}


def test_clients_that_know_no_conversations_are_drawn_by_user_or_by_request(
    api: Api, admin: TestClient, monitor: CanaryMonitor
) -> None:
    start(api, admin, POLICY)

    def chat(**body: str) -> dict:
        return admin.post("/v1/chat/completions", json=CHAT | body).json()["provenance"]

    arms: dict[str, str] = {}
    for number in range(12):
        given = [chat(user=f"person {number}") for _ in range(2)]
        trials = [one["trial"] for one in given]
        assert trials[0] == trials[1] and trials[0]["drawn_by"] == "user", "a user stays on one side"
        assert "person" not in str(trials), "what a client calls its user is not shown or kept"
        assert given[0]["adapter"] == ("house@v2" if trials[0]["arm"] == "canary" else "house@v1")
        arms[trials[0]["unit"]] = trials[0]["arm"]
    assert set(arms.values()) == {"canary", "champion"}
    assert chat(user="person 0", conversation_id="c1")["trial"]["drawn_by"] == "conversation"
    assert chat(safety_identifier="person 0")["trial"]["unit"] == chat(user="person 0")["trial"]["unit"]
    alone = [chat()["trial"] for _ in range(16)] + [
        admin.post("/v1/ask", json={"question": "days?"}).json()["provenance"]["trial"] for _ in range(8)
    ]
    assert {one["drawn_by"] for one in alone} == {"request"} and {one["arm"] for one in alone} == set(arms.values())
    monitor.look(utc_now() + timedelta(seconds=61))
    counted = admin.get(f"{HOUSE}/canaries").json()["items"][0]["figures"]["conversations"]
    drawn = [*arms.values(), *(one["arm"] for one in alone)]
    assert counted["canary"] + counted["champion"] == len(drawn) + 1, "a user counts once, a request for itself"
    admin.post(f"{HOUSE}/rollback", json={"reason": "enough"})
    assert "trial" not in chat(user="person 0")


def test_a_canary_without_traffic_says_so_and_ends(api: Api, admin: TestClient, monitor: CanaryMonitor) -> None:
    start(api, admin, {**POLICY, "idle_days": 2})
    admin.post("/v1/ask", json={"question": "days?", "adapter": "house@v2"})  # by name: no traffic of the trial
    monitor.look(utc_now() + timedelta(days=1))
    running = admin.get(f"{HOUSE}/canaries").json()["items"][0]
    assert running["outcome"] == "running" and running["figures"]["last_canary_at"] is None
    assert running["figures"]["ends_without_traffic_at"][:10] == str((utc_now() + timedelta(days=2)).date())
    (ended,) = monitor.look(utc_now() + timedelta(days=2, minutes=2))
    trial = admin.get(f"{HOUSE}/canaries").json()["items"][0]
    assert (trial["id"], trial["outcome"]) == (ended, "no_traffic")
    assert trial["reason"].startswith("nothing fell to the canary for 2 days (0 of 20")
    assert admin.get(HOUSE).json()["canary"] is None, "the alias is free again"
    assert admin.get(HOUSE).json()["champion"] == "v1"


def test_an_answer_that_breaks_off_is_held_against_its_arm(
    api: Api, admin: TestClient, monitor: CanaryMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(api, admin, {**POLICY, "weights": {"error": 1.0}})
    with api.database.read() as session:
        alias = session.scalars(select(AdapterAlias).where(AdapterAlias.alias == "canary")).one()
    number = next(n for n in range(99) if in_canary(alias.family_id, str(alias.version_id), f"c{n}", 50))
    submit = api.engine.submit

    def breaks(request: object) -> object:
        handle = submit(request)  # type: ignore[arg-type]

        class Broken(type(handle)):  # type: ignore[misc]
            def __iter__(self) -> object:
                yield "25 "
                raise Unavailable("the generator stopped")

        handle.__class__ = Broken
        return handle

    monkeypatch.setattr(api.engine, "submit", breaks)
    assert admin.post("/v1/ask", json={"question": "days?", "conversation_id": f"c{number}"}).status_code == 503
    with api.database.read() as session:
        failure = session.scalars(select(AnswerFailure)).one()
    assert (failure.arm, failure.code, failure.adapter_version_id) == ("canary", "unavailable", alias.version_id)
    monitor.look(utc_now() + timedelta(seconds=61))
    figures = admin.get(f"{HOUSE}/canaries").json()["items"][0]["figures"]
    assert figures["figures"]["error"]["canary"] == 1.0


def test_a_family_for_some_groups_does_not_exist_for_others(api: Api, admin: TestClient) -> None:
    api.add_version()
    admin.post(f"{HOUSE}/promote", json={"version": "v1"})
    admin.put(f"{HOUSE}/policy", json={"groups": ["hr"]})
    inside, outside = api.client(api.key("query", groups=["hr"])), api.client(api.key("query", groups=["sales"]))
    body = {"question": "days?"}
    assert inside.post("/v1/ask", json=body).json()["provenance"]["adapter"] == "house@v1"
    assert outside.post("/v1/ask", json=body).json()["provenance"]["adapter"] is None
    for name in ("house", "house@v1"):
        refused = outside.post("/v1/ask", json={**body, "adapter": name})
        assert (refused.status_code, refused.json()["code"]) == (404, "model_not_found")
    assert "tsumugi:house" in [model["id"] for model in inside.get("/v1/models").json()["data"]]
    assert "tsumugi:house" not in [model["id"] for model in outside.get("/v1/models").json()["data"]]


def test_policies_are_checked_audited_and_need_an_admin(api: Api, admin: TestClient) -> None:
    api.add_version()
    assert admin.get(f"{HOUSE}/policy").json()["updated_at"] is None
    assert admin.put(f"{HOUSE}/policy", json={"canary_percent": 90}).status_code == 422
    tuner = api.client(api.key("tune"))
    assert tuner.put(f"{HOUSE}/policy", json={}).status_code == 403
    assert admin.put(f"{HOUSE}/policy", json={"canary_percent": 5}).json()["policy"]["canary_percent"] == 5
    assert tuner.get(f"{HOUSE}/policy").json()["policy"]["canary_percent"] == 5
    assert admin.get("/v1/admin/audit?object_id=house").json()["items"][0]["action"] == "adapter.policy"


def test_a_shadow_answers_unseen(api: Api, admin: TestClient) -> None:
    shadows = ShadowRunner(api.database, api.engine)  # type: ignore[arg-type]
    api.services.answers = AnswerService(
        api.database, api.search, api.engine, api.services.router, api.services.settings,  # type: ignore[arg-type]
        stamp=Stamp("iv", "fake"), beside=shadows,
    )  # fmt: skip
    for _ in range(2):
        api.add_version()
    admin.post(f"{HOUSE}/promote", json={"version": "v1"})
    assert admin.put(f"{HOUSE}/shadow", json={"version": "v2"}).json()["version"] == "v2"
    given = admin.post("/v1/ask", json={"question": "days?", "conversation_id": "c1"}).json()
    assert given["provenance"]["adapter"] == "house@v1"
    shadows.wait()
    shadows.close()
    with api.database.read() as session:
        shadow = session.scalars(select(ShadowAnswer)).one()
        assert session.scalars(select(Answer)).one().id == shadow.answer_id == given["id"]
    assert [request.adapter.version for request in api.engine.requests if request.adapter] == ["v1", "v2"]
    assert shadow.shadow["refused"] is False and shadow.sent["chars"] == len(given["answer"])
    figures = admin.get(f"{HOUSE}/shadow").json()
    assert (figures["answers"], figures["errors"], figures["figures"]["refusal"]["shadow"]) == (1, 0, 0.0)
    assert admin.delete(f"{HOUSE}/shadow").json()["version"] is None
    assert admin.get(f"{HOUSE}/history").json()["items"][0]["alias"] == "shadow"
    assert admin.get(HOUSE).json()["champion"] == "v1"
    with api.database.read() as session:
        assert session.scalars(select(CanaryTrial)).all() == []


def test_shadows_go_on_after_an_engine_raised_what_nobody_expected(
    api: Api, admin: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadows = ShadowRunner(api.database, api.engine)  # type: ignore[arg-type]
    api.services.answers = AnswerService(
        api.database, api.search, api.engine, api.services.router, api.services.settings,  # type: ignore[arg-type]
        stamp=Stamp("iv", "fake"), beside=shadows,
    )  # fmt: skip
    for _ in range(2):
        api.add_version()
    admin.post(f"{HOUSE}/promote", json={"version": "v1"})
    admin.put(f"{HOUSE}/shadow", json={"version": "v2"})
    submit = api.engine.submit

    def broken(request: GenerationRequest) -> object:
        if request.adapter is not None and request.adapter.version == "v2":
            raise RuntimeError("CUDA error: an illegal memory access")
        return submit(request)

    monkeypatch.setattr(api.engine, "submit", broken)
    admin.post("/v1/ask", json={"question": "days?", "conversation_id": "c1"})
    shadows.wait()
    monkeypatch.setattr(api.engine, "submit", submit)
    second = admin.post("/v1/ask", json={"question": "days?", "conversation_id": "c2"}).json()
    shadows.wait()
    shadows.close()
    with api.database.read() as session:
        kept = {row.answer_id: row.shadow for row in session.scalars(select(ShadowAnswer))}
    assert "error" not in kept[second["id"]]
