"""Ask, stream, chat, search, feedback, as clients see them; the generator is a fake, the server real."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pydantic
import pytest
from fastapi.testclient import TestClient

from api.tenant_threads import TenantThreads
from core.tables import Answer, Feedback, Tenant
from core.types import AccessFilter
from tests.api_app import PASSAGE, Api


def events_of(text: str) -> list[tuple[str, Any]]:
    """(event, data) of a stream, comments left out."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "data" in fields:
            raw = fields["data"]
            found.append((fields.get("event", "message"), raw if raw == "[DONE]" else json.loads(raw)))
    return found


def wait_for(condition: Any, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def client(api: Api, api_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api_url}/v1", api_key=api.admin, max_retries=0) as made:
        yield made


def test_an_answer_has_the_shape_of_the_contract(admin: TestClient) -> None:
    answer = admin.post("/v1/ask", json={"question": "How many days of leave?"}).json()
    assert answer["answer"] == "25 days [1]."
    assert (answer["refused"], answer["refusal_reason"]) == (False, None)
    assert set(answer["provenance"]) == {"adapter", "base_model", "index_version", "embedder", "prompt_version"}
    assert set(answer["timings_ms"]) >= {"retrieve", "generate", "total"}
    assert answer["usage"]["completion_tokens"] == 2
    citation = answer["citations"][0]
    assert set(citation) == {
        "index", "answer_start", "answer_end", "document_id", "generation", "filename", "page", "start", "end",
        "quote", "verified", "edition",
    }  # fmt: skip
    assert citation["quote"] == PASSAGE.text[citation["start"] - PASSAGE.start : citation["end"] - PASSAGE.start]


def test_a_refusal_says_why_and_asks_no_model(api: Api, admin: TestClient) -> None:
    api.search.passages = []
    answer = admin.post("/v1/ask", json={"question": "何日ですか"}).json()
    assert (answer["refused"], answer["refusal_reason"], answer["citations"]) == (True, "no_passages", [])
    assert not api.engine.requests


def test_a_stream_of_an_answer(api: Api, admin: TestClient) -> None:
    api.add_version()
    admin.post("/v1/admin/adapters/house/promote", json={"version": "v1"})
    answer = admin.post("/v1/ask", json={"question": "days?", "stream": True, "adapter": "house"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    assert [name for name, _ in events] == ["meta", "token", "token", "citation", "done"]
    assert events[0][1]["provenance"]["adapter"] == "house@v1"
    assert "".join(data["text"] for name, data in events if name == "token") == events[-1][1]["answer"]
    assert events[-1][1]["citations"] == [events[3][1]]


def test_a_failure_in_mid_stream_is_an_error_event(api: Api, admin: TestClient) -> None:
    api.engine.pieces = ("half ", "of an ", "!")
    events = events_of(admin.post("/v1/ask", json={"question": "days?", "stream": True}).text)
    assert [name for name, _ in events] == ["meta", "token", "token", "error"]
    assert events[-1][1]["code"] == "internal"
    assert "secret detail" not in json.dumps(events)


@pytest.mark.parametrize("stream", [True, False])
def test_an_asker_who_goes_away_stops_the_generation(api: Api, api_url: str, stream: bool) -> None:
    api.engine.gate = threading.Event()  # never set: without a cancellation this would run for ever
    headers = {"Authorization": f"Bearer {api.admin}"}
    with httpx.Client(base_url=api_url, headers=headers) as client:
        if stream:
            with client.stream("POST", "/v1/ask", json={"question": "days?", "stream": True}) as answer:
                assert next(answer.iter_lines()) == "event: meta"
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/ask", json={"question": "days?"}, timeout=0.5)
    wait_for(lambda: api.engine.handles and api.engine.handles[0].cancelled.is_set())


def test_many_slow_streams_do_not_block_the_others(api: Api, api_url: str) -> None:
    api.engine.gate = threading.Event()
    headers = {"Authorization": f"Bearer {api.admin}"}
    answers: list[str] = []

    # One client: 32 of them would spend their seconds on 32 TLS contexts.
    client = httpx.Client(base_url=api_url, headers=headers, timeout=30, limits=httpx.Limits(max_connections=None))

    def ask() -> None:
        answers.append(client.post("/v1/ask", json={"question": "days?", "stream": True}).text)

    askers = [threading.Thread(target=ask) for _ in range(32)]
    for asker in askers:
        asker.start()
    wait_for(lambda: len(api.engine.handles) == 32)
    begun = time.monotonic()
    assert client.get("/healthz").status_code == 200
    assert client.get("/v1/documents").status_code == 200
    assert time.monotonic() - begun < 2
    api.engine.gate.set()
    for asker in askers:
        asker.join(20)
    client.close()
    assert all("event: done" in text for text in answers) and len(answers) == 32


@pytest.mark.parametrize("path", ["/v1/ask", "/v1/search", "/v1/chat/completions"])
def test_one_tenants_searches_take_no_thread_of_the_others(
    api: Api, api_url: str, other_tenant: Tenant, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, gate, held = api.search.search, threading.Event(), []
    api.app.state.asking = TenantThreads(3)

    def slow(query: str, access: AccessFilter, *rest: Any, **more: Any) -> Any:
        if access.tenant_id != other_tenant.id:
            held.append(query)
            assert gate.wait(60)
        return search(query, access, *rest, **more)

    monkeypatch.setattr(api.search, "search", slow)
    body: dict[str, Any] = {"question": "days?"} if path == "/v1/ask" else {"query": "days?"}
    if path == "/v1/chat/completions":
        body = {"model": "tsumugi", "messages": [{"role": "user", "content": "days?"}]}
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=api_url, timeout=60, limits=limits) as client, ThreadPoolExecutor(60) as pool:
        try:
            mine = {"Authorization": f"Bearer {api.admin}"}
            asked = [pool.submit(client.post, path, json=body, headers=mine) for _ in range(60)]
            wait_for(lambda: api.app.state.metrics.in_flight._value.get() == 60 and len(held) >= 3, 60)
            others = api.key("query", tenant=other_tenant)
            assert client.post(path, json=body, headers=others, timeout=30).status_code == 200
            assert client.get("/v1/jobs", headers=mine, timeout=30).status_code == 200
            assert len(held) == 3
        finally:
            gate.set()
        assert {one.result().status_code for one in asked} == {200}


def test_search(api: Api, admin: TestClient) -> None:
    found = admin.post("/v1/search", json={"query": "leave", "limit": 1}).json()
    assert set(found["items"][0]) >= {
        "text", "score", "document_id", "filename", "page", "heading", "start", "end", "chunk_id",
    }  # fmt: skip
    assert found["timings_ms"] == {"total": 1.0}
    assert api.search.seen[-1].groups is None
    api.client(api.key("query", groups=["hr"])).post("/v1/search", json={"query": "leave"})
    assert api.search.seen[-1].groups == {"hr", "*"}


def test_feedback_is_stored_with_its_answer(api: Api, admin: TestClient) -> None:
    answer = admin.post("/v1/ask", json={"question": "days?"}).json()
    body = {"rating": "down", "correction": "25日です。", "consent": True}
    stored = admin.post(f"/v1/answers/{answer['id']}/feedback", json=body)
    assert stored.status_code == 201
    with api.database.read() as session:
        row = session.get_one(Feedback, stored.json()["id"])
        assert (row.answer_id, row.correction, row.consent) == (answer["id"], "25日です。", True)
        assert session.get_one(Answer, answer["id"]).question == "days?"
    assert admin.post(f"/v1/answers/{answer['id']}/feedback", json={"rating": "meh"}).status_code == 422
    assert admin.post("/v1/answers/ans_x/feedback", json={"rating": "up"}).status_code == 404


def test_openai_client_without_stream(api: Api, client: openai.OpenAI) -> None:
    api.add_version()
    completion = client.chat.completions.create(
        model="tsumugi:house@v1",
        messages=[
            {"role": "system", "content": "You are a pirate."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": [{"type": "text", "text": "How many days?"}]},
        ],
        temperature=0.2,
        top_p=0.9,
        max_tokens=17,
        stop=["###"],
        seed=3,
    )
    message = completion.choices[0].message
    assert message.content == "25 days [1]."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None and completion.usage.total_tokens == 13
    assert message.annotations is not None
    cited = message.annotations[0].url_citation
    assert cited.title == "handbook.md"
    assert message.content[cited.start_index : cited.end_index].startswith("25 days")
    assert completion.model_extra is not None
    assert completion.model_extra["citations"][0]["document_id"] == "doc_1"
    request = api.engine.requests[-1]
    assert (request.max_tokens, request.temperature, request.top_p, request.stop, request.seed) == (
        17,
        0.2,
        0.9,
        ("###",),
        3,
    )
    assert request.adapter is not None and request.adapter.stamp == "house@v1"
    assert [turn.role for turn in request.messages] == ["system", "user", "assistant", "user"]
    assert "pirate" not in request.messages[0].content


def test_openai_client_with_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tsumugi",
        messages=[{"role": "user", "content": "How many days?"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    with_choice = [chunk for chunk in chunks if chunk.choices]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in with_choice) == "25 days [1]."
    assert with_choice[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in with_choice][-2:] == [None, "stop"]
    assert with_choice[-1].model_extra is not None
    assert with_choice[-1].model_extra["citations"][0]["filename"] == "handbook.md"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 2
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_chat_stream_ends_with_done(admin: TestClient) -> None:
    body = {"model": "tsumugi", "messages": [{"role": "user", "content": "days?"}], "stream": True}
    events = events_of(admin.post("/v1/chat/completions", json=body).text)
    assert events[-1] == ("message", "[DONE]")
    assert not any("usage" in data for _, data in events[:-1]), "usage only when asked for"


def test_openai_client_sees_errors(api: Api, client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "days?"}]
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4o", messages=messages)
    assert missing.value.code == "model_not_found"
    for wrong in ({"n": 2}, {"tools": [{"type": "function", "function": {"name": "f"}}]}, {"logprobs": True}):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="tsumugi", messages=messages, **wrong)
        assert refused.value.code == "unsupported_parameter"
        assert next(iter(wrong)) in str(refused.value)
    image: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]
    with pytest.raises(openai.BadRequestError) as picture:
        client.chat.completions.create(model="tsumugi", messages=image)
    assert picture.value.code == "unsupported_content"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="tsu_wrong").models.list()
    api.engine.pieces = ("half ", "of it ", "!")
    with pytest.raises(openai.APIError) as broken:
        list(client.chat.completions.create(model="tsumugi", messages=messages, stream=True))
    assert broken.value.code == "internal"


def test_openai_client_lists_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tsumugi", "tsumugi:base"]
    assert client.models.retrieve("tsumugi:base").owned_by == "tsumugi"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("tsumugi:nobody")


SHAPE = {
    "type": "json_schema",
    "json_schema": {
        "name": "leave",
        "schema": {"type": "object", "properties": {"days": {"type": "string"}}, "required": ["days"]},
    },
}


def test_json_answers_are_cited_and_stamped(api: Api, admin: TestClient) -> None:
    api.engine.pieces = ('{"days": ', '"25 days of leave"}')
    answer = admin.post("/v1/ask", json={"question": "How many days?", "response_format": SHAPE}).json()
    assert json.loads(answer["answer"]) == {"days": "25 days of leave"}
    cited = answer["citations"][0]
    assert answer["answer"][cited["answer_start"] : cited["answer_end"]] == "25 days of leave" and cited["verified"]
    assert answer["provenance"]["prompt_version"].endswith("+json-1")
    asked = api.engine.requests[-1]
    assert asked.answer_format is not None and asked.answer_format.name == "leave"
    assert asked.messages[-1].content.endswith('How many days?\nJSON: {"days": string}')


def test_a_schema_that_is_refused_names_its_field(admin: TestClient) -> None:
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}
    for path, body in (
        ("/v1/ask", {"question": "How?"}),
        ("/v1/chat/completions", {"model": "tsumugi", "messages": [{"role": "user", "content": "How?"}]}),
    ):
        refused = admin.post(path, json={**body, "response_format": bad})
        assert refused.status_code == 422 and refused.json()["code"] == "schema_invalid"
        assert refused.json()["errors"][0]["location"] == "response_format"


def test_openais_client_parses_json_answers_and_sees_refusals(api: Api, client: openai.OpenAI) -> None:
    class Leave(pydantic.BaseModel):
        days: str

    messages: Any = [{"role": "user", "content": "How many days?"}]
    api.engine.pieces = ('{"days": ', '"25日"}')
    parsed = client.chat.completions.parse(model="tsumugi", messages=messages, response_format=Leave)
    assert parsed.choices[0].message.parsed == Leave(days="25日")
    stream = client.chat.completions.create(
        model="tsumugi", messages=messages, stream=True, response_format={"type": "json_object"}
    )
    assert json.loads("".join(chunk.choices[0].delta.content or "" for chunk in stream)) == {"days": "25日"}
    api.search.passages = []
    refused = client.chat.completions.parse(model="tsumugi", messages=messages, response_format=Leave)
    message = refused.choices[0].message
    assert message.parsed is None and message.content is None and "could not find" in (message.refusal or "")
    stream = client.chat.completions.create(
        model="tsumugi", messages=messages, stream=True, response_format={"type": "json_object"}
    )
    deltas = [chunk.choices[0].delta for chunk in stream]
    assert "could not find" in "".join(delta.refusal or "" for delta in deltas)
    assert not any(delta.content for delta in deltas)


def test_modes_reach_the_answer_and_its_stream(api: Api, admin: TestClient) -> None:
    body = {"question": "How many days?", "reasoning": True, "best_of": 2}
    answer = admin.post("/v1/ask", json=body).json()
    assert answer["reasoning"] == answer["answer"] == "25 days [1]." and len(api.engine.requests) == 3
    events = events_of(admin.post("/v1/ask", json={**body, "stream": True}).text)
    kinds = [kind for kind, _ in events]
    assert kinds[0] == "meta" and kinds.index("reasoning") < kinds.index("token") and kinds[-1] == "done"
    chat = {"model": "tsumugi", "messages": [{"role": "user", "content": "How many days?"}], "reasoning": True}
    message = admin.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]
    assert message["reasoning_content"] == message["content"] == "25 days [1]."
    assert admin.post("/v1/ask", json={"question": "How?", "best_of": 99}).status_code == 422


def test_curated_answers_serve_as_examples_within_their_groups(api: Api, admin: TestClient) -> None:
    for question, answer in (("How many days of sick leave?", "Ten, kindly."), ("Where is the canteen?", "Floor 2.")):
        made = admin.post("/v1/admin/curated", json={"question": question, "answer": answer})
        assert made.status_code == 201, made.text
    closed = {"question": "How many days of secret leave?", "answer": "Ninety.", "groups": ["board"]}
    assert admin.post("/v1/admin/curated", json=closed).status_code == 201
    reader = api.client(api.key("query"))
    reader.post("/v1/ask", json={"question": "How many days of annual leave?", "examples": 1})
    turns = [(turn.role, turn.content) for turn in api.engine.requests[-1].messages[1:3]]
    assert turns == [("user", "How many days of sick leave?"), ("assistant", "Ten, kindly.")]
