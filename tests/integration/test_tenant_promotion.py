"""A tenant that outgrew the rest: promoted by a job, kept through losses, builds, doctor and backups, moved back."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
from qdrant_client import models
from sqlalchemy import delete, select

from cli import index as commands
from cli.checkup.finding import Examination, Finding
from cli.checkup.service import check_tenant_shards
from core.errors import Conflict, InvalidInput, NotFound, Unavailable
from core.tables import AuditEntry, Tenant
from core.tables.operations import IndexVersion
from core.tenants import tenants_apart
from core.types import TenantShard
from retrieval.index import tenant_shards
from retrieval.reconcile import reconcile
from retrieval.switch import IndexService
from tests.api_app import build_api
from tests.integration.test_index_outages import Process, start, store  # noqa: F401
from tests.qdrant_standin import Store

APART = {"retrieval": {"tenant_shards": True}}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenant_shards, "_LOOK_EVERY_S", 0.01)


@pytest.fixture
def both(start: list[Process]) -> tuple[Process, Process]:  # noqa: F811
    """Two processes of a system whose serving index can keep tenants apart, with two documents in it."""
    api, worker = start
    worker.put("one.txt")
    worker.put("two.txt", "Parking is behind the building.")
    row, job = api.index.build(APART, api.who)
    assert row.spec["sharding"] == "tenants" and worker.work(job.id).status == "succeeded"
    api.index.switch(row.id, api.who)
    worker.retrieval.refresh()
    return api, worker


def promote(api: Process, worker: Process, *, apart: bool = True) -> None:
    _, jobs = api.index.keep_apart("default", apart, api.who)
    assert [worker.work(job.id).status for job in jobs] == ["succeeded"]


def shards(process: Process) -> list[TenantShard]:
    return [shard for version, shard in process.index.tenant_shards() if version == process.retrieval.index_version]


def found_wrong(process: Process) -> list[Finding]:
    parts = (process.settings, process.db, process.ingest.pipeline, process.jobs, process.retrieval, lambda: None)
    return list(check_tenant_shards(Examination(*parts)))  # type: ignore[arg-type]


def test_a_tenant_is_promoted_serves_and_is_moved_back(both: tuple[Process, Process]) -> None:
    api, worker = both
    tenant = api.principal.tenant_id
    promote(api, worker)
    assert shards(api) == [TenantShard(tenant, True, 2, 0)] and found_wrong(api) == []
    three = worker.put("three.txt", "The canteen opens at eleven.")
    assert api.found("when does the canteen open") >= {"three.txt"} and api.found("parking") >= {"two.txt"}
    job = worker.ingest.service.delete(worker.principal, three).job
    assert job is not None and worker.work(job.id).status == "succeeded"
    assert [shard.points for shard in shards(api)] == [2]
    promote(api, worker)  # asked again, nothing changes
    assert shards(api) == [TenantShard(tenant, True, 2, 0)]
    promote(api, worker, apart=False)
    assert shards(api) == [] and tenants_apart(api.db) == []
    assert api.found("parking") >= {"two.txt"} and reconcile(api.db, api.retrieval, repair=False).clean
    with api.db.read() as session:
        moves = session.scalars(select(AuditEntry.action).where(AuditEntry.action.startswith("tenant."))).all()
    assert sorted(moves) == ["tenant.demote", "tenant.promote", "tenant.promote"]


def test_a_promotion_that_was_cancelled_or_cut_off_is_seen_and_goes_on(
    both: tuple[Process, Process],
    store: tuple[str, Store],  # noqa: F811
) -> None:
    api, worker = both
    store[1].cluster.batch = 0  # the server copies and does not get on
    _, (job,) = api.index.keep_apart("default", True, api.who)
    with pytest.raises(Conflict) as raised:
        api.index.keep_apart("default", False, api.who)
    assert raised.value.code == "index_build_running"

    def cancel(self: tenant_shards.TenantShards, tenant: str) -> int:
        api.jobs.request_cancel(job.id, api.principal.tenant_id)
        return 0

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tenant_shards.TenantShards, "_copied", cancel)
        assert worker.work(job.id).status == "cancelled"
    assert [shard.serves for shard in shards(api)] == [False]
    assert api.found("parking") >= {"two.txt"}, "the shared shard answers"
    (finding,) = found_wrong(api)
    assert "was not filled" in finding.problem
    worker.put("three.txt", "The canteen opens at eleven.")
    store[1].cluster.batch = 1000
    promote(api, worker)
    assert [(shard.serves, shard.points) for shard in shards(api)] == [(True, 3)] and found_wrong(api) == []
    assert api.found("canteen") >= {"three.txt"} and reconcile(api.db, api.retrieval, repair=False).clean


def test_a_lost_collection_and_a_new_version_have_the_shards_again(
    both: tuple[Process, Process],
    store: tuple[str, Store],  # noqa: F811
) -> None:
    api, worker = both
    promote(api, worker)
    store[1].lose(api.collection(api.retrieval.index_version))
    worker.retrieval.index.ensure()
    (fill,) = worker.fills()
    assert worker.work(fill).status == "succeeded"
    assert [(shard.serves, shard.points) for shard in shards(api)] == [(True, 2)]
    row, job = api.index.build({**APART, "ingest": {"chunk_tokens": 48}}, api.who)
    assert worker.work(job.id).status == "succeeded"
    name = api.collection(row.id)
    own = store[1].cluster.shards[name][api.principal.tenant_id]
    assert store[1].client.count(store[1].cluster.local(name, own)).count == 2


def test_doctor_sees_shards_that_are_not_as_they_should_be_and_mends_them(
    both: tuple[Process, Process],
    store: tuple[str, Store],  # noqa: F811
) -> None:
    api, worker = both
    tenant = api.principal.tenant_id
    version = api.retrieval.index_version
    cluster, name = store[1].cluster, api.collection(version)

    def told(words: str) -> None:
        (finding,) = found_wrong(api)
        assert words in finding.problem and finding.repair is not None
        finding.repair()
        assert found_wrong(api) == []

    with api.db.write() as session:
        session.get_one(Tenant, tenant).apart = True
    told("is in the shared one")
    points = store[1].client.scroll(cluster.local(name, cluster.shards[name][tenant]), with_vectors=True)[0]
    shared = cluster.local(name, cluster.shards[name]["shared"])
    store[1].client.upsert(
        shared, [models.PointStruct(id=one.id, vector=one.vector or {}, payload=one.payload) for one in points]
    )
    told("left 2 points")
    with api.db.write() as session:
        session.get_one(Tenant, tenant).apart = False
    told("is to share one")
    assert worker.found("parking") >= {"two.txt"} and reconcile(api.db, api.retrieval, repair=False).clean


def test_an_index_of_before_is_served_and_tells_what_to_do(start: list[Process]) -> None:  # noqa: F811
    api, worker = start
    worker.put("one.txt")
    with pytest.raises(Conflict) as raised:
        api.index.keep_apart("default", True, api.who)
    assert raised.value.code == "index_not_sharded" and "retrieval.tenant_shards=true" in raised.value.detail
    assert tenants_apart(api.db) == [] and api.found("lift") == {"one.txt"}


def test_a_setting_of_today_does_not_change_the_versions_of_before(
    start: list[Process],  # noqa: F811
    store: tuple[str, Store],  # noqa: F811
) -> None:
    """The setting is new: versions that were made without it must go on to be opened."""
    api, _ = start
    with api.db.write() as session:
        row = session.get_one(IndexVersion, api.retrieval.index_version)
        row.config = {**row.config, "retrieval": {"embedder": "minilm", "lexical": "bigrams"}}
    today = api.settings.model_copy(
        update={"retrieval": api.settings.retrieval.model_copy(update={"tenant_shards": True})}
    )
    service = IndexService(api.db, api.jobs, api.retrieval, today)
    assert [state.configured for state in service.status()] == [False]
    assert api.retrieval.opener.open(row).id == row.id
    store[1].cluster.enabled = False
    with pytest.raises(Unavailable) as refused:
        service.build({}, api.who)
    assert (refused.value.code, refused.value.retryable) == ("index_standalone", False)


def test_what_cannot_be_is_refused(both: tuple[Process, Process]) -> None:
    api, _ = both
    with pytest.raises(NotFound):
        api.index.keep_apart("nobody", True, api.who)
    for change in ({"retrieval": {"index": "edge"}}, {"qdrant": {"shards": 2}}):
        ((section, values),) = change.items()
        other = api.settings.model_copy(
            update={
                "retrieval": api.settings.retrieval.model_copy(update={"tenant_shards": True}),
            }
        )
        other = other.model_copy(update={section: getattr(other, section).model_copy(update=values)})
        with pytest.raises(InvalidInput) as raised:
            api.retrieval.opener.describe(other)
        assert raised.value.code == "setting_conflict"


def test_the_shard_of_a_tenant_that_is_gone_goes_with_the_next_build(
    both: tuple[Process, Process],
) -> None:
    api, worker = both
    with api.db.write() as session:
        session.add(gone := Tenant(name="gone", apart=True))
        session.flush()
        key = gone.id
    _, (job,) = api.index.keep_apart("gone", True, api.who)
    assert worker.work(job.id).status == "succeeded" and [one.tenant_id for one in shards(api)] == [key]
    with api.db.write() as session:
        session.execute(delete(Tenant).where(Tenant.id == key))
    assert [finding.object_id.split()[0] for finding in found_wrong(api)] == [key]
    _, job = api.index.build({}, api.who) if api.settings.retrieval.tenant_shards else api.index.build(APART, api.who)
    assert worker.work(job.id).status == "succeeded" and shards(api) == []


def test_routes_and_commands(
    both: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process, worker = both
    api = build_api(process.settings, process.db)
    api.services.index = process.index
    with api.client() as admin:

        class Commands:
            """As far as the commands use a client."""

            get = staticmethod(lambda path: admin.get(path).json())
            request = staticmethod(admin.request)

            @staticmethod
            def follow_job(job_id: str, *_: object, **__: object) -> dict[str, object]:
                worker.work(job_id)
                return dict(admin.get(f"/v1/jobs/{job_id}").json())

        monkeypatch.setattr(commands, "connect", lambda _: nullcontext(Commands))
        commands.promote("default", json_output=True)
        said = json.loads(capsys.readouterr().out)
        assert (said["tenant"], said["wanted"], said["jobs"][0]["status"]) == ("default", True, "succeeded")
        commands.show_shards(json_output=True)
        (shown,) = json.loads(capsys.readouterr().out)["items"]
        assert (shown["tenant"], shown["wanted"], shown["serves"], shown["points"]) == ("default", True, True, 2)
        commands.demote("default")
        assert "default in the shared shard: succeeded" in capsys.readouterr().out
        commands.show_shards()
        assert "all tenants share a shard" in capsys.readouterr().out
        queued = admin.put("/v1/admin/index/shards/default")
        assert (queued.status_code, queued.json()["jobs"][0]["kind"]) == (202, "index")
        assert admin.delete("/v1/admin/index/shards/default").json()["code"] == "index_build_running"
        assert admin.put("/v1/admin/index/shards/nobody").status_code == 404
