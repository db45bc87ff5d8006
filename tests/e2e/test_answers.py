"""Documents in, cited answers out, through the contract and through the `openai` client."""

from __future__ import annotations

import json

import openai
import pytest

from cli.client import ApiProblem, Client
from cli.service_process import ServiceProcess
from tests.e2e.conftest import upload_text


def content_of(client: Client, document_id: str) -> str:
    return client.request("GET", f"/v1/documents/{document_id}/content", params={"as": "text"}).text


@pytest.mark.parametrize(
    ("question", "filename"),
    [
        ("What does error code E-17 mean?", "support-faq.md"),
        ("避難場所はどこですか。", "facilities-ja.txt"),
    ],
)
def test_an_answer_cites_a_span_that_is_in_its_source(client: Client, question: str, filename: str) -> None:
    answer = client.post("/v1/ask", {"question": question})
    assert not answer["refused"], answer
    assert filename in {citation["filename"] for citation in answer["citations"]}
    for citation in answer["citations"]:
        text = content_of(client, citation["document_id"])
        assert text[citation["start"] : citation["end"]] == citation["quote"]
        assert answer["answer"][citation["answer_start"] : citation["answer_end"]]
    assert answer["provenance"]["adapter"] is None
    assert {"base_model", "index_version", "embedder", "prompt_version"} <= set(answer["provenance"])


def test_what_no_document_says_is_refused(client: Client) -> None:
    answer = client.post("/v1/ask", {"question": "Who won the football world cup in 1998?"})
    assert answer["refused"] or "could not find" in answer["answer"]


def test_streaming_says_the_same(client: Client) -> None:
    question = {"question": "How long was the measurement service unavailable?"}
    whole = client.post("/v1/ask", question)
    events = list(client.stream("POST", "/v1/ask", json={**question, "stream": True}))
    kinds = [kind for kind, _ in events]
    assert kinds[0] == "meta"
    assert kinds[-1] == "done"
    assert events[-1][1]["answer"] == whole["answer"]
    assert "".join(data["text"] for kind, data in events if kind == "token") == whole["answer"]


def test_replacing_changes_the_next_answer_and_deleting_ends_it(client: Client) -> None:
    fields = {"external_id": "lamp", "collection": "lamps"}
    item = upload_text(client, "The lighthouse lamp at Skerry Point has 340 candles.", "lamp.txt", **fields)
    client.follow_job(item["job"]["id"], timeout_s=60)
    ask = {"question": "How many candles does the lighthouse lamp at Skerry Point have?", "collection": "lamps"}
    before = client.post("/v1/ask", ask)
    new = upload_text(client, "The lighthouse lamp at Skerry Point has 512 candles.", "lamp.txt", **fields)
    client.follow_job(new["job"]["id"], timeout_s=60)
    after = client.post("/v1/ask", ask)
    assert "340" in before["answer"]
    assert "512" in after["answer"]
    assert new["document"]["id"] == item["document"]["id"]
    again = upload_text(client, "The lighthouse lamp at Skerry Point has 512 candles.", "lamp.txt", **fields)
    assert again.get("unchanged") or again.get("job") is None
    client.delete(f"/v1/documents/{item['document']['id']}")
    assert client.post("/v1/search", {"query": "lighthouse lamp", "collection": "lamps"})["items"] == []
    with pytest.raises(ApiProblem, match="404"):
        client.get(f"/v1/documents/{item['document']['id']}/content")


def test_feedback_is_taken(client: Client) -> None:
    answer = client.post("/v1/ask", {"question": "What is the largest meeting room called?"})
    client.post(f"/v1/answers/{answer['id']}/feedback", {"rating": "up", "comment": "right", "consent": True})
    with pytest.raises(ApiProblem, match="404"):
        client.post("/v1/answers/ans_unknown/feedback", {"rating": "up"})


def test_the_openai_client_works(service: ServiceProcess) -> None:
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.admin_key, max_retries=0)
    assert {"tsumugi", "tsumugi:base"} <= {model.id for model in client.models.list()}
    messages = [{"role": "user", "content": "What caused the outage of the measurement service?"}]
    whole = client.chat.completions.create(model="tsumugi", messages=messages)  # type: ignore[call-overload]
    text = whole.choices[0].message.content
    assert text
    assert whole.citations  # type: ignore[attr-defined]
    chunks = client.chat.completions.create(model="tsumugi:base", messages=messages, stream=True)  # type: ignore[call-overload]
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == text
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="tsumugi:nobody", messages=messages)  # type: ignore[call-overload]


def test_a_json_answer_follows_its_schema_and_is_cited(client: Client) -> None:
    schema = {
        "type": "object",
        "properties": {"場所": {"type": "string"}, "language": {"enum": ["ja", "en"]}},
        "required": ["場所", "language"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    answer = client.post("/v1/ask", {"question": "避難場所はどこですか。", "response_format": shape, "max_tokens": 96})
    assert answer["finish_reason"] == "stop", answer
    said = json.loads(answer["answer"])
    assert set(said) == {"場所", "language"} and said["language"] in {"ja", "en"}
    if not answer["refused"]:
        cited = answer["citations"][0]
        assert answer["answer"][cited["answer_start"] : cited["answer_end"]] in {said["場所"], said["language"]}
