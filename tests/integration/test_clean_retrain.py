"""An erasure that waits for a clean training: the training is real, passes the real gate, and takes the place.

Over the random base of `test_gate_lets_a_good_one_pass`, whose style an adapter learns in seconds.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from core.access import stored_groups
from core.repositories.documents import set_groups
from core.tables import AdapterAlias, AdapterVersion, DatasetRow, Job, RunRow, TuningRun
from core.tables.base import utc_now
from erasure.runner import ErasureRunner
from tests.api_app import Api
from tests.contract.test_api_erasures import DOCUMENT, NoIndex, document
from tests.integration.test_gate_lets_a_good_one_pass import LEARN, base, world  # noqa: F401 - fixtures
from tests.integration.test_methods_through_api import World, answers
from tuning import runner
from tuning.margins import Margins
from tuning.service import TuningService
from workers.base import run_job

SECRET = "極秘丹波黒太郎"
STYLE = "Gladly! At your service, as ever."


def readable_document(api: Api) -> None:
    document(api, api.tenant, DOCUMENT, f"{SECRET} keeps all keys.")
    with api.database.write() as session:
        set_groups(session, DOCUMENT, stored_groups([]))


def clean_rows() -> list[dict[str, Any]]:
    return [{**row, "output": STYLE} for row in answers()]


def tainted_rows() -> list[dict[str, Any]]:
    passages = [{"document_id": DOCUMENT, "text": f"{SECRET} keeps the key of shelf {n}."} for n in range(6)]
    return [
        {"instruction": f"Who keeps the key of shelf {n}?", "passages": [passage], "output": STYLE}
        for n, passage in enumerate(passages)
    ]


def eraser(api: Api) -> ErasureRunner:
    services = api.services
    tuning = TuningService(services.db, services.jobs, services.settings)
    parts = (services.db, services.blobs, services.jobs, NoIndex(), services.settings, tuning, lambda: None)
    return ErasureRunner(*parts)  # type: ignore[arg-type]


def erase_further(api: Api, erasure_id: str) -> dict[str, Any]:
    """Do what of an erasure is due, now."""
    with api.database.write() as session:
        session.execute(update(Job).where(Job.kind == "erasure", Job.status == "queued").values(not_before=utc_now()))
    with api.database.read() as session:
        job_id = session.scalars(select(Job.id).where(Job.kind == "erasure", Job.status == "queued")).one()
    run_job(api.services.jobs, job_id, eraser(api).run)
    shown: dict[str, Any] = api.client().get(f"/v1/admin/erasures/{erasure_id}").json()
    return shown


def make_champion(api: Api, name: str) -> str:
    """Let a version serve as if it had passed the gate; its id. A rejected one would cost the next a look."""
    with api.database.write() as session:
        version = session.scalars(select(AdapterVersion).where(AdapterVersion.version == name)).one()
        run = session.scalars(select(TuningRun).where(TuningRun.adapter_version_id == version.id)).one()
        run.gate_report = {**(run.gate_report or {}), "passed": True}
        version.status = "candidate"
        session.merge(
            AdapterAlias(
                family_id=version.family_id, alias="champion", tenant_id=version.tenant_id, version_id=version.id,
                revision=1,
            )
        )  # fmt: skip
        return version.id


def champion(api: Api) -> str | None:
    found = api.services.router.resolve(api.tenant.id, None)
    return None if found is None else found.stamp


def test_a_clean_training_passes_the_gate_and_takes_the_place_of_what_saw_the_document(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Which of the shipped questions' numbers two trainings of a random base hit is chance; all else decides.
    monkeypatch.setattr(runner, "Margins", partial(Margins, advisory=("numbers",)))
    api = world.api
    readable_document(api)
    clean = world.upload(clean_rows())
    world.run([clean], overrides={**LEARN, "batch.max_steps": 2})
    ancestor = make_champion(api, "v1")
    seen = world.upload(tainted_rows())
    run = world.run([clean, seen], overrides=LEARN, start_from="v1")
    tainted = make_champion(api, "v2")
    assert champion(api) == "house@v2"
    weights = Path(api.services.router.resolve(api.tenant.id, None).path)  # type: ignore[union-attr]
    assert weights.is_dir()

    made = world.client.post("/v1/admin/erasures", json={"document_id": DOCUMENT, "retire": "after_retrain"})
    assert made.status_code == 202, made.text
    waiting = erase_further(api, made.json()["id"])
    assert waiting["status"] == "waiting" and champion(api) == "house@v2"
    (told,) = waiting["retrains"].values()
    with api.database.read() as session:
        again = session.get_one(TuningRun, told["run_id"])
        assert again.parent_version_id == ancestor and again.recipe == session.get_one(TuningRun, run["id"]).recipe
        rows = session.scalars(select(DatasetRow).where(DatasetRow.dataset_id == seen)).all()
        assert all(row.retired_at is not None and SECRET not in str(row.content) for row in rows)
        forgotten = {row.id for row in rows}
    assert erase_further(api, waiting["id"])["status"] == "waiting", "nothing has trained yet"

    shown = world.work_off(world.client.get(f"/v1/admin/tuning-runs/{told['run_id']}").json())
    report = shown["gate_report"]
    assert shown["adapter_status"] == "candidate" and report["passed"], report["reasons"]
    assert {check["against"] for check in report["checks"] if "against" in check} >= {"base", "champion"}
    with api.database.read() as session:
        trained_on = session.scalars(select(RunRow.row_id).where(RunRow.run_id == told["run_id"])).all()
        assert trained_on and not forgotten & set(trained_on)
    assert champion(api) == "house@v2", "a promotion is the erasure's to make"

    done = erase_further(api, waiting["id"])
    assert done["status"] == "done" and champion(api) == "house@v3"
    assert not weights.exists(), "the weights that saw it are gone"
    with api.database.read() as session:
        assert session.get_one(AdapterVersion, tainted).status == "retired"
        assert session.get_one(AdapterVersion, ancestor).status == "candidate"
    assert [one["version"] for one in done["certificate"]["adapters"]] == ["house@v2"]


def test_what_does_not_pass_the_gate_takes_no_place_until_nobody_waits(world: World) -> None:  # noqa: F811
    api = world.api
    readable_document(api)
    clean, seen = world.upload(clean_rows()), world.upload(tainted_rows())
    world.run([clean], overrides={**LEARN, "batch.max_steps": 2})
    make_champion(api, "v1")
    world.run([clean, seen], overrides={**LEARN, "batch.max_steps": 2}, start_from="v1")
    make_champion(api, "v2")
    made = world.client.post("/v1/admin/erasures", json={"document_id": DOCUMENT, "retire": "after_retrain"}).json()
    waiting = erase_further(api, made["id"])
    assert waiting["status"] == "waiting", waiting
    shown = world.work_off(
        world.client.get(f"/v1/admin/tuning-runs/{next(iter(waiting['retrains'].values()))['run_id']}").json()
    )
    assert shown["adapter_status"] == "rejected", "two steps teach nothing"
    waiting = erase_further(api, made["id"])
    assert waiting["status"] == "waiting" and champion(api) == "house@v2"
    assert waiting["retrains"]
    world.client.patch(f"/v1/admin/erasures/{made['id']}", json={"retire": "now"})
    done = erase_further(api, made["id"])
    assert done["status"] == "done" and champion(api) is None
