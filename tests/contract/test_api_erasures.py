"""Erasures over HTTP and SQLite: who may ask, what is planned, what is left, what a death or a cancel does."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from core import audit
from core.blobs import FolderBlobStore
from core.jobs import JobLease
from core.tables import (
    AdapterAlias,
    AdapterFamily,
    AdapterVersion,
    AliasEvent,
    Answer,
    AuditEntry,
    Base,
    ChunkRow,
    Collection,
    CuratedAnswer,
    Dataset,
    DatasetBuild,
    DatasetBuildStep,
    DatasetRow,
    Document,
    DocumentGeneration,
    Erasure,
    Feedback,
    Job,
    RowSource,
    RunDocument,
    RunRow,
    Schedule,
    Tenant,
    TenantDictionary,
    TuningRun,
)
from core.tables.base import utc_now
from core.tenants import create_tenant
from erasure.rows import rows_of
from erasure.runner import ErasureRunner
from erasure.storage import drop_run_folders
from generation.asking import AskOptions
from tests.api_app import PASSAGE, Api
from tests.erasing import columns_with, files_with
from tuning.service import TuningRequest, TuningService
from workers.base import run_job

NAME = "極秘丹波黒太郎"
DOCUMENT = "doc_" + "a" * 32
PLAIN = "doc_" + "b" * 32
RUN = "run_" + "c" * 32


class NoIndex:
    """An index without versions."""

    def live(self) -> tuple[()]:
        return ()


@dataclass
class World:
    api: Api
    runner: ErasureRunner

    def work(self) -> None:
        """Run the erasure jobs that are due."""
        with self.api.database.read() as session:
            due = Job.not_before.is_(None) | (Job.not_before <= utc_now())
            jobs = session.scalars(select(Job.id).where(Job.kind == "erasure", Job.status == "queued", due)).all()
        for job_id in jobs:
            run_job(self.api.services.jobs, job_id, self.runner.run)

    def erase(self, client: TestClient, **body: Any) -> dict[str, Any]:
        made = client.post("/v1/admin/erasures", json=body)
        assert made.status_code == 202, made.text
        self.work()
        shown: dict[str, Any] = client.get(f"/v1/admin/erasures/{made.json()['id']}").json()
        return shown


@pytest.fixture
def world(api: Api) -> World:
    services = api.services
    tuning = TuningService(services.db, services.jobs, services.settings)
    runner = ErasureRunner(
        services.db,
        services.blobs,
        services.jobs,
        NoIndex(),
        services.settings,
        tuning,
        lambda: None,  # type: ignore[arg-type]
    )
    return World(api, runner)


def document(api: Api, tenant: Tenant, document_id: str, text: str, filename: str = "a.txt") -> None:
    blobs = FolderBlobStore(api.services.settings.blobs_dir)
    digest = blobs.put(text.encode())
    with api.database.write() as session:
        collection = session.scalars(select(Collection).where(Collection.tenant_id == tenant.id)).one()
        session.add(
            Document(
                id=document_id, tenant_id=tenant.id, collection_id=collection.id, filename=filename, status="ready",
                active_generation=1, external_id=f"ext-{filename}", metadata_={"by": filename},
            )
        )  # fmt: skip
        session.flush()
        session.add(
            DocumentGeneration(
                document_id=document_id, generation=1, tenant_id=tenant.id, source_sha256=digest, text_sha256=digest,
                filename=filename, byte_size=len(text),
            )
        )  # fmt: skip
        session.add(
            ChunkRow(
                id=f"chunk-{document_id}"[:36], tenant_id=tenant.id, document_id=document_id, generation=1, ordinal=0,
                start=0, end=len(text), text=text,
            )
        )  # fmt: skip


def traces(api: Api, tenant: Tenant, name: str = NAME) -> None:
    """A document, and what was made of it, down to a version that serves and descends from a clean one."""
    document(api, tenant, DOCUMENT, f"The keeper is {name}.\n", f"about-{name}.txt")
    document(api, tenant, PLAIN, "The canteen opens at noon.\n", "canteen.txt")
    named = {"document_id": DOCUMENT, "chunk_id": "c1", "generation": 1}
    blobs = FolderBlobStore(api.services.settings.blobs_dir)
    prepared = blobs.put(f'{{"prompt": "{name}"}}'.encode())
    uploaded = blobs.put(json.dumps([{"instruction": name, "output": "x"}]).encode())
    folder = api.services.settings.runs_dir / RUN
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text(f'{{"prompt": "{name}"}}', encoding="utf-8")
    with api.database.write() as session:
        one = {"tenant_id": tenant.id}
        answer = Answer(id="ans_" + "1" * 32, question="who?", answer=f"It is {name}.", passages=[named],
                        conversation_id="c-1", **one)  # fmt: skip
        free = Answer(id="ans_" + "2" * 32, question="when?", answer="At noon.", passages=[], **one)
        again = Answer(id="ans_" + "3" * 32, question="sure?", answer=f"Yes, {name}.", passages=[],
                       conversation_id="c-1", **one)  # fmt: skip
        session.add_all([answer, free])
        session.flush()
        session.add(again)
        session.flush()
        session.add(Feedback(answer_id=answer.id, rating="up", comment=f"{name}!", consent=True, **one))
        curated = CuratedAnswer(
            id="cur_" + "1" * 32, question=f"{name}?", question_key="k", answer="yes", passages=[named],
            created_by="x", **one,
        )  # fmt: skip
        dataset = Dataset(
            id="dst_" + "1" * 32, name="made", format="messages", content_sha256="1" * 64, source_sha256=uploaded,
            row_count=2, invalid_count=1, report={"invalid": [{"line": 3, "detail": name}], "languages": {"ja": 2}},
            **one,
        )  # fmt: skip
        session.add_all([curated, dataset])
        session.flush()
        for number, text in enumerate((f"{name} it is", "noon it is")):
            content = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]}
            session.add(
                DatasetRow(
                    id=f"row_{number}", dataset_id=dataset.id, ordinal=number, line=number + 1, content=content,
                    content_sha256=f"{number:064d}", lineage={"file": f"{name}.jsonl"} if number == 0 else {}, **one,
                )
            )  # fmt: skip
        session.flush()
        session.add(RowSource(row_id="row_0", kind="document", source_id=DOCUMENT, generation=1))
        build = DatasetBuild(
            name="b", teacher="t", dataset_ids=[dataset.id], report={"named": [{"detail": name}], "pieces": 1}, **one
        )
        session.add(build)
        session.flush()
        piece = {"rows": [{"messages": [{"role": "user", "content": name}]}], "left_out": []}
        session.add(DatasetBuildStep(build_id=build.id, piece_id=f"chunk-{DOCUMENT}"[:36], outcome=piece))
        session.add(
            TenantDictionary(entries={"groups": [[name, "keeper"]]}, updated_at=utc_now(), updated_by="x", **one)
        )
        session.add(Schedule(family="house", cron="0 0 * * *", request={"note": name}, **one))
        session.add(
            Job(kind="ingest", status="succeeded", task="ingest.document", subject_id=DOCUMENT,
                arguments={"filename": f"about-{name}.txt"}, **one)
        )  # fmt: skip
        audit.record(
            session, tenant_id=tenant.id, actor="key:x", action="document.replace", object_id=DOCUMENT,
            detail={"filename": f"about-{name}.txt"},
        )  # fmt: skip
        family = AdapterFamily(name="house", version_counter=2, **one)
        session.add(family)
        session.flush()
        clean = AdapterVersion(family_id=family.id, version="v1", digest="1" * 64, status="candidate", **one)
        session.add(clean)
        session.flush()
        job = Job(kind="tuning", status="succeeded", task="tuning.train", subject_id=RUN, **one)
        session.add(job)
        session.flush()
        session.add(
            TuningRun(
                id=RUN, family_id=family.id, method="sft", recipe={}, dataset_ids=[dataset.id], job_id=job.id,
                progress={"files": {"rows.jsonl": prepared}, "error": {"stderr": name}}, parent_version_id=clean.id,
                **one,
            )
        )  # fmt: skip
        session.flush()
        tainted = AdapterVersion(
            family_id=family.id, version="v2", digest="2" * 64, status="candidate", run_id=RUN, **one
        )
        session.add(tainted)
        session.flush()
        session.add(RunRow(run_id=RUN, row_id="row_0", part="train"))
        session.add(RunDocument(run_id=RUN, document_id=DOCUMENT, generation=1, use="row"))
        for revision, version in enumerate((clean, tainted), start=1):
            session.add(
                AliasEvent(
                    family_id=family.id, alias="champion", action="promote", to_version=version.version, actor="x",
                    revision=revision, **one,
                )
            )  # fmt: skip
        session.add(AdapterAlias(family_id=family.id, alias="champion", version_id=tainted.id, revision=2, **one))
    for version in (clean, tainted):
        weights = api.services.settings.adapters_dir / version.digest
        weights.mkdir(parents=True, exist_ok=True)
        (weights / "adapter_model.safetensors").write_bytes(b"weights")


def statuses(api: Api) -> dict[str, str]:
    with api.database.read() as session:
        return {row.version: row.status for row in session.scalars(select(AdapterVersion))}


def champion(api: Api) -> str | None:
    with api.database.read() as session:
        alias = session.scalars(select(AdapterAlias).where(AdapterAlias.alias == "champion")).one()
        version = session.get(AdapterVersion, alias.version_id or "")
        return version.version if version is not None else None


def more_rows(api: Api) -> None:
    """As many as a training needs."""
    with api.database.write() as session:
        for number in range(100, 130):
            content = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": f"n {number}"}]}
            session.add(
                DatasetRow(
                    id=f"row_{number}", dataset_id="dst_" + "1" * 32, tenant_id=api.tenant.id, ordinal=number,
                    line=number, content=content, content_sha256=f"{number:064d}",
                )
            )  # fmt: skip


def trained_on(api: Api, run_id: str) -> None:
    """A run that went on from v2, and its version v3, which serves."""
    with api.database.write() as session:
        before = session.scalars(select(AdapterVersion).where(AdapterVersion.version == "v2")).one()
        recipe = session.get_one(TuningRun, RUN).recipe
        run = TuningRun(
            id=run_id, tenant_id=api.tenant.id, family_id=before.family_id, method="sft", recipe=recipe,
            dataset_ids=["dst_" + "1" * 32], progress={"files": {}}, parent_version_id=before.id,
        )  # fmt: skip
        session.add(run)
        session.flush()
        version = AdapterVersion(
            tenant_id=api.tenant.id, family_id=before.family_id, version="v3", digest="3" * 64, status="candidate",
            run_id=run_id,
        )  # fmt: skip
        session.add_all([version, RunRow(run_id=run_id, row_id="row_0", part="parent")])
        session.flush()
        session.scalars(select(AdapterAlias)).one().version_id = version.id
    folder = api.services.settings.runs_dir / run_id
    folder.mkdir(parents=True)
    (folder / "items.jsonl").write_text(NAME, encoding="utf-8")


def everything(api: Api, marker: str) -> list[str]:
    return [*columns_with(api.database, marker), *files_with(api.services.settings.data_dir, marker)]


def test_exactly_one_thing_is_named(world: World, admin: TestClient) -> None:
    traces(world.api, world.api.tenant)
    for body in ({}, {"document_id": DOCUMENT, "text": "abc"}, {"external_id": "x", "tenant": "y"}):
        refused = admin.post("/v1/admin/erasures", json=body)
        assert (refused.status_code, refused.json()["code"]) == (422, "erasure_selector")
    assert admin.post("/v1/admin/erasures", json={"document_id": "doc_none"}).status_code == 404
    assert admin.post("/v1/admin/erasures", json={"external_id": "none"}).status_code == 404
    short = admin.post("/v1/admin/erasures", json={"text": " x "})
    assert (short.status_code, short.json()["code"]) == (422, "invalid_text")
    assert admin.post("/v1/admin/erasures", json={"document_id": DOCUMENT, "retire": "later"}).status_code == 422


def test_an_admin_reaches_its_own_tenant_and_the_operator_whole_ones(world: World, admin: TestClient) -> None:
    api = world.api
    traces(api, api.tenant)
    with api.database.write() as session:
        other = create_tenant(session, "acme")
    theirs = api.client(api.key("admin", tenant=other))
    assert theirs.post("/v1/admin/erasures", json={"document_id": DOCUMENT}).status_code == 404
    assert theirs.post("/v1/admin/erasures", json={"tenant": "acme"}).status_code == 403
    assert api.client(api.key("ingest", "tune")).post("/v1/admin/erasures", json={"text": NAME}).status_code == 403
    assert admin.post("/v1/admin/erasures", json={"tenant": "default"}).json()["code"] == "tenant_is_default"
    made = world.erase(theirs, text=NAME)
    assert made["status"] == "done" and made["plan"]["counts"]["documents"] == 0
    assert everything(api, NAME), "another tenant's text is none of theirs"
    assert admin.get(f"/v1/admin/erasures/{made['id']}").status_code == 404
    assert [one["id"] for one in theirs.get("/v1/admin/erasures").json()["items"]] == [made["id"]]


def test_a_deleted_document_is_found_by_its_traces(world: World, admin: TestClient) -> None:
    """The deletion of before took the document and left its text elsewhere."""
    api = world.api
    traces(api, api.tenant)
    with api.database.write() as session:
        session.delete(session.get_one(Document, DOCUMENT))
        audit.record(
            session, tenant_id=api.tenant.id, actor="key:x", action="document.delete", object_id=DOCUMENT,
            detail={"filename": f"about-{NAME}.txt", "external_id": "ext-gone"},
        )  # fmt: skip
    done = world.erase(admin, external_id="ext-gone")
    assert done["status"] == "done" and done["selector"] == {"documents": [DOCUMENT]}
    with api.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Answer)) == 1
        assert session.get_one(DatasetRow, "row_0").content == {}
        details = session.scalars(select(AuditEntry.detail).where(AuditEntry.object_id == DOCUMENT)).all()
        assert details and all(detail == {"erased": done["id"]} for detail in details)
    assert not (api.services.settings.runs_dir / RUN).exists()
    left = {place.split(".")[0] for place in columns_with(api.database, NAME)}
    assert left == {"tenant_dictionaries", "schedules"}, "what people wrote of the name elsewhere is no trace"


def test_a_text_is_gone_wherever_it_stood_in_any_spelling(world: World, admin: TestClient) -> None:
    api = world.api
    spelled = "ガードナー山田"
    decomposed = unicodedata.normalize("NFD", spelled)
    assert decomposed != spelled
    traces(api, api.tenant, decomposed)
    done = world.erase(admin, text=spelled)
    assert done["status"] == "done", done["job"]
    for marker in (spelled, decomposed):
        assert everything(api, marker) == []
        assert marker not in json.dumps(done, ensure_ascii=False)
    with api.database.read() as session:
        assert [row.id for row in session.scalars(select(Document))] == [PLAIN]
        assert session.scalars(select(TenantDictionary)).one().entries == {"groups": [["█", "keeper"]]}
        assert session.scalar(select(func.count()).select_from(DatasetRow)) == 2
        assert session.get_one(DatasetRow, "row_1").content["messages"][1]["content"] == "noon it is"
        dataset = session.scalars(select(Dataset)).one()
        assert dataset.report == {"languages": {"ja": 2}} and dataset.source_sha256 is None
        assert session.get_one(Erasure, done["id"]).selector.keys() == {"text_sha256"}
    assert done["certificate"]["erased"]["masked"]["count"] >= 2


def test_versions_that_saw_it_give_way_to_the_last_clean_one(world: World, admin: TestClient) -> None:
    api = world.api
    traces(api, api.tenant)
    done = world.erase(admin, document_id=DOCUMENT)
    assert statuses(api) == {"v1": "candidate", "v2": "retired"} and champion(api) == "v1"
    assert not (api.services.settings.adapters_dir / ("2" * 64)).exists()
    assert (api.services.settings.adapters_dir / ("1" * 64)).exists()
    assert [one["version"] for one in done["certificate"]["adapters"]] == ["house@v2"]
    history = admin.get("/v1/admin/adapters/house/history").json()
    assert history["items"][0]["action"] == "retire" and history["items"][0]["to_version"] == "v1"
    rolled = admin.post("/v1/admin/adapters/house/rollback", json={"reason": "further"})
    assert rolled.json()["to"] is None, "there is no way back to what was retired"


def test_a_version_may_serve_until_a_clean_training_has_passed(world: World, admin: TestClient) -> None:
    api = world.api
    traces(api, api.tenant)
    recipe = TuningService(api.database, api.services.jobs, api.services.settings)
    with api.database.write() as session:
        checked, _ = recipe._recipe(TuningRequest(family="house", recipe="style-cpu"))
        session.get_one(TuningRun, RUN).recipe = checked.model_dump(mode="json")
    waiting = world.erase(admin, document_id=DOCUMENT, retire="after_retrain")
    assert waiting["status"] == "waiting" and waiting["certificate"] is None
    assert champion(api) == "v2" and statuses(api)["v2"] == "candidate"
    assert next(iter(waiting["retrains"].values()))["problem"] == "too_few_rows"
    assert waiting["job"]["waiting_for"] == "erasure_waits_for_training"
    left = {place.split(".")[0] for place in columns_with(api.database, NAME)}
    assert left == {"tenant_dictionaries", "schedules"}, "all but the weights is gone already"

    more_rows(api)
    _due(api, waiting)
    world.work()
    waiting = admin.get(f"/v1/admin/erasures/{waiting['id']}").json()
    (told,) = waiting["retrains"].values()
    with api.database.read() as session:
        run = session.get_one(TuningRun, told["run_id"])
        assert (
            run.parent_version_id
            == session.scalars(select(AdapterVersion.id).where(AdapterVersion.version == "v1")).one()
        )
        family_id = run.family_id
    assert champion(api) == "v2"

    with api.database.write() as session:  # the training ends, and its version has passed the gate
        made = AdapterVersion(
            tenant_id=api.tenant.id, family_id=family_id, version="v3", digest="3" * 64, status="candidate",
            run_id=run.id,
        )  # fmt: skip
        session.add(made)
        session.flush()
        session.get_one(TuningRun, run.id).adapter_version_id = made.id
        session.get_one(Job, run.job_id).status = "succeeded"
    _due(api, waiting)
    world.work()
    done = admin.get(f"/v1/admin/erasures/{waiting['id']}").json()
    assert done["status"] == "done" and champion(api) == "v3"
    assert statuses(api) == {"v1": "candidate", "v2": "retired", "v3": "candidate"}


def test_the_waiting_ends_when_versions_are_to_retire_now(world: World, admin: TestClient) -> None:
    api = world.api
    traces(api, api.tenant)
    waiting = world.erase(admin, document_id=DOCUMENT, retire="after_retrain")
    assert waiting["status"] == "waiting" and champion(api) == "v2"
    changed = admin.patch(f"/v1/admin/erasures/{waiting['id']}", json={"retire": "now"})
    assert changed.status_code == 200 and changed.json()["retire"] == "now"
    world.work()
    assert admin.get(f"/v1/admin/erasures/{waiting['id']}").json()["status"] == "done"
    assert champion(api) == "v1"
    again = admin.patch(f"/v1/admin/erasures/{waiting['id']}", json={"retire": "now"})
    assert (again.status_code, again.json()["code"]) == (409, "erasure_done")


def test_a_clean_training_goes_back_to_before_the_first_that_saw_it(world: World, admin: TestClient) -> None:
    api = world.api
    traces(api, api.tenant)
    more_rows(api)
    service = TuningService(api.database, api.services.jobs, api.services.settings)
    recipe = service._recipe(TuningRequest(family="house", recipe="style-cpu"))[0].model_dump(mode="json")
    with api.database.write() as session:
        session.get_one(TuningRun, RUN).recipe = recipe
    trained_on(api, "run_" + "d" * 32)
    waiting = world.erase(admin, document_id=DOCUMENT, retire="after_retrain")
    assert statuses(api) == {"v1": "candidate", "v2": "retired", "v3": "candidate"}, (
        "v2 serves nobody: it need not wait"
    )
    (told,) = waiting["retrains"].values()
    with api.database.read() as session:
        parent = session.get_one(AdapterVersion, session.get_one(TuningRun, told["run_id"]).parent_version_id)
    assert parent.version == "v1"


def test_what_came_between_plan_and_execution_is_found(
    world: World, admin: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = world.api
    traces(api, api.tenant)
    begin = ErasureRunner._begin
    late, elsewhere = "run_" + "d" * 32, api.services.settings.data_dir.parent / "another machine"

    def later(self: ErasureRunner, lease: JobLease, erasure: Erasure) -> None:
        trained_on(api, late)
        begin(self, lease, erasure)

    monkeypatch.setattr(ErasureRunner, "_begin", later)
    for run_id in (RUN, late, "run_" + "e" * 32):
        (elsewhere / run_id).mkdir(parents=True)
    with api.database.write() as session:
        family = session.scalars(select(AdapterFamily)).one()
        session.add(
            TuningRun(
                id="run_" + "e" * 32, tenant_id=api.tenant.id, family_id=family.id, method="sft", recipe={},
                dataset_ids=[],
            )
        )  # fmt: skip
    assert world.erase(admin, document_id=DOCUMENT)["status"] == "done"
    assert statuses(api)["v3"] == "retired" and champion(api) == "v1"
    assert not (api.services.settings.runs_dir / late).exists()
    assert sorted(drop_run_folders(api.database, elsewhere)) == [RUN, late]
    assert [path.name for path in elsewhere.iterdir()] == ["run_" + "e" * 32]


def _due(api: Api, erasure: dict[str, Any]) -> None:
    """Its job need not wait any longer."""
    with api.database.write() as session:
        session.execute(update(Job).where(Job.id == erasure["job"]["id"]).values(not_before=None))


def test_a_plan_changes_nothing_and_is_carried_out_on_request(world: World, admin: TestClient) -> None:
    api = world.api
    traces(api, api.tenant)
    before = columns_with(api.database, NAME)
    planned = world.erase(admin, document_id=DOCUMENT, dry_run=True)
    assert planned["status"] == "planned" and columns_with(api.database, NAME) == before
    assert planned["plan"]["counts"]["rows"] == 1 and planned["plan"]["adapters"][0]["version"] == "house@v2"
    assert NAME not in json.dumps(planned, ensure_ascii=False)
    assert admin.post(f"/v1/admin/erasures/{planned['id']}/start").status_code == 202
    twice = admin.post(f"/v1/admin/erasures/{planned['id']}/start")
    assert (twice.status_code, twice.json()["code"]) == (409, "erasure_begun")
    world.work()
    assert admin.get(f"/v1/admin/erasures/{planned['id']}").json()["status"] == "done"


def test_it_can_be_cancelled_until_it_has_begun(
    world: World, admin: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = world.api
    traces(api, api.tenant)
    made = admin.post("/v1/admin/erasures", json={"document_id": DOCUMENT}).json()
    cancel = f"/v1/jobs/{made['job']['id']}/cancel"
    codes: dict[str, int] = {}
    begin, erase = ErasureRunner._begin, ErasureRunner._erase

    def cancelled_in_time(self: ErasureRunner, lease: JobLease, erasure: Erasure) -> None:
        codes["before"] = admin.post(cancel).status_code
        begin(self, lease, erasure)

    monkeypatch.setattr(ErasureRunner, "_begin", cancelled_in_time)
    world.work()
    shown = admin.get(f"/v1/admin/erasures/{made['id']}").json()
    assert codes == {"before": 202} and shown["status"] == "cancelled" and shown["begun_at"] is None
    assert columns_with(api.database, NAME) and champion(api) == "v2"

    def too_late(self: ErasureRunner, lease: JobLease, erasure: Erasure) -> None:
        answer = admin.post(f"/v1/jobs/{erasure.job_id}/cancel")
        codes["after"] = answer.status_code
        assert answer.json()["code"] == "job_irrevocable"
        erase(self, lease, erasure)

    monkeypatch.setattr(ErasureRunner, "_begin", begin)
    monkeypatch.setattr(ErasureRunner, "_erase", too_late)
    assert admin.post(f"/v1/admin/erasures/{made['id']}/start").status_code == 202
    world.work()
    assert codes["after"] == 409
    assert admin.get(f"/v1/admin/erasures/{made['id']}").json()["status"] == "done"


class Killed(BaseException):
    """The process dies: nothing after it runs, not even the end of the attempt."""


@pytest.mark.parametrize("kind", ["document", "text", "tenant"])
def test_wherever_it_is_killed_it_ends_the_same(
    world: World, admin: TestClient, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Killed at its n-th step, for growing n, until an attempt gets through."""
    api = world.api
    with api.database.write() as session:
        other = create_tenant(session, "acme")
    owner = other if kind == "tenant" else api.tenant
    traces(api, owner)
    body = {"document": {"document_id": DOCUMENT}, "text": {"text": NAME}, "tenant": {"tenant": "acme"}}[kind]
    made = admin.post("/v1/admin/erasures", json=body).json()
    check, write = JobLease.check, JobLease.write
    left = [0]

    def step() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    def dying_check(self: JobLease) -> None:
        step()
        check(self)

    @contextmanager
    def dying_write(self: JobLease) -> Iterator[Any]:
        step()
        with write(self) as session:
            yield session
        step()

    monkeypatch.setattr(JobLease, "check", dying_check)
    monkeypatch.setattr(JobLease, "write", dying_write)
    for attempt in (*range(1, 30), *range(30, 1000, 7)):
        left[0] = attempt
        try:
            world.work()
        except Killed:
            with api.database.write() as session:
                session.execute(update(Job).where(Job.id == made["job"]["id"]).values(status="queued", not_before=None))
            continue
        break
    else:
        raise AssertionError("it never got through")
    assert attempt > 15, "too few steps to mean anything"
    done = admin.get(f"/v1/admin/erasures/{made['id']}").json()
    assert done["status"] == "done", done["job"]
    assert done["certificate"]["erased"]["documents"]["count"] == (2 if kind == "tenant" else 1)
    gone = ["tenant_dictionaries", "schedules"] if kind == "document" else []
    assert {place.split(".")[0] for place in columns_with(api.database, NAME)} == set(gone)
    if kind != "document":
        assert files_with(api.services.settings.data_dir, NAME) == []


def test_a_tenant_goes_with_all_that_is_its_own(world: World, admin: TestClient) -> None:
    api = world.api
    with api.database.write() as session:
        other = create_tenant(session, "acme")
    headers = api.key("admin", tenant=other)
    traces(api, other)
    document(api, api.tenant, "doc_" + "d" * 32, f"The keeper is {NAME}.\n", "ours.txt")
    planned = world.erase(admin, tenant="acme", dry_run=True)
    assert planned["plan"]["counts"]["documents"] == 2 and planned["plan"]["counts"]["tuning_runs"] == 1
    admin.post(f"/v1/admin/erasures/{planned['id']}/start")
    world.work()
    done = admin.get(f"/v1/admin/erasures/{planned['id']}").json()
    assert done["status"] == "done", done["job"]
    assert api.client(headers).get("/v1/documents").status_code == 401
    assert admin.get("/v1/admin/tenants/acme").status_code == 404
    with api.database.read() as session:
        for table in Base.metadata.sorted_tables:
            of_it = rows_of(table, other.id)
            if of_it is not None and table.name not in {"audit", "erased_documents"}:
                assert session.scalar(select(func.count()).select_from(table).where(of_it)) == 0, table.name
        for entry in session.scalars(select(AuditEntry).where(AuditEntry.tenant_id == other.id)):
            assert (entry.object_id, entry.detail) == (None, {"erased": done["id"]})
    kept = set(columns_with(api.database, NAME))
    assert kept == {"chunks.text"}, "the other tenant's copy of the same bytes"
    content = admin.get(f"/v1/documents/doc_{'d' * 32}/content?as=text")
    assert NAME in content.text
    assert not (api.services.settings.runs_dir / RUN).exists()
    assert not any(api.services.settings.adapters_dir.iterdir())
    assert done["certificate"]["erased"]["answers"]["count"] == 3


def test_what_was_under_way_is_not_kept(world: World, admin: TestClient) -> None:
    """An answer that read the document before is only stored after: it is given, and not kept."""
    api = world.api
    traces(api, api.tenant)
    api.search.passages = [PASSAGE.__class__(**{**_fields(PASSAGE), "document_id": DOCUMENT})]
    principal = api.services.authenticate(api.admin)
    stream = api.services.answers.ask(principal, "who?", AskOptions())
    assert world.erase(admin, document_id=DOCUMENT)["status"] == "done"
    record = next(event.record for event in stream if event.record is not None)
    assert "days" in record.answer
    with api.database.read() as session:
        assert session.get(Answer, record.id) is None


def _fields(passage: Any) -> dict[str, Any]:
    return {name: getattr(passage, name) for name in passage.__slots__}


def test_it_waits_for_what_may_be_reading_it(world: World, admin: TestClient) -> None:
    api = world.api
    traces(api, api.tenant)
    with api.database.write() as session:
        job = Job(tenant_id=api.tenant.id, kind="tuning", status="running", task="tuning.prepare", subject_id="run_x",
                  attempt=1, heartbeat_at=utc_now())  # fmt: skip
        session.add(job)
        session.flush()
        training = Job(tenant_id=api.tenant.id, kind="tuning", status="running", task="tuning.train", subject_id=RUN,
                       attempt=1, heartbeat_at=utc_now())  # fmt: skip
        session.add(training)
    shown = world.erase(admin, document_id=DOCUMENT)
    assert shown["status"] == "erasing" and shown["job"]["waiting_for"] == "erasure_waits_for_jobs"
    with api.database.write() as session:
        assert session.get_one(Job, training.id).cancel_requested
        assert not session.get_one(Job, job.id).cancel_requested, "it may have nothing to do with it"
        assert session.get_one(Document, DOCUMENT).status == "deleting", "hidden meanwhile"
        session.execute(update(Job).where(Job.id.in_([job.id, training.id])).values(status="cancelled"))
    _due(api, shown)
    world.work()
    assert admin.get(f"/v1/admin/erasures/{shown['id']}").json()["status"] == "done"
