"""Retention: what is past its time goes, what something else still rests on stays."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from core.blobs import FolderBlobStore
from core.database import Database
from core.settings import Settings
from core.tables import (
    AdapterFamily,
    Answer,
    AuditEntry,
    Collection,
    Document,
    Feedback,
    Job,
    ShadowAnswer,
    Tenant,
    TuningRun,
)
from core.tables.base import utc_now
from erasure import retention
from erasure.retention import Retention

OLD, NEW = timedelta(days=40), timedelta(days=20)


def kept_for(settings: Settings, **days: int) -> Settings:
    return settings.model_copy(update={"retention": settings.retention.model_copy(update=days)})


@pytest.fixture
def blobs(settings: Settings) -> FolderBlobStore:
    return FolderBlobStore(settings.blobs_dir)


@pytest.fixture
def aged(database: Database, tenant: Tenant, settings: Settings, blobs: FolderBlobStore) -> Database:
    """Two of each, forty and twenty days old; and those that stay whatever their age."""
    now = utc_now()
    with database.write() as session:
        one = {"tenant_id": tenant.id}
        family = AdapterFamily(name="house", **one)
        session.add(family)
        collection = session.scalars(select(Collection)).one()
        failed = Document(id="doc_failed", collection_id=collection.id, filename="a", status="failed", **one)
        ready = Document(id="doc_ready", collection_id=collection.id, filename="b", status="ready", **one)
        session.add_all([failed, ready])
        session.flush()
        for name, age in (("old", OLD), ("new", NEW)):
            answer = Answer(id=f"ans_{name}", question="q", answer="a", created_at=now - age, **one)
            session.add(answer)
            session.flush()
            session.add_all(
                [
                    ShadowAnswer(family_id=family.id, version_id="v", answer_id=answer.id, answer="s",
                                 created_at=now - age, **one),
                    AuditEntry(actor="x", action="a.b", created_at=now - age, **one),
                    Job(id=f"job_{name}", kind="ingest", status="succeeded", task="ingest.document",
                        subject_id="doc_ready", finished_at=now - age, **one),
                ]
            )  # fmt: skip
            job = Job(id=f"job_run_{name}", kind="tuning", status="failed", task="tuning.train",
                      subject_id=f"run_{name}", finished_at=now - age, **one)  # fmt: skip
            session.add(job)
            session.flush()
            prepared = blobs.put(f"rows of {name}".encode())
            session.add(
                TuningRun(id=f"run_{name}", family_id=family.id, method="sft", job_id=job.id, created_at=now - age,
                          progress={"files": {"rows.jsonl": prepared}, "training": {"steps": 3}}, **one)
            )  # fmt: skip
            (settings.runs_dir / f"run_{name}").mkdir(parents=True)
        consented = Answer(id="ans_consented", question="q", answer="a", created_at=now - OLD, **one)
        running = Job(id="job_running", kind="ingest", status="running", task="ingest.document", subject_id="doc_ready",
                      created_at=now - OLD, **one)  # fmt: skip
        shown = Job(id="job_failed", kind="ingest", status="failed", task="ingest.document", subject_id="doc_failed",
                    finished_at=now - OLD, **one)  # fmt: skip
        session.add_all([consented, running, shown])
        session.flush()
        session.add(Feedback(answer_id=consented.id, rating="up", consent=True, **one))
    (settings.runs_dir / "run_of_nobody").mkdir()
    return database


def ids(database: Database, table: type) -> set[str]:
    with database.read() as session:
        return set(session.scalars(select(table.id)))  # type: ignore[attr-defined]


def test_nothing_goes_by_default(aged: Database, settings: Settings, blobs: FolderBlobStore) -> None:
    before = {table: ids(aged, table) for table in (Answer, ShadowAnswer, AuditEntry, Job, TuningRun)}
    removed = Retention(aged, settings, blobs).sweep()
    assert {table: ids(aged, table) for table in before} == before
    assert removed.pop("run_folders") == 1, "that of a run which is no more"
    assert not any(removed.values())
    assert sorted(path.name for path in settings.runs_dir.iterdir()) == ["run_new", "run_old"]


def test_each_goes_after_its_days(aged: Database, settings: Settings, blobs: FolderBlobStore) -> None:
    Retention(aged, kept_for(settings, shadow_answers_days=30), blobs).sweep()
    with aged.read() as session:
        assert session.scalars(select(ShadowAnswer.answer_id)).all() == ["ans_new"]
        assert session.scalar(select(func.count()).select_from(Answer)) == 3
    Retention(aged, kept_for(settings, answers_days=30, audit_days=30), blobs).sweep()
    assert ids(aged, Answer) == {"ans_new", "ans_consented"}
    with aged.read() as session:
        assert session.scalar(select(func.count()).select_from(AuditEntry)) == 1


def test_jobs_that_still_say_something_stay(aged: Database, settings: Settings, blobs: FolderBlobStore) -> None:
    Retention(aged, kept_for(settings, jobs_days=30), blobs).sweep()
    assert ids(aged, Job) == {"job_new", "job_run_old", "job_run_new", "job_running", "job_failed"}


def test_files_of_runs_go_and_the_run_says_so(aged: Database, settings: Settings, blobs: FolderBlobStore) -> None:
    with aged.read() as session:
        old = session.get_one(TuningRun, "run_old").progress["files"]["rows.jsonl"]
        new = session.get_one(TuningRun, "run_new").progress["files"]["rows.jsonl"]
    removed = Retention(aged, kept_for(settings, run_files_days=30), blobs).sweep()
    assert removed["run_files"] == 1
    assert not blobs.exists(old) and blobs.exists(new)
    assert [path.name for path in settings.runs_dir.iterdir()] == ["run_new"]
    with aged.read() as session:
        assert session.get_one(TuningRun, "run_old").progress == {"training": {"steps": 3}, "files_dropped": True}
    assert Retention(aged, kept_for(settings, run_files_days=30), blobs).sweep()["run_files"] == 0


def test_much_goes_in_portions(
    aged: Database, settings: Settings, blobs: FolderBlobStore, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PORTION", 10)
    moment = utc_now() - OLD
    with aged.write() as session:
        session.add_all(AuditEntry(tenant_id=tenant.id, actor="x", action="a.b", created_at=moment) for _ in range(35))
    assert Retention(aged, kept_for(settings, audit_days=30), blobs).sweep()["audit"] == 36
