"""The client package and both retrievers against the real application behind a real server."""

from __future__ import annotations

import asyncio
import inspect
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

import client as package
from client import AsyncTsumugi, Refused, Tsumugi, Unreachable, wire
from generation.evaluation.runner import EvaluationRunner
from tests.api_app import Api
from workers.base import run_job

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tsumugi(api: Api, api_url: str) -> Any:
    with Tsumugi(api_url, api.admin) as opened:
        yield opened


def test_search_ask_and_feedback(tsumugi: Tsumugi, api: Api) -> None:
    (passage,) = tsumugi.search("休暇は何日ですか？", limit=1)
    assert passage.text == api.search.passages[0].text and passage.relevance > 0
    answer = tsumugi.ask("休暇は何日ですか？", max_tokens=50)
    assert answer.answer and not answer.refused and answer.provenance["prompt_version"]
    events = list(tsumugi.stream("休暇は何日ですか？"))
    assert next(event.event for event in events if event.event != "token") == "meta"
    assert events[-1].event == "done"
    assert "".join(event.data["text"] for event in events if event.event == "token") == answer.answer
    tsumugi.feedback(answer.id, "up", comment="はい", consent=True)


def test_a_documents_whole_life(tsumugi: Tsumugi, tmp_path: Path) -> None:
    path = tmp_path / "休暇.txt"
    path.write_text("有給休暇は12日です。", encoding="utf-8")
    uploaded = tsumugi.upload(path, external_id="leave", groups=["hr"], metadata={"年": 2026})
    assert uploaded.job is not None and uploaded.document.filename == "休暇.txt" and not uploaded.unchanged
    assert uploaded.document.groups == ["hr"] and uploaded.document.metadata == {"年": 2026}
    assert tsumugi.upload(path, external_id="leave", groups=["hr"], metadata={"年": 2026}).unchanged
    tsumugi.upload("二つ目".encode(), filename="b.txt")
    assert [document.filename for document in tsumugi.documents()] == ["b.txt", "休暇.txt"]
    assert tsumugi.document(uploaded.document.id).external_id == "leave"
    assert tsumugi.wait(uploaded.job.id, timeout_s=0).status == "queued"
    assert tsumugi.delete(uploaded.document.id).document.status == "deleting"
    with pytest.raises(ValueError, match="filename"):
        tsumugi.upload(b"x")


def test_an_evaluation(tsumugi: Tsumugi, api: Api) -> None:
    asked = {"question": "休暇は何日ですか？", "expected": "25 days"}
    run = tsumugi.evaluate([asked], name="休暇")
    assert run.job is not None and run.report is None
    run_job(
        api.services.jobs, run.job.id, EvaluationRunner(api.database, api.services.answers, api.services.settings).run
    )
    assert tsumugi.wait(run.job.id).status == "succeeded"
    ended = tsumugi.evaluation(run.id)
    assert ended.report is not None and ended.report["right"]["share"] == 1.0
    (outcome,) = tsumugi.evaluation_outcomes(run.id, status="right")
    assert outcome.outcome["answer"] == "25 days [1]." and tsumugi.evaluation_outcomes(run.id, after=1) == []
    with pytest.raises(Refused):
        tsumugi.evaluate("no such set")


def test_an_erasure(tsumugi: Tsumugi) -> None:
    uploaded = tsumugi.upload("消してください".encode(), filename="a.txt", external_id="a-1")
    planned = tsumugi.erase(external_id="a-1", dry_run=True)
    assert planned.job is not None and planned.job.kind == "erasure" and planned.certificate is None
    assert tsumugi.erasure(planned.id).selector == {"documents": [uploaded.document.id]}
    with pytest.raises(Refused) as raised:
        tsumugi.start_erasure(planned.id)
    assert raised.value.code == "erasure_begun", "its plan is not made yet"
    with pytest.raises(Refused):
        tsumugi.erase(text="a", tenant="b")


def test_the_async_client_does_the_same(api: Api, api_url: str) -> None:
    async def run() -> None:
        async with AsyncTsumugi(api_url, api.admin) as client:
            assert len(await client.search("休暇", limit=1)) == 1
            answer = await client.ask("休暇は？")
            events = [event async for event in client.stream("休暇は？")]
            assert events[-1].event == "done" and events[-1].data["answer"] == answer.answer
            uploaded = await client.upload(b"text", filename="a.txt")
            assert [document.id async for document in client.documents()] == [uploaded.document.id]
            with pytest.raises(Refused) as raised:
                await client.document("doc_none")
            assert (raised.value.status, raised.value.code) == (404, "not_found")

    asyncio.run(run())


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, list[str]]:
        found = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}
        return {
            name: [parameter for parameter in inspect.signature(value).parameters if parameter != "self"]
            for name, value in found.items()
            if callable(value)
        }

    assert calls(Tsumugi) == calls(AsyncTsumugi)
    assert sorted(calls(Tsumugi)) == [
        "ask", "close", "delete", "document", "documents", "erase", "erasure", "evaluate", "evaluation",
        "evaluation_outcomes", "feedback",
        "job", "search", "start_erasure", "stream", "update", "upload", "wait",
    ]  # fmt: skip
    assert calls(Tsumugi)["search"][:2] == ["query", "limit"], "signatures are those of the calls"
    assert (Tsumugi.search.__doc__ or "").startswith("Passages, best first")


def test_refusals_carry_the_services_code(api: Api, api_url: str) -> None:
    with Tsumugi(api_url, "wrong") as client, pytest.raises(Refused) as raised:
        client.search("x")
    assert (raised.value.status, raised.value.code) == (401, "unauthenticated") and raised.value.request_id
    with Tsumugi(api_url, api.admin) as client, pytest.raises(Refused) as raised:
        client.search("x", limit=1000)
    assert raised.value.code == "invalid_request" and raised.value.errors[0]["location"] == "body.limit"


def scripted(*outcomes: int | type[Exception]) -> tuple[Tsumugi, list[httpx.Request]]:
    """A client over a transport that answers by script."""
    seen: list[httpx.Request] = []
    left = list(outcomes)

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        outcome = left.pop(0)
        if not isinstance(outcome, int):
            raise outcome("scripted", request=request)
        document = {"id": "d", "filename": "a.txt", "status": "queued", "collection": "default", "external_id": None}
        document |= {"groups": [], "metadata": {}, "created_at": "", "updated_at": "", "a_new_field": 1}
        body = {"items": [{"document": document, "job": None}]} if outcome < 300 else {"code": "unavailable"}
        return httpx.Response(outcome, json=body)

    return Tsumugi("http://service", "key", transport=httpx.MockTransport(handle)), seen


def test_only_what_is_safe_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PAUSES_S", (0.0, 0.0))

    def upload(c: Tsumugi) -> object:
        return c.upload(b"x", filename="a.txt")

    def ask(c: Tsumugi) -> object:
        return c.ask("x")

    client, seen = scripted(503, httpx.ReadTimeout, 202)
    upload(client)
    keys = {request.headers["idempotency-key"] for request in seen}
    assert len(seen) == 3 and len(keys) == 1, "one write, however often it is sent"
    for call, outcomes, sent, error in (
        (upload, (httpx.ReadTimeout,) * 3, 3, Unreachable),
        (upload, (400,), 1, Refused),
        (ask, (httpx.ReadTimeout,), 1, Unreachable),
        (ask, (httpx.ConnectError,) * 3, 3, Unreachable),
        (ask, (429, 429, 429), 3, Refused),
        (ask, (504,), 1, Refused),
    ):
        client, seen = scripted(*outcomes)
        with pytest.raises(error):
            call(client)
        assert len(seen) == sent, outcomes


def test_llama_index_retriever(api: Api, api_url: str) -> None:
    from client.llama_index import TsumugiRetriever

    retriever = TsumugiRetriever(api_url, api.admin, limit=1)
    for nodes in (retriever.retrieve("休暇"), asyncio.run(retriever.aretrieve("休暇"))):
        (node,) = nodes
        passage = api.search.passages[0]
        assert (node.node.id_, node.node.get_content(), node.score) == (
            passage.chunk_id,
            passage.text,
            passage.relevance,
        )
        assert node.node.metadata["start"] == passage.start and node.node.metadata["filename"] == passage.filename


def test_langchain_retriever(api: Api, api_url: str) -> None:
    from client.langchain import TsumugiRetriever

    retriever = TsumugiRetriever(url=api_url, key=api.admin, limit=1)
    for documents in (retriever.invoke("休暇"), asyncio.run(retriever.ainvoke("休暇"))):
        (document,) = documents
        passage = api.search.passages[0]
        assert (document.id, document.page_content) == (passage.chunk_id, passage.text)
        assert document.metadata["relevance"] == passage.relevance
    assert api.admin not in repr(retriever)
    with pytest.raises(ValidationError):
        TsumugiRetriever(url=api_url, key=api.admin, limit=0)


def test_the_package_imports_nothing_else_of_the_project_and_no_framework() -> None:
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"client"}
    code = "import sys, client; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert not loaded & (ours | {"llama_index", "langchain_core", "pydantic", "torch", "fastapi"})
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize(("told", "sent"), [("0", 3), ("11", 1)])
def test_a_long_wait_is_the_callers_to_decide(told: str, sent: int) -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(429, json={"code": "queue_full", "retryable": True}, headers={"Retry-After": told})

    with (
        Tsumugi("http://service", "key", transport=httpx.MockTransport(handle)) as client,
        pytest.raises(Refused) as refused,
    ):
        client.ask("x")
    assert len(seen) == sent
    assert refused.value.retry_after_s == float(told) and refused.value.retryable


def test_an_upload_of_an_archive_gives_every_document(tsumugi: Tsumugi) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.txt", f"text {number}")
    taken = tsumugi.upload(packed.getvalue(), filename="three.zip")
    assert [one.document.filename for one in taken.all] == ["0.txt", "1.txt", "2.txt"]
