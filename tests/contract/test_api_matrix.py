"""Every route against every kind of caller, over a world in which one group's document left its traces everywhere.

The routes come from the OpenAPI document: one that is not in MATRIX fails the test, so that none is added without
saying who may call it and what a caller outside of the group finds there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from core.tables import (
    Answer,
    ChunkRow,
    Collection,
    CuratedAnswer,
    Dataset,
    DatasetBuild,
    DatasetRow,
    Document,
    DocumentGroup,
    Feedback,
    Job,
    RowSource,
    Tenant,
)
from tests.api_app import PASSAGE, Api

SECRET = "極秘の年収表"
"""In the text of every trace of the document; no caller outside of its group is ever sent it."""


class Finds(StrEnum):
    """What a caller with the scope, but outside of the group, gets."""

    NOTHING = "404, as for what is not there"
    THE_REST = "an answer without the document and what was made of it"
    ITS_OWN = "an answer through its own access filter"
    NO_TRACE = "an answer: nothing here comes from documents"
    REFUSED = "403: only an admin comes here, who reads every group"


@dataclass(frozen=True)
class Row:
    """Scopes of which one opens the route, and what it shows."""

    scopes: frozenset[str]
    finds: Finds
    body: Mapping[str, Any] | None = None
    shown_to: frozenset[str] = field(default_factory=frozenset)
    """Scopes that are told all the same, without any text: who ingests sees how its own uploads fare."""


def _row(scopes: str, finds: Finds, body: Mapping[str, Any] | None = None, shown_to: str = "") -> Row:
    return Row(frozenset(scopes.split()), finds, body, frozenset(shown_to.split()))


_READ, _JOBS, _MOVES = "query ingest", "query ingest tune", "ingest tune"
_ADMIN = _row("", Finds.REFUSED, {})
_TUNE = _row("tune", Finds.NO_TRACE, {})
MATRIX: dict[str, Row] = {
    "POST /v1/documents": _row("ingest", Finds.NO_TRACE, {"text": "a", "filename": "a.txt"}),
    "POST /v1/documents/reread": _row("ingest", Finds.NOTHING, {"documents": ["doc_1"]}),
    "GET /v1/documents": _row(_READ, Finds.THE_REST),
    "GET /v1/documents/{document_id}": _row(_READ, Finds.NOTHING),
    "PATCH /v1/documents/{document_id}": _row("ingest", Finds.NOTHING, {"metadata": {}}),
    "DELETE /v1/documents/{document_id}": _row("ingest", Finds.NOTHING),
    "GET /v1/documents/{document_id}/content": _row(_READ, Finds.NOTHING),
    "GET /v1/documents/{document_id}/pages/{number}": _row(_READ, Finds.NOTHING),
    "GET /v1/documents/{document_id}/chunks": _row(_READ, Finds.NOTHING),
    "GET /v1/collections": _row(_READ, Finds.THE_REST),
    "POST /v1/collections": _row("ingest", Finds.NO_TRACE, {"name": "new"}),
    "PATCH /v1/collections/{collection}": _ADMIN,
    "DELETE /v1/collections/{collection}": _ADMIN,
    "GET /v1/jobs": _row(_JOBS, Finds.THE_REST, shown_to="ingest"),
    "POST /v1/jobs/retry": _row(_MOVES, Finds.THE_REST),
    "GET /v1/jobs/{job_id}": _row(_JOBS, Finds.NOTHING, shown_to="ingest"),
    "POST /v1/jobs/{job_id}/cancel": _row(_MOVES, Finds.NOTHING),
    "POST /v1/jobs/{job_id}/retry": _row(_MOVES, Finds.NOTHING),
    "GET /v1/jobs/{job_id}/events": _row(_JOBS, Finds.NOTHING, shown_to="ingest"),
    "POST /v1/search": _row("query", Finds.ITS_OWN, {"query": "q"}),
    "POST /v1/ask": _row("query", Finds.ITS_OWN, {"question": "q"}),
    "POST /v1/chat/completions": _row(
        "query", Finds.ITS_OWN, {"model": "tsumugi", "messages": [{"role": "user", "content": "q"}]}
    ),
    "POST /v1/answers/{answer_id}/feedback": _row("feedback", Finds.NOTHING, {"rating": "down"}),
    "POST /v1/answers/{answer_id}/feedback/{feedback_id}/withdraw": _row("feedback", Finds.REFUSED),
    "GET /v1/models": _row("query", Finds.NO_TRACE),
    "GET /v1/models/{model}": _row("query", Finds.NO_TRACE),
    "POST /v1/datasets/from-feedback": _row("tune", Finds.THE_REST, {}),
    "POST /v1/admin/curated": _row(
        "tune", Finds.NOTHING, {"question": "q", "answer": "a", "passages": [{"text": "t", "document_id": "doc_1"}]}
    ),
    "GET /v1/admin/curated": _row("tune", Finds.THE_REST),
    "DELETE /v1/admin/curated/{curated_id}": _row("tune", Finds.NOTHING),
    "POST /v1/datasets": _row("tune", Finds.NO_TRACE),
    "GET /v1/datasets": _row("tune", Finds.THE_REST),
    "GET /v1/datasets/{dataset_id}": _row("tune", Finds.THE_REST),
    "PATCH /v1/datasets/{dataset_id}": _row("tune", Finds.NOTHING, {"retired": True}),
    "DELETE /v1/datasets/{dataset_id}": _row("tune", Finds.NOTHING),
    "GET /v1/datasets/{dataset_id}/rows": _row("tune", Finds.THE_REST),
    "GET /v1/datasets/{dataset_id}/quality": _row("tune", Finds.THE_REST),
    "POST /v1/dataset-builds": _TUNE,
    "GET /v1/dataset-builds": _row("tune", Finds.THE_REST),
    "GET /v1/dataset-builds/{build_id}": _row("tune", Finds.THE_REST),
    "POST /v1/admin/tuning-runs": _TUNE,
    "GET /v1/admin/tuning-runs": _TUNE,
    "GET /v1/admin/tuning-runs/{run_id}": _TUNE,
    "GET /v1/admin/tuning-runs/{run_id}/artefact": _TUNE,
    "POST /v1/admin/tuning-runs/{run_id}/cancel": _TUNE,
    "POST /v1/admin/schedules": _TUNE,
    "GET /v1/admin/schedules": _TUNE,
    "GET /v1/admin/schedules/{schedule_id}": _TUNE,
    "PATCH /v1/admin/schedules/{schedule_id}": _TUNE,
    "DELETE /v1/admin/schedules/{schedule_id}": _TUNE,
    "POST /v1/admin/schedules/{schedule_id}/run-now": _TUNE,
    "POST /v1/admin/judge/calibrations": _ADMIN,
    "GET /v1/admin/judge/calibrations": _ADMIN,
    "GET /v1/admin/judge/calibrations/{calibration_id}": _ADMIN,
    "GET /v1/admin/adapters": _TUNE,
    "GET /v1/admin/adapters/{family}": _TUNE,
    "POST /v1/admin/adapters/{family}/merge": _TUNE,
    "GET /v1/admin/adapters/{family}/history": _TUNE,
    "GET /v1/admin/adapters/{family}/versions/{version}/report": _TUNE,
    "POST /v1/admin/adapters/{family}/promote": _ADMIN,
    "POST /v1/admin/adapters/{family}/rollback": _ADMIN,
    "POST /v1/admin/adapters/{family}/versions": _ADMIN,
    "GET /v1/admin/adapters/{family}/policy": _TUNE,
    "PUT /v1/admin/adapters/{family}/policy": _ADMIN,
    "GET /v1/admin/adapters/{family}/canaries": _TUNE,
    "GET /v1/admin/adapters/{family}/shadow": _TUNE,
    "PUT /v1/admin/adapters/{family}/shadow": _ADMIN,
    "DELETE /v1/admin/adapters/{family}/shadow": _ADMIN,
    "GET /v1/admin/index": _ADMIN,
    "GET /v1/admin/index/{version}/vectors": _ADMIN,
    "POST /v1/admin/index/build": _ADMIN,
    "POST /v1/admin/index/switch": _ADMIN,
    "POST /v1/admin/index/rollback": _ADMIN,
    "GET /v1/admin/index/shards": _ADMIN,
    "PUT /v1/admin/index/shards/{tenant}": _ADMIN,
    "DELETE /v1/admin/index/shards/{tenant}": _ADMIN,
    "DELETE /v1/admin/index/{version}": _ADMIN,
    "GET /v1/admin/dictionary": _ADMIN,
    "PUT /v1/admin/dictionary": _ADMIN,
    "POST /v1/admin/evaluation-sets": _ADMIN,
    "GET /v1/admin/evaluation-sets": _ADMIN,
    "GET /v1/admin/evaluation-sets/{set_id}": _ADMIN,
    "DELETE /v1/admin/evaluation-sets/{set_id}": _ADMIN,
    "POST /v1/admin/evaluations": _ADMIN,
    "GET /v1/admin/evaluations": _ADMIN,
    "GET /v1/admin/evaluations/{run_id}": _ADMIN,
    "DELETE /v1/admin/evaluations/{run_id}": _ADMIN,
    "GET /v1/admin/evaluations/{run_id}/outcomes": _ADMIN,
    "POST /v1/admin/evaluations/{run_id}/cancel": _ADMIN,
    "POST /v1/admin/erasures": _ADMIN,
    "GET /v1/admin/erasures": _ADMIN,
    "GET /v1/admin/erasures/{erasure_id}": _ADMIN,
    "POST /v1/admin/erasures/{erasure_id}/start": _ADMIN,
    "PATCH /v1/admin/erasures/{erasure_id}": _ADMIN,
    "POST /v1/admin/keys": _ADMIN,
    "GET /v1/admin/keys": _ADMIN,
    "POST /v1/admin/keys/{key_id}/rotate": _ADMIN,
    "DELETE /v1/admin/keys/{key_id}": _ADMIN,
    "POST /v1/admin/tenants": _ADMIN,
    "GET /v1/admin/tenants": _ADMIN,
    "GET /v1/admin/tenants/{tenant_id}": _ADMIN,
    "DELETE /v1/admin/tenants/{tenant_id}": _ADMIN,
    "GET /v1/admin/audit": _ADMIN,
    "GET /v1/admin/audit/events": _ADMIN,
}
OPEN = {"GET /healthz", "GET /readyz", "GET /metrics"}
SCOPES = ("query", "ingest", "feedback", "tune")
QUERY = {"POST /v1/jobs/retry": "?code=broken"}
IDS = {
    "document_id": "doc_1", "job_id": "job_1", "answer_id": "ans_1", "feedback_id": "fbk_1", "curated_id": "cur_1",
    "dataset_id": "dst_1", "build_id": "bld_1", "number": "1", "collection": "default",
}  # fmt: skip


def leave_traces(api: Api) -> None:
    """A document of the group `hr`, and a trace of it in every table that holds text of documents."""
    tenant_id, passage = api.tenant.id, {"document_id": "doc_1", "chunk_id": "c1", "generation": 1, "text": SECRET}
    with api.database.write() as session:
        collection = session.scalars(select(Collection).where(Collection.tenant_id == tenant_id)).one()
        document = Document(
            id="doc_1", tenant_id=tenant_id, collection_id=collection.id, filename=f"{SECRET}.txt", status="ready",
            active_generation=1,
        )  # fmt: skip
        session.add(document)
        session.flush()
        session.add_all(
            [
                DocumentGroup(document_id="doc_1", group_name="hr"),
                ChunkRow(
                    id="c1", tenant_id=tenant_id, document_id="doc_1", generation=1, ordinal=0, start=0,
                    end=len(SECRET), text=SECRET,
                ),
                Job(
                    id="job_1", tenant_id=tenant_id, kind="ingest", task="ingest", subject_id="doc_1", status="failed",
                    error={"code": "broken", "detail": "at once", "retryable": False},
                ),
                Job(
                    id="job_2", tenant_id=tenant_id, kind="dataset", task="dataset", subject_id="bld_1",
                    status="succeeded",
                ),
                Answer(
                    id="ans_1", tenant_id=tenant_id, key_id="someone", question="q", answer=SECRET, passages=[passage]
                ),
                CuratedAnswer(
                    id="cur_1", tenant_id=tenant_id, question="q1", question_key="k", answer=SECRET,
                    passages=[passage], created_by="key:someone",
                ),
                CuratedAnswer(
                    id="cur_2", tenant_id=tenant_id, question="q2", question_key="l", answer=SECRET, groups=["hr"],
                    passages=[], created_by="key:someone",
                ),
                Dataset(
                    id="dst_1", tenant_id=tenant_id, name="feedback", format="messages", content_sha256="0" * 64,
                    source_sha256="0" * 64, row_count=3, invalid_count=0,
                    report={"left_out": [{"feedback_id": "fbk_1", "code": "disputed", "detail": SECRET}]},
                ),
                DatasetBuild(
                    id="bld_1", job_id="job_2", tenant_id=tenant_id, name="revised", request={}, teacher="t",
                    asked_by={"key_id": "someone", "scopes": ["tune"], "groups": ["hr"]},
                    report={"named": [{"piece": "c1", "code": "unsupported", "detail": SECRET}]},
                ),
            ]
        )  # fmt: skip
        session.flush()
        session.add(
            Feedback(
                id="fbk_1", tenant_id=tenant_id, answer_id="ans_1", key_id="someone", rating="up", correction=SECRET,
                consent=True,
            )
        )  # fmt: skip
        for number, text in enumerate((SECRET, SECRET, "public words")):
            content = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]}
            session.add(
                DatasetRow(
                    id=f"row_{number}", dataset_id="dst_1", tenant_id=tenant_id, ordinal=number, line=number + 1,
                    content=content, content_sha256=f"{number:064d}",
                )
            )  # fmt: skip
        session.flush()
        session.add(RowSource(row_id="row_0", kind="document", source_id="doc_1", generation=1))
        session.add(RowSource(row_id="row_1", kind="curated", source_id="cur_2"))


def call(client: TestClient, line: str) -> Any:
    """One request to a route, with the traces' ids in its path."""
    method, template = line.split(" ")
    path = template
    for name in template.split("{")[1:]:
        key = name.split("}")[0]
        path = path.replace("{" + key + "}", IDS.get(key, "nothing"))
    return client.request(method, path + QUERY.get(line, ""), json=MATRIX[line].body)


@pytest.fixture
def world(api: Api) -> Api:
    leave_traces(api)
    return api


def test_every_route_is_in_the_matrix(api: Api) -> None:
    served = {
        f"{method.upper()} {path}" for path, operations in api.app.openapi()["paths"].items() for method in operations
    }
    assert served - OPEN == set(MATRIX), "say for each route who may call it and what an outsider finds"


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("groups", [(), ("sales",)])
def test_who_is_outside_of_the_group_finds_no_trace(world: Api, scope: str, groups: tuple[str, ...]) -> None:
    outsider = world.client(world.key(scope, groups=groups))
    world.search.passages = []
    for line, row in MATRIX.items():
        before = len(world.search.seen)
        answer = call(outsider, line)
        where = f"{line} as {scope} of {groups}: {answer.status_code} {answer.text[:300]}"
        assert SECRET not in answer.text and answer.status_code < 500, where
        if scope not in row.scopes or row.finds is Finds.REFUSED:
            assert answer.status_code == 403, where
        elif row.finds is Finds.NOTHING and scope not in row.shown_to:
            assert answer.status_code == 404, where
        else:
            assert answer.status_code not in (401, 403), where
        if row.finds is Finds.ITS_OWN and scope in row.scopes:
            assert world.search.seen[before].groups == {"*", *groups}, where
    with world.database.read() as session:
        assert session.get_one(Document, "doc_1").status == "ready"
        assert session.get_one(CuratedAnswer, "cur_1").retired_at is None
        assert session.get_one(Job, "job_1").status == "failed"
        assert len(session.scalars(select(Feedback)).all()) == 1


def test_who_is_inside_finds_it(world: Api) -> None:
    shown = {
        "GET /v1/documents": "query", "GET /v1/documents/{document_id}": "query",
        "GET /v1/documents/{document_id}/chunks": "query", "GET /v1/admin/curated": "tune",
        "GET /v1/datasets": "tune", "GET /v1/datasets/{dataset_id}": "tune",
        "GET /v1/datasets/{dataset_id}/rows": "tune", "GET /v1/dataset-builds": "tune",
        "GET /v1/dataset-builds/{build_id}": "tune",
    }  # fmt: skip
    for line, scope in shown.items():
        answer = call(world.client(world.key(scope, groups=("hr",))), line)
        assert SECRET in answer.text, f"{line}: {answer.status_code} {answer.text[:300]}"
    insider = world.client(world.key("tune", "feedback", groups=("hr",)))
    rows = insider.get("/v1/datasets/dst_1/rows").json()["items"]
    assert [row["line"] for row in rows] == [1, 2, 3]
    assert insider.get("/v1/datasets/dst_1/quality").json()["rows"] == 3
    assert insider.post("/v1/answers/ans_1/feedback", json={"rating": "up"}).status_code == 201
    assert insider.delete("/v1/admin/curated/cur_1").status_code == 204


def test_an_outsider_reads_the_rows_that_are_for_all(world: Api) -> None:
    tuner = world.client(world.key("tune"))
    assert [row["line"] for row in tuner.get("/v1/datasets/dst_1/rows?limit=1").json()["items"]] == [3]
    first = tuner.get("/v1/datasets/dst_1/quality").json()
    world.client().get("/v1/datasets/dst_1/quality")
    assert tuner.get("/v1/datasets/dst_1/quality").json() == first and first["rows"] == 1


def test_pages_of_curated_answers_go_on_behind_hidden_ones(world: Api) -> None:
    admin, tuner = world.client(), world.client(world.key("tune"))
    for number in range(3):
        admin.post("/v1/admin/curated", json={"question": f"open {number}", "answer": "a"})
        hidden = {"question": f"closed {number}", "answer": "a", "groups": ["hr"]}
        admin.post("/v1/admin/curated", json=hidden)
    found, cursor = [], ""
    while True:
        page = tuner.get(f"/v1/admin/curated?limit=1{cursor}").json()
        found += [item["question"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == ["open 2", "open 1", "open 0"]


def test_rows_follow_a_document_that_is_opened_or_closed(world: Api) -> None:
    tuner = world.client(world.key("tune"))
    with world.database.write() as session:
        session.get_one(DocumentGroup, ("doc_1", "hr")).group_name = "*"
    assert [row["line"] for row in tuner.get("/v1/datasets/dst_1/rows").json()["items"]] == [1, 3]
    with world.database.write() as session:
        session.get_one(DocumentGroup, ("doc_1", "*")).group_name = "hr"
    assert [row["line"] for row in tuner.get("/v1/datasets/dst_1/rows").json()["items"]] == [3]


def test_one_may_rate_what_one_was_answered(world: Api) -> None:
    world.search.passages = [PASSAGE]
    asker = world.client(world.key("query", "feedback"))
    answer = asker.post("/v1/ask", json={"question": "q"}).json()
    assert asker.post(f"/v1/answers/{answer['id']}/feedback", json={"rating": "up"}).status_code == 201
    other = world.client(world.key("feedback"))
    assert other.post(f"/v1/answers/{answer['id']}/feedback", json={"rating": "up"}).status_code == 404


def test_another_tenant_finds_no_trace(world: Api, other_tenant: Tenant) -> None:
    stranger = world.client(world.key("admin", tenant=other_tenant))
    world.search.passages = []
    for line, row in MATRIX.items():
        if line.endswith("/audit/events"):
            continue  # its own trail, without an end
        answer = call(stranger, line)
        where = f"{line}: {answer.status_code} {answer.text[:300]}"
        assert SECRET not in answer.text and answer.status_code not in (401, 500), where
        if "{" in line and any("{" + key + "}" in line for key in IDS if key != "collection"):
            assert answer.status_code in (403, 404), where
        assert row.finds is not Finds.NOTHING or answer.status_code in (403, 404), where
