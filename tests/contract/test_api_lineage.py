"""From feedback to rows, and from a deleted document or a withdrawn consent to the adapters that saw them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from core.access import in_the_name_of
from core.tables import (
    AdapterFamily,
    AdapterVersion,
    ChunkRow,
    Collection,
    Dataset,
    DatasetRow,
    Document,
    DocumentGroup,
    RunDocument,
    Schedule,
    TuningRun,
)
from tests.api_app import PASSAGE, Api
from tuning.prepare import Preparation, prepare_files
from tuning.recipe import load_recipe
from tuning.seen import record_lineage
from tuning.sizes import SMALL
from tuning.sources import load_rows, withhold

HOUSE = "/v1/admin/adapters/house"


def shelve(api: Api, *groups: str) -> None:
    """The document that every fake search finds."""
    with api.database.write() as session:
        collection = session.scalars(select(Collection).where(Collection.tenant_id == api.tenant.id)).one()
        session.add(
            Document(
                id=PASSAGE.document_id, tenant_id=api.tenant.id, collection_id=collection.id, filename="handbook.md",
                status="ready", active_generation=1,
            )
        )  # fmt: skip
        session.flush()
        for group in groups or ("*",):
            session.add(DocumentGroup(document_id=PASSAGE.document_id, group_name=group))
        session.add(
            ChunkRow(
                id=PASSAGE.chunk_id, tenant_id=api.tenant.id, document_id=PASSAGE.document_id, generation=1, ordinal=0,
                start=10, end=47, text=PASSAGE.text, heading="Leave",
            )
        )  # fmt: skip


def ask(admin: TestClient, question: str = "How many days of leave?") -> dict[str, Any]:
    return admin.post("/v1/ask", json={"question": question}).json()


def rate(client: TestClient, answer: dict[str, Any], **body: Any) -> str:
    given = client.post(f"/v1/answers/{answer['id']}/feedback", json={"consent": True, **body})
    assert given.status_code == 201
    return given.json()["id"]


def rows_of(admin: TestClient, dataset: dict[str, Any]) -> list[dict[str, Any]]:
    return admin.get(f"/v1/datasets/{dataset['id']}/rows").json()["items"]


def train(
    api: Api, folder: Path, name: str, audience: list[str] | None = None, reader: Sequence[str] | None = None
) -> Preparation:
    """A run over all supervised sets, as far as its preparation, and the version that comes of it."""
    with api.database.read() as session:
        ids = session.scalars(select(Dataset.id).where(Dataset.format.in_(("messages", "alpaca")))).all()
    rows, duplicates = load_rows(api.database, api.tenant.id, ids)
    rows, withheld = withhold(api.database, rows, audience, in_the_name_of(api.tenant.id, reader))
    found = prepare_files(
        folder, rows, duplicates=duplicates, tenant_id=api.tenant.id, recipe=load_recipe("style-cpu", {}), search=None,
        count_tokens=lambda text: len(text) // 3, size=SMALL, left_out=withheld, audience=audience,
    )  # fmt: skip
    api.add_version()
    with api.database.write() as session:
        family = session.scalars(select(AdapterFamily)).one()
        session.add(TuningRun(id=name, tenant_id=api.tenant.id, family_id=family.id, method="sft"))
        session.flush()
        record_lineage(session, name, found)
        version = session.scalars(select(AdapterVersion).order_by(AdapterVersion.created_at.desc()).limit(1)).one()
        version.run_id = name
        version.manifest = {"notes": {"audience": found.audience}}
    return found


def upload_filler(admin: TestClient, count: int = 40) -> None:
    lines = "\n".join(
        f'{{"instruction": "Question {n * 7919}?", "output": "Answer {n * 104729}."}}' for n in range(1, count + 1)
    )
    files = {"file": ("style.jsonl", lines.encode(), "application/jsonl")}
    assert admin.post("/v1/datasets", files=files).status_code == 201


def test_feedback_becomes_rows_pairs_and_labels_with_their_lineage(api: Api, admin: TestClient) -> None:
    shelve(api)
    liked, mended, silent, hated = (ask(admin, f"days {n}?") for n in range(4))
    up = rate(admin, liked, rating="up")
    fixed = rate(admin, mended, rating="down", correction="25 days, with pleasure [1].")
    nothing = rate(admin, silent, rating="up", consent=False)
    down = rate(admin, hated, rating="down")
    made = admin.post("/v1/datasets/from-feedback", json={}).json()
    shapes = {one["format"]: one for one in made["datasets"]}
    assert {shape: one["row_count"] for shape, one in shapes.items()} == {"messages": 2, "preference": 1, "unpaired": 3}
    assert {one["feedback_id"]: one["code"] for one in made["left_out"]} == {
        nothing: "no_consent",
        down: "no_correction",
    }
    first, second = rows_of(admin, shapes["messages"])
    assert first["content"]["passages"] == [{"text": PASSAGE.text, "title": "Leave"}]
    assert first["lineage"] == {
        "source": "feedback", "answer_id": liked["id"], "feedback_id": up,
        "documents": [{"document_id": "doc_1", "generation": 1}], "groups": None, "consent": True,
        "given_by": first["lineage"]["given_by"],
    }  # fmt: skip
    assert second["content"]["messages"][1]["content"] == "25 days, with pleasure [1]."
    (pair,) = rows_of(admin, shapes["preference"])
    assert pair["content"]["chosen"] == "25 days, with pleasure [1]." and pair["content"]["rejected"] == "25 days [1]."
    assert pair["lineage"]["feedback_id"] == fixed
    assert [row["content"]["label"] for row in rows_of(admin, shapes["unpaired"])] == [True, False, False]
    again = admin.post("/v1/datasets/from-feedback", json={}).json()
    assert {one["id"] for one in again["datasets"]} == {one["id"] for one in made["datasets"]}
    assert not any(one["created"] for one in again["datasets"])


def test_a_second_thought_counts_and_a_dispute_does_not(api: Api, admin: TestClient) -> None:
    shelve(api)
    answer = ask(admin)
    first = rate(admin, answer, rating="up")
    second = rate(admin, answer, rating="down")
    other = rate(api.client(api.key("feedback")), answer, rating="up")
    refused = admin.post("/v1/datasets/from-feedback", json={})
    assert (refused.status_code, refused.json()["code"]) == (422, "no_feedback")
    assert {one["feedback_id"]: one["code"] for one in refused.json()["left_out"]} == {
        first: "superseded", second: "disputed", other: "disputed",
    }  # fmt: skip


def test_a_deleted_document_takes_its_rows_and_names_its_adapters(api: Api, admin: TestClient, tmp_path: Path) -> None:
    shelve(api)
    upload_filler(admin)
    rate(admin, ask(admin), rating="up")
    admin.post("/v1/datasets/from-feedback", json={})
    before = train(api, tmp_path / "one", "run_1")
    assert before.train_rows + before.held_out_rows == 41
    assert [
        v["version"] for v in admin.get("/v1/admin/adapters?saw_document=doc_1").json()["items"][0]["versions"]
    ] == ["v1"]
    assert admin.delete("/v1/documents/doc_1").status_code == 202
    entry = admin.get("/v1/admin/audit?object_id=doc_1").json()["items"][0]
    assert entry["detail"]["training_rows_retired"] == 2, "the answer and its label"
    with api.database.read() as session:
        gone = session.scalars(select(DatasetRow).where(DatasetRow.retired_at.is_not(None))).all()
    assert {row.retired_reason for row in gone} == {"document 'handbook.md' was deleted"}
    after = train(api, tmp_path / "two", "run_2")
    assert after.train_rows + after.held_out_rows == 40 and after.dataset_version != before.dataset_version
    (family,) = admin.get("/v1/admin/adapters?saw_document=doc_1").json()["items"]
    assert [version["version"] for version in family["versions"]] == ["v1"], "the new one never saw it"
    assert admin.get("/v1/admin/adapters?saw_document=doc_2").json()["items"] == []


def test_a_passage_that_only_misleads_was_seen_too(api: Api, admin: TestClient) -> None:
    api.add_version()
    with api.database.write() as session:
        family = session.scalars(select(AdapterFamily)).one()
        session.add(TuningRun(id="run_9", tenant_id=api.tenant.id, family_id=family.id, method="sft"))
        session.flush()
        session.add(RunDocument(run_id="run_9", document_id="doc_7", generation=3, use="negative"))
        session.scalars(select(AdapterVersion)).one().run_id = "run_9"
    assert len(admin.get("/v1/admin/adapters?saw_document=doc_7").json()["items"]) == 1


def test_withdrawn_consent_takes_its_rows_and_names_its_adapters(api: Api, admin: TestClient, tmp_path: Path) -> None:
    shelve(api)
    upload_filler(admin)
    giver, other = api.client(api.key("query", "feedback")), api.client(api.key("feedback"))
    answer = ask(admin)
    feedback = rate(giver, answer, rating="up")
    admin.post("/v1/datasets/from-feedback", json={})
    train(api, tmp_path, "run_1")
    path = f"/v1/answers/{answer['id']}/feedback/{feedback}/withdraw"
    assert other.post(path).status_code == 403
    withdrawn = giver.post(path).json()
    assert withdrawn == {"feedback_id": feedback, "rows_retired": 2, "adapters": ["house@v1"]}
    assert giver.post(path).json()["rows_retired"] == 0
    assert len(admin.get(f"/v1/admin/adapters?saw_feedback={feedback}").json()["items"]) == 1
    refused = admin.post("/v1/datasets/from-feedback", json={}).json()
    assert refused["left_out"][0]["code"] == "no_consent"


def test_rows_for_some_never_reach_an_adapter_for_others(api: Api, admin: TestClient, tmp_path: Path) -> None:
    shelve(api, "hr")
    upload_filler(admin)
    rate(admin, ask(admin), rating="up")
    made = admin.post("/v1/datasets/from-feedback", json={"shapes": ["messages"]}).json()["datasets"][0]
    assert rows_of(admin, made)[0]["lineage"]["groups"] == ["hr"]
    for number, audience in enumerate((None, ["sales"], ["hr", "sales"])):
        found = train(api, tmp_path / str(number), f"run_{number}", audience)
        assert [one["code"] for one in found.skipped] == ["not_for_audience"] and found.audience is None
    found = train(api, tmp_path / "hr", "run_hr", ["hr"])
    assert found.skipped == [] and found.audience == ["hr"]
    assert admin.post(f"{HOUSE}/promote", json={"version": "v4"}).status_code == 200
    inside, outside = api.client(api.key("query", groups=["hr"])), api.client(api.key("query", groups=["sales"]))
    assert ask(inside)["provenance"]["adapter"] == "house@v4"
    assert ask(outside)["provenance"]["adapter"] is None, "though the family itself is open to all"
    assert outside.post("/v1/ask", json={"question": "days?", "adapter": "house@v4"}).status_code == 404


def test_a_run_takes_only_rows_that_whoever_asked_for_it_may_read(api: Api, admin: TestClient, tmp_path: Path) -> None:
    shelve(api, "hr")
    upload_filler(admin)
    rate(admin, ask(admin), rating="up")
    made = admin.post("/v1/datasets/from-feedback", json={"shapes": ["messages"]}).json()["datasets"][0]
    inside, outside = api.client(api.key("tune", groups=["hr"])), api.client(api.key("tune"))
    asked = {"family": "house", "dataset_ids": [made["id"]]}
    # alone it has one row to learn from for whoever may read it, and none for others
    for client, rows in ((admin, 1), (inside, 1), (outside, 0)):
        refused = client.post("/v1/admin/tuning-runs", json=asked)
        assert (refused.status_code, refused.json()["code"], refused.json()["rows"]) == (422, "too_few_rows", rows)
    filler = next(one["id"] for one in admin.get("/v1/datasets").json()["items"] if one["id"] != made["id"])
    for client, left_out in ((admin, 0), (inside, 0), (outside, 1)):
        run = client.post("/v1/admin/tuning-runs", json={"family": "house", "dataset_ids": [made["id"], filler]}).json()
        told = [one["detail"].split(" ")[0] for one in run["warnings"] if one["code"] == "rows_not_readable"]
        assert told == ["1"] * left_out
        with api.database.read() as session:
            reader = session.get_one(TuningRun, run["id"]).reader_groups
        found = train(api, tmp_path / run["id"], f"of_{run['id']}", ["hr"], reader)
        assert [one["code"] for one in found.skipped] == ["not_readable"] * left_out


def test_a_schedule_reads_as_whoever_last_changed_it(api: Api, admin: TestClient) -> None:
    outside = api.client(api.key("tune", groups=["sales"]))
    made = admin.post("/v1/admin/schedules", json={"family": "house", "cron": "0 3 * * *"}).json()

    def reader() -> object:
        with api.database.read() as session:
            return session.get_one(Schedule, made["id"]).reader_groups

    assert reader() is None
    outside.patch(f"/v1/admin/schedules/{made['id']}", json={"cron": "0 4 * * *"})
    assert reader() == ["sales"]


def test_a_document_closed_since_closes_its_rows(api: Api, admin: TestClient, tmp_path: Path) -> None:
    shelve(api)
    upload_filler(admin)
    rate(admin, ask(admin), rating="up")
    admin.post("/v1/datasets/from-feedback", json={})
    with api.database.write() as session:
        session.get_one(DocumentGroup, ("doc_1", "*")).group_name = "hr"
    assert [one["code"] for one in train(api, tmp_path, "run_1").skipped] == ["not_for_audience"]


def test_a_passage_of_an_upload_may_name_its_document(api: Api, admin: TestClient) -> None:
    shelve(api, "hr")
    row = b'{"instruction": "Days?", "output": "25 [1].", "passages": [{"text": "25 days.", "document_id": "doc_1"}]}'
    uploaded = admin.post("/v1/datasets", files={"file": ("a.jsonl", row, "application/jsonl")}).json()
    (stored,) = rows_of(admin, uploaded)
    assert stored["lineage"]["documents"] == [{"document_id": "doc_1", "generation": 1}]
    assert stored["lineage"]["groups"] == ["hr"]
    admin.delete("/v1/documents/doc_1")
    assert rows_of(admin, uploaded)[0]["retired_at"] is not None


def test_a_curated_answer_goes_first_until_a_champion_has_learnt_it(
    api: Api, admin: TestClient, tmp_path: Path
) -> None:
    shelve(api)
    upload_filler(admin)
    body = {
        "question": "Ｄａｙｓ of paid leave?",
        "answer": "Ｔwenty-five days a year [1].",
        "passages": [{"text": PASSAGE.text, "document_id": "doc_1"}],
    }
    made = admin.post("/v1/admin/curated", json=body)
    assert made.status_code == 201
    curated = made.json()["id"]
    given = ask(admin, "days　of paid LEAVE？")
    assert (given["answer"], given["provenance"]["curated"]) == ("Ｔwenty-five days a year [1].", curated)
    assert api.engine.requests == [], "the model was not asked"
    assert ask(admin, "休暇は？")["answer"] == "25 days [1]."
    admin.post("/v1/datasets/from-feedback", json={})
    found = train(api, tmp_path, "run_1")
    with api.database.read() as session:
        row_id = session.scalars(
            select(DatasetRow.id).where(DatasetRow.lineage["source"].as_string() == "curated")
        ).one()
    if found.parts[row_id] != "train":
        pytest.fail("the split holds this row out: choose another question")
    assert "curated" in ask(admin, body["question"])["provenance"], "no champion has learnt it yet"
    admin.post(f"{HOUSE}/promote", json={"version": "v1"})
    assert "curated" not in ask(admin, body["question"])["provenance"]
    admin.post(f"{HOUSE}/rollback", json={"reason": "drill"})
    assert "curated" in ask(admin, body["question"])["provenance"], "the base has not learnt it"
    admin.delete("/v1/documents/doc_1")
    assert "curated" not in ask(admin, body["question"])["provenance"]
    assert admin.get("/v1/admin/curated").json()["items"][0]["retired_reason"].startswith("document")


def test_a_curated_answer_is_told_to_its_groups_and_can_be_taken_back(api: Api, admin: TestClient) -> None:
    body = {"question": "Bonus?", "answer": "In July.", "groups": ["hr"]}
    curated = admin.post("/v1/admin/curated", json=body).json()["id"]
    inside, outside = api.client(api.key("query", groups=["hr"])), api.client(api.key("query"))
    assert ask(inside, "bonus")["answer"] == "In July." != ask(outside, "bonus")["answer"]
    assert api.client(api.key("query")).delete(f"/v1/admin/curated/{curated}").status_code == 403
    assert admin.delete(f"/v1/admin/curated/{curated}").status_code == 204
    assert ask(inside, "bonus")["answer"] != "In July."


def test_quality_is_worked_out_once_and_told_with_reasons(api: Api, admin: TestClient) -> None:
    rows = b'{"instruction": "Q?", "output": "It is 3."}\n{"instruction": "Q?", "output": "It is 4."}'
    made = admin.post("/v1/datasets", files={"file": ("a.jsonl", rows, "application/jsonl")}).json()
    first = admin.get(f"/v1/datasets/{made['id']}/quality").json()
    assert first["counts"] == {"contradiction": 1}
    assert admin.get(f"/v1/datasets/{made['id']}/quality").json() == first
    with api.database.read() as session:
        assert session.get_one(Dataset, made["id"]).quality == first
    assert api.client(api.key("query")).get(f"/v1/datasets/{made['id']}/quality").status_code == 403
