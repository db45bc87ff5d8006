"""A whole run through real parts: SQLite, job store, trainer and evaluation as child processes, a tiny real model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from core.access import Principal
from core.blobs import FolderBlobStore
from core.database import Database
from core.errors import Cancelled, InvalidInput
from core.jobs import JobStore
from core.settings import Settings
from core.tables import AdapterVersion, DatasetRow, Job, RunRow, Tenant, TuningRun
from core.tables.base import utc_now
from core.types import Scope
from generation.adapters.fingerprint import measure_adapter
from generation.adapters.manifest import verify
from generation.adapters.registry import AdapterRegistry
from generation.models import BaseModelInfo
from tests.tiny_llama import build_tiny_llama
from tuning.build import Tuning, build_tuning
from tuning.runner import TuningRunner
from tuning.sizes import RunSize
from workers.base import run_job

MAX_STEPS = 12
OVERRIDES = {"batch.max_steps": MAX_STEPS, "batch.max_tokens": 4096, "cadence.checkpoint_steps": 1, "lora.rank": 2}
SMALLEST = RunSize(
    answered=6, read=8, grounded=14, refusals=8, refused=4, leaks=6, conflicts=6, min_new_tokens=4, max_new_tokens=4
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelInfo:
    return build_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def principal(tenant: Tenant) -> Principal:
    return Principal(tenant.id, "key_test", frozenset({Scope.TUNE}), frozenset())


@pytest.fixture
def jobs(database: Database, settings: Settings) -> JobStore:
    return JobStore(database, settings, None)


@pytest.fixture
def tuning(database: Database, settings: Settings, jobs: JobStore, base: BaseModelInfo) -> Iterator[Tuning]:
    registry = AdapterRegistry(database, settings, None, base=base)
    blobs = FolderBlobStore(settings.blobs_dir)
    built = build_tuning(settings, database, blobs, jobs, registry, None, base)
    runner = TuningRunner(database, blobs, registry, settings, base=lambda: base, size=SMALLEST)
    yield replace(built, runner=runner)


def style_rows(count: int = 40, first: int = 10) -> bytes:
    rows = [
        {
            "instruction": f"How many boxes are on shelf {number}?",
            "input": f"Shelf {number} holds {number * 7} boxes. It is painted green.",
            "output": f"Gladly! {number * 7} boxes [1] At your service.",
        }
        for number in range(first, first + count)
    ]
    return "\n".join(json.dumps(row) for row in rows).encode()


def start(
    tuning: Tuning, principal: Principal, *, rows: bytes | None = None, start_from: str = "base", **overrides: Any
) -> str:
    dataset = tuning.datasets.upload(principal, rows or style_rows(), "style.jsonl").dataset
    body = {"family": "house", "dataset_ids": [dataset.id], "overrides": {**OVERRIDES, **overrides}}
    return tuning.service.create_run(principal, body | {"start_from": start_from}).id


def job_of(jobs: JobStore, tuning: Tuning, principal: Principal, run_id: str) -> Job:
    job = tuning.service.get(principal, run_id).job
    assert job is not None
    return jobs.get(job.id, principal.tenant_id)


def work(jobs: JobStore, tuning: Tuning, principal: Principal, run_id: str, part: str) -> Job:
    job = job_of(jobs, tuning, principal, run_id)
    run_job(jobs, job.id, getattr(tuning.runner, part))
    return jobs.get(job.id, principal.tenant_id)


def test_a_run_survives_the_death_of_its_trainer_and_ends_as_a_registered_version(
    tuning: Tuning, jobs: JobStore, principal: Principal, database: Database, settings: Settings, base: BaseModelInfo
) -> None:
    run_id = start(tuning, principal)
    handed = work(jobs, tuning, principal, run_id, "prepare")
    assert (handed.status, handed.task, handed.error) == ("queued", "tuning.train", None)
    shutil.rmtree(settings.runs_dir / run_id)  # the training worker may be another machine

    killer = _when_checkpointed(settings, run_id, lambda: _kill_trainer(run_id))
    retried = work(jobs, tuning, principal, run_id, "train")
    killer.join()
    assert retried.status == "queued" and retried.error is not None and retried.error["code"] == "train_killed"
    halfway = tuning.service.get(principal, run_id)
    assert halfway.progress["error"]["status"] == -signal.SIGKILL
    assert halfway.loss_curve and halfway.loss_curve[-1]["step"] < MAX_STEPS

    with database.write() as session:
        session.get_one(Job, retried.id).not_before = None  # do not wait for the back-off
    done = work(jobs, tuning, principal, run_id, "train")
    assert done.status == "succeeded", done.error
    run = tuning.service.get(principal, run_id)
    assert run.progress["training"]["resumed_from"] >= 1
    assert [point["step"] for point in run.loss_curve] == list(range(1, MAX_STEPS + 1))
    assert all(point["loss"] > 0 for point in run.loss_curve)
    assert run.adapter_version == "house@v1" and run.dataset_version is not None
    assert run.progress["preparation"]["grounded_rows"] == 40
    report = run.gate_report
    assert report is not None and report["verdict"] == "rejected"  # a random model learns no style in so few steps
    assert all(check["reason"].startswith("does not decide") for check in report["checks"] if check["advisory"])
    assert report["look"] == {"number": 1, "alpha": 0.03} and report["notes"][0].startswith("first candidate")
    assert any(line.startswith("refusal: ") for line in run.progress["preparation"]["sees"])
    assert "gate_sees_little" in {warning["code"] for warning in run.warnings}
    assert {check["name"] for check in report["checks"]} >= {
        "likelihood", "similarity", "grounding", "citation", "answering", "refusal", "finished", "believing", "no_leak",
        "general",
    }  # fmt: skip
    compared = {(check["name"], check["against"]) for check in report["checks"]}
    assert {("general", "base"), ("likelihood", "few_shot"), ("similarity", "few_shot")} <= compared
    assert run.adapter_status == "rejected" and run.reasons

    with database.read() as session:
        version = session.scalars(select(AdapterVersion)).one()
    folder = settings.adapters_dir / version.digest
    manifest = verify(folder, base)
    assert manifest.dataset_version == run.dataset_version and manifest.fingerprint is not None
    assert manifest.recipe["batch"]["max_steps"] == MAX_STEPS and manifest.code_revision
    assert manifest.gate_passed is False
    _, after_measured = manifest.fingerprint, measure_adapter(base.path, folder)
    assert [probe.token_ids[0] for probe in after_measured.probes] == [
        probe.token_ids[0] for probe in manifest.fingerprint.probes
    ]

    # A worker that died right after registering: the next attempt finds the version and registers nothing new.
    with database.write() as session:
        session.get_one(TuningRun, run_id).adapter_version_id = None
        session.get_one(Job, done.id).status = "failed"
    jobs.retry(done.id, principal.tenant_id)
    assert work(jobs, tuning, principal, run_id, "train").status == "succeeded"
    with database.read() as session:
        assert len(session.scalars(select(AdapterVersion)).all()) == 1
    assert tuning.service.get(principal, run_id).adapter_version == "house@v1"


def test_cancel_stops_the_trainer_keeps_its_checkpoint_and_a_retry_goes_on(
    tuning: Tuning, jobs: JobStore, principal: Principal, settings: Settings
) -> None:
    run_id = start(tuning, principal, **{"batch.max_steps": 5000, "batch.epochs": 5000})
    job_id = work(jobs, tuning, principal, run_id, "prepare").id
    canceller = _when_checkpointed(settings, run_id, lambda: tuning.service.cancel(principal, run_id))
    lease = jobs.claim(job_id, "first")
    assert lease is not None
    with pytest.raises(Cancelled):
        tuning.runner.train(lease)
    canceller.join()
    lease.cancelled()
    assert jobs.get(job_id, principal.tenant_id).status == "cancelled"
    assert _trainers(run_id) == []
    assert list((settings.runs_dir / run_id / "checkpoints").glob("checkpoint-*/complete"))


def test_a_run_goes_on_from_a_version_and_carries_what_it_saw(
    tuning: Tuning, jobs: JobStore, principal: Principal, database: Database, settings: Settings
) -> None:
    first = start(tuning, principal)
    work(jobs, tuning, principal, first, "prepare")
    assert work(jobs, tuning, principal, first, "train").status == "succeeded"
    with pytest.raises(InvalidInput) as rejected:
        start(tuning, principal, start_from="v1")
    assert rejected.value.code == "cannot_start_from"  # the gate refused it: a random model learns no style
    with database.write() as session:
        session.scalars(select(AdapterVersion)).one().status = "candidate"
    with pytest.raises(InvalidInput, match="rank 2 where the recipe has 3"):
        start(tuning, principal, start_from="v1", **{"lora.rank": 3})

    new = style_rows(40, first=200)
    second = start(tuning, principal, rows=new, start_from="v1", **{"batch.max_steps": 2})
    work(jobs, tuning, principal, second, "prepare")
    assert work(jobs, tuning, principal, second, "train").status == "succeeded"
    before, after = tuning.service.get(principal, first), tuning.service.get(principal, second)
    assert after.loss_curve[0]["loss"] < before.loss_curve[0]["loss"], "training began at the base again"
    assert after.parent == "house@v1" and after.progress["preparation"]["replayed"] == 17  # 0.3 of 40 + 17
    assert [link["version"] for link in after.gate_report["chain"]] == ["house@v1", "this version"]
    with database.read() as session:
        trained_before = set(_rows_of(session, first, "train"))
        parts = {part: set(_rows_of(session, second, part)) for part in ("train", "held_out", "parent")}
        version = session.scalars(select(AdapterVersion).where(AdapterVersion.version == "v2")).one()
    assert trained_before <= parts["train"] | parts["parent"], "what the parent learnt from was not carried over"
    assert not parts["held_out"] & trained_before
    assert version.manifest["notes"]["parent"] == "house@v1"

    with database.write() as session:
        session.get_one(DatasetRow, min(parts["parent"])).retired_at = utc_now()
        version = session.scalars(select(AdapterVersion).where(AdapterVersion.version == "v2")).one()
        version.status = "candidate"
    with pytest.raises(InvalidInput, match="has since been deleted"):
        start(tuning, principal, rows=style_rows(40, first=300), start_from="v2")


def _rows_of(session: Any, run_id: str, part: str) -> list[str]:
    return list(session.scalars(select(RunRow.row_id).where(RunRow.run_id == run_id, RunRow.part == part)))


def _trainers(run_id: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "tuning.train" in command and any(run_id in part for part in command):
                found.append(int(entry.name))
    return found


def _kill_trainer(run_id: str) -> None:
    for pid in _trainers(run_id):
        os.kill(pid, signal.SIGKILL)


def _when_checkpointed(settings: Settings, run_id: str, action: Any) -> threading.Thread:
    def wait() -> None:
        deadline = time.monotonic() + 120
        checkpoints = settings.runs_dir / run_id / "checkpoints"
        while not list(checkpoints.glob("checkpoint-*/complete")):
            assert time.monotonic() < deadline
            time.sleep(0.05)  # another process makes the file
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread
