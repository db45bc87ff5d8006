"""Erasure end to end on both topologies: a document is asked, rated, harvested, trained on, and forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from fastapi import Response
from sqlalchemy import func, select, text

from api.idempotency import IdempotencyLedger
from core.access import Principal, access_filter
from core.audit import record
from core.blobs import open_blobs
from core.settings import Settings
from core.tables import (
    AdapterAlias,
    AdapterFamily,
    AdapterVersion,
    AuditEntry,
    CuratedAnswer,
    Document,
    DocumentGeneration,
    EvaluationOutcome,
    EvaluationRun,
    EvaluationSet,
    Job,
    RunRow,
    ShadowAnswer,
    Tenant,
)
from core.tenants import create_tenant
from core.types import Scope
from erasure.runner import ErasureRunner
from erasure.service import ErasureService, ErasureView, Request
from generation.adapters.registry import AdapterRegistry
from generation.adapters.routing import Router
from generation.answer import AnswerService, Stamp
from generation.asking import AskOptions
from generation.curated import question_key
from generation.models import BaseModelInfo
from ingest.upload import Upload
from tests.api_app import FakeEngine
from tests.backed_up import System, running
from tests.erasing import columns_with, files_with, holds
from tests.integration.test_tuning_run import OVERRIDES as FULL
from tests.integration.test_tuning_run import SMALLEST, style_rows
from tests.server_processes import Postgres
from tuning.build import Tuning, build_tuning
from tuning.datasets.feedback import FeedbackHarvester
from tuning.runner import TuningRunner
from tuning.service import TuningService
from workers.base import run_job

OVERRIDES = {**FULL, "batch.max_steps": 2}
WORD = "Zanzibarquartz7731"
NAME = "極秘丹波黒太郎"
TITLE = f"vault-{WORD}.txt"
SECRET = f"The vault code of the laboratory is {WORD}. Its keeper is {NAME}.\n"
QUESTION = "What is the vault code of the laboratory?"
PLAIN = "The canteen of the laboratory opens at noon and closes at three.\n"


@dataclass
class World:
    """A system with all that works on its jobs, and a second tenant that holds the same bytes."""

    system: System
    tuning: Tuning
    answers: AnswerService
    erasures: ErasureService
    runner: ErasureRunner
    other: Principal
    document: str = ""
    others_document: str = ""
    run: str = ""

    def work(self, limit: int = 1000) -> None:
        """Run queued jobs that are due, oldest first."""
        for _ in range(limit):
            with self.system.db.read() as session:
                due = (Job.status == "queued", Job.not_before.is_(None) | (Job.not_before <= func.now()))
                job = session.scalars(select(Job).where(*due).order_by(Job.created_at)).first()
            if job is None:
                return
            run_job(self.system.jobs, job.id, self._work_of(job))

    def _work_of(self, job: Job) -> Callable[[Any], object]:
        pipeline = self.system.ingest.pipeline
        return {  # type: ignore[no-any-return]
            "ingest.document": pipeline.run,
            "delete.document": pipeline.delete,
            "delete.collection": pipeline.delete_collection,
            "tuning.prepare": self.tuning.runner.prepare,
            "tuning.train": self.tuning.runner.train,
            "erasure.run": self.runner.run,
        }[job.task]

    def ask(self, principal: Principal, question: str, conversation: str | None = None) -> Any:
        stream = self.answers.ask(principal, question, AskOptions(conversation_id=conversation))
        return next(event.record for event in stream if event.record is not None)

    def found(self, principal: Principal) -> list[str]:
        searcher = self.system.retrieval.searcher
        passages = searcher.search(QUESTION, access_filter(principal), 5).passages
        return [passage.document_id for passage in passages if WORD in passage.text]

    def erase(self, **selector: Any) -> ErasureView:
        """Ask for it, and do all that is due."""
        made = self.erasures.create(self.system.principal, Request(**selector), operator=True)
        self.work()
        return self.erasures.get(self.system.principal, made.id)

    def serving(self) -> str | None:
        with self.system.db.read() as session:
            alias = session.scalars(select(AdapterAlias).where(AdapterAlias.alias == "champion")).one()
            version = session.get(AdapterVersion, alias.version_id) if alias.version_id else None
            return version.version if version is not None else None


@contextmanager
def world(settings: Settings, base: BaseModelInfo) -> Iterator[World]:
    # Both serve in process: the tiny base is no server's.
    generation = settings.generation.model_copy(update={"engine": "transformers"})
    settings = settings.model_copy(update={"generation": generation})
    with running(settings) as system:
        blobs = open_blobs(settings)
        registry = AdapterRegistry(system.db, settings, None, base=base)
        tuning = build_tuning(settings, system.db, blobs, system.jobs, registry, system.retrieval, base)
        runner = TuningRunner(
            system.db, blobs, registry, settings, base=lambda: base, size=SMALLEST, search=system.retrieval.searcher
        )
        tuning = replace(tuning, runner=runner)
        engine = FakeEngine()
        engine.pieces = (f"The code is {WORD}, ", f"says {NAME} [1].")
        stamp = Stamp(index_version="iv", embedder="fake")
        asked = settings.model_copy(update={"generation": settings.generation.model_copy(update={"compose": "model"})})
        answers = AnswerService(
            system.db,
            system.retrieval.searcher,
            engine,
            Router(system.db, settings),
            asked,
            stamp=stamp,  # type: ignore[arg-type]
        )
        erasures = ErasureService(system.db, system.jobs)
        eraser = ErasureRunner(
            system.db, blobs, system.jobs, system.retrieval, settings,
            TuningService(system.db, system.jobs, settings), lambda: None,
        )  # fmt: skip
        with system.db.write() as session:
            tenant = create_tenant(session, "other")
        other = Principal(tenant.id, "key_other", frozenset({Scope.ADMIN}), frozenset())
        made = World(system, tuning, answers, erasures, eraser, other)
        made.document = system.put(TITLE, SECRET, external_id=f"ext-{WORD}")
        system.put("canteen.txt", PLAIN)
        (accepted,) = system.ingest.service.accept(other, [Upload(TITLE, SECRET.encode())])
        made.others_document = str(accepted.document.id)
        made.work()
        yield made


def leave_traces(world: World) -> None:
    """Answers, feedback, a harvested set, curated answers, evaluations, replies, audit entries, a trained version."""
    system, principal = world.system, world.system.principal
    record_ = world.ask(principal, QUESTION, conversation="c-1")
    assert any(passage.document_id == world.document for passage in record_.passages)
    later = world.ask(principal, "And who else knows it?", conversation="c-1")
    world.answers.feedback(principal, record_.id, rating="up", comment=f"yes, {WORD}", consent=True)
    FeedbackHarvester(system.db, world.tuning.datasets).harvest(principal, family="house")
    world.tuning.datasets.upload(principal, style_rows(), "style.jsonl", family="house")
    with system.db.write() as session:
        family = world.tuning.service.check(session, principal, {"family": "house", "overrides": OVERRIDES})
        assert len(family.dataset_ids) >= 2
        passages = [{"document_id": world.document, "generation": 1, "text": SECRET, "title": TITLE}]
        curated = CuratedAnswer(
            tenant_id=principal.tenant_id, question=f"Who keeps {WORD}?", question_key=question_key("q"),
            answer=NAME, passages=passages, created_by="key:x",
        )  # fmt: skip
        session.add(curated)
        session.flush()
        record(
            session, tenant_id=principal.tenant_id, actor="key:x", action="curated.create", object_id=curated.id,
            detail={"question": f"Who keeps {WORD}?"},
        )  # fmt: skip
        asked = {"question": f"Which code has {NAME}?", "documents": [world.document], "id": "q1"}
        neutral = {"question": "When does the canteen open?", "expected": [["noon"]], "id": "q2"}
        session.add(
            EvaluationSet(tenant_id=principal.tenant_id, name="set", questions=[asked, neutral], question_count=2)
        )
        run = EvaluationRun(tenant_id=principal.tenant_id, name="set", question_count=2)
        session.add(run)
        session.flush()
        outcome = {"status": "right", "answer": WORD, "citations": [{"document_id": world.document, "quote": SECRET}]}
        session.add(EvaluationOutcome(run_id=run.id, ordinal=1, digest="d1", question=asked, outcome=outcome))
        session.add(
            EvaluationOutcome(run_id=run.id, ordinal=2, digest="d2", question=neutral, outcome={"answer": "noon"})
        )
        session.add(
            ShadowAnswer(
                tenant_id=principal.tenant_id,
                family_id=_family(session),
                version_id="adv_x",
                answer_id=later.id,
                answer=f"perhaps {WORD}",
            )
        )
    ledger = IdempotencyLedger(system.db, principal.key_id, "idem-1")
    ledger.begin("POST /v1/documents?", "0" * 64)
    reply = {"items": [{"document": {"id": world.document, "filename": TITLE}}]}
    ledger.finish(Response(json.dumps(reply), status_code=202, media_type="application/json"))
    made = world.tuning.service.create_run(principal, {"family": "house", "overrides": OVERRIDES})
    world.run = made.id
    world.work()
    with system.db.write() as session:
        version = session.scalars(select(AdapterVersion).where(AdapterVersion.run_id == made.id)).one()
        assert session.scalar(select(func.count()).select_from(RunRow).where(RunRow.run_id == made.id))
        session.add(
            AdapterAlias(
                family_id=version.family_id,
                alias="champion",
                tenant_id=principal.tenant_id,
                version_id=version.id,
                revision=1,
            )
        )


def _family(session: Any) -> str:
    found = session.scalars(select(AdapterFamily)).first()
    if found is None:
        tenant = session.scalars(select(Tenant).where(Tenant.name == "default")).one()
        found = AdapterFamily(tenant_id=tenant.id, name="house")
        session.add(found)
        session.flush()
    return str(found.id)


@pytest.fixture(params=["embedded", "server"])
def place(
    request: pytest.FixtureRequest, make_settings: Callable[[str], Settings], base: BaseModelInfo
) -> Iterator[World]:
    with world(make_settings(request.param), base) as made:
        yield made


def stored_bytes_with(world: World, request: pytest.FixtureRequest, marker: str) -> list[str]:
    """Every file of the data dir, of PostgreSQL's tables and of the bucket that holds a text."""
    settings = world.system.settings
    found = [f"data/{name}" for name in files_with(settings.data_dir, marker)]
    if world.system.db.is_sqlite:
        return found
    postgres: Postgres = request.getfixturevalue("postgres")
    with world.system.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CHECKPOINT"))
        oid = connection.execute(text("SELECT oid FROM pg_database WHERE datname = current_database()")).scalar()
    found += [f"postgres/{name}" for name in files_with(postgres.data / "base" / str(oid), marker)]
    blobs = open_blobs(settings)
    found += [f"bucket/{digest}" for digest, _ in blobs.list() if holds(blobs.get(digest), marker)]
    return found


def test_a_document_that_trained_an_adapter_is_gone_from_every_byte(
    place: World, request: pytest.FixtureRequest
) -> None:
    world, principal = place, place.system.principal
    leave_traces(world)
    folder = world.system.settings.runs_dir / world.run
    assert files_with(folder, WORD), "the run was shown it"
    for marker in (WORD, NAME):
        assert stored_bytes_with(world, request, marker)
    embedded = world.system.db.is_sqlite
    assert bool(files_with(world.system.settings.index_dir, world.document)) == embedded

    # Another tenant holds the same bytes, and keeps them; so what it holds is removed first, to search for the rest.
    planned = world.erase(document_id=world.document, dry_run=True)
    assert planned.status == "planned" and planned.plan is not None and planned.begun_at is None
    counts = planned.plan["counts"]
    assert counts["documents"] == 1 and counts["chunks"] and counts["answers"] == 2 and counts["feedback"] == 1
    assert (
        counts["curated"] == counts["outcomes"] == counts["question_sets"] == counts["shadows"] == counts["runs"] == 1
    )
    assert counts["rows"] >= 1 and planned.plan["adapters"][0]["version"] == "house@v1"
    assert WORD not in json.dumps(planned.plan) and world.found(principal) == [world.document]

    world.erasures.start(principal, planned.id)
    world.work()
    done = world.erasures.get(principal, planned.id)
    assert done.status == "done", done.job and done.job.error
    assert world.found(principal) == []
    assert world.found(world.other) == [world.others_document], "the other tenant's copy still answers"
    digest = _source_of(world, world.others_document)
    assert open_blobs(world.system.settings).get(digest) == SECRET.encode()

    with world.system.db.write() as session:  # the other's own copy, so that what is found below is a leftover
        session.query(Document).filter_by(id=world.others_document).update({"status": "deleting"})
    world.erasures.create(world.other, Request(document_id=world.others_document), operator=False)
    world.work()
    for marker in (WORD, NAME):
        assert columns_with(world.system.db, marker) == []
        assert stored_bytes_with(world, request, marker) == []
    # Points hold no text; their bytes go all the same.
    assert files_with(world.system.settings.index_dir, world.document) == []
    assert not folder.exists()

    certificate = done.certificate
    assert certificate is not None and WORD not in json.dumps(certificate, ensure_ascii=False)
    assert certificate["erased"]["training_rows"]["count"] >= 1
    assert certificate["adapters"][0]["status"] == "retired"
    assert not (world.system.settings.adapters_dir / certificate["adapters"][0]["sha256"]).exists()
    assert world.serving() is None, "the base answers"
    unreached = {one["what"] for one in certificate["not_reached"]}
    assert {"backups", "clients", "logs"} <= unreached
    assert ({"database_log", "index_server", "object_versions"} <= unreached) == (not embedded)
    with world.system.db.read() as session:
        actions = set(session.scalars(select(AuditEntry.action).where(AuditEntry.object_id == planned.id)))
        assert actions == {"erasure.create", "erasure.start", "erasure.begin", "erasure.finish"}
        left = session.scalars(select(EvaluationSet)).one()
        assert [question["id"] for question in left.questions] == ["q2"] and left.question_count == 1


def _source_of(world: World, document_id: str) -> str:
    with world.system.db.read() as session:
        return str(session.get_one(DocumentGeneration, (document_id, 1)).source_sha256)
