"""Candidates that look at the same held-out rows share one chance of error; a judge that is down has none."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from core.access import Principal
from core.database import Database
from core.errors import Unavailable
from core.settings import JudgeSettings, Settings
from core.tables import AdapterFamily, AdapterVersion, Dataset, DatasetRow, RunDocument, RunRow, Tenant, TuningRun
from core.tables.base import utc_now
from core.types import Scope
from erasure.find import Wanted, find_traces
from tests.unit.test_tuning_gate import ITEMS, right_answer, styled, system
from tuning.chain import Parent, gone_sources
from tuning.comparison import Comparison
from tuning.items import BASE, CANDIDATE, Evaluation
from tuning.looks import look_of
from tuning.prepare import Preparation
from tuning.run import Run
from tuning.seen import record_lineage
from tuning.sizes import SMALL


class Family:
    """Runs of one family, each with its verdict and held-out rows."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self.database, self.tenant_id = database, tenant_id
        self.begun = utc_now()
        with database.write() as session:
            session.add(AdapterFamily(id="fam_1", tenant_id=tenant_id, name="house"))
            session.add(
                Dataset(
                    id="dst_1",
                    tenant_id=tenant_id,
                    name="s",
                    format="messages",
                    content_sha256="0" * 64,
                    row_count=9,
                    invalid_count=0,
                )
            )
        self.count = 0

    def row(self, content: int) -> str:
        """A row with this content, under a new id."""
        self.count += 1
        row_id = f"row_{self.count}"
        with self.database.write() as session:
            session.add(
                DatasetRow(
                    id=row_id, tenant_id=self.tenant_id, dataset_id="dst_1", ordinal=self.count, line=self.count,
                    content={}, lineage={}, content_sha256=f"{content:064}",
                )
            )  # fmt: skip
        return row_id

    def run(self, held_out: range, passed: bool | None) -> int:
        """Its look. passed: None is a run without a gate report yet."""
        self.count += 1
        run_id = f"run_{self.count}"
        rows = [self.row(content) for content in held_out]
        report: dict[str, Any] | None = None if passed is None else {"passed": passed}
        with self.database.write() as session:
            session.add(
                TuningRun(
                    id=run_id, tenant_id=self.tenant_id, family_id="fam_1", method="sft", gate_report=report,
                    created_at=self.begun + timedelta(minutes=self.count),
                )
            )  # fmt: skip
            session.flush()
            session.add_all(RunRow(run_id=run_id, row_id=row_id, part="held_out") for row_id in rows)
        with self.database.read() as session:
            return look_of(session, run_id)


def test_looks_are_the_rejected_versions_since_one_passed(database: Database, tenant: Tenant) -> None:
    family = Family(database, tenant.id)
    same, fresh = range(10), range(100, 110)
    assert [family.run(same, passed=False) for _ in range(3)] == [1, 2, 3], "the same rows under other ids are the same"
    assert family.run(same, passed=None) == 4
    assert family.run(fresh, passed=False) == 1, "fresh rows start anew"
    assert family.run(range(4, 14), passed=True) == 4, "six of ten are the same"
    assert family.run(same, passed=False) == 1, "a version that passed has answered its question"
    assert family.run(same, passed=False) == 2
    assert family.run(range(0), passed=False) == 1


def test_a_judge_that_is_down_ends_the_attempt_and_rejects_nothing(
    database: Database, tenant: Tenant, settings: Settings
) -> None:
    down = JudgeSettings(url="http://127.0.0.1:9/v1", model="qwen-9", family="qwen")
    asked = settings.model_copy(update={"tuning": settings.tuning.model_copy(update={"judges": (down,)})})
    systems = {BASE: system(right_answer, 2.5), CANDIDATE: system(styled, 0.5)}
    evaluation = Evaluation(systems=systems, max_new_tokens=48, device="cpu", precision="float32", seconds=1)
    reader = Principal(tenant.id, "k", frozenset({Scope.TUNE}), frozenset())
    run = Run("run_1", tenant.id, "fam_1", "house", {}, [], None, None, {}, [], None, reader)
    looked = []
    with pytest.raises(Unavailable) as failed:
        Comparison(database, asked, SMALL).ask_judges(run, ITEMS, evaluation, [], lambda: looked.append(1))
    assert failed.value.code == "judge_unavailable" and failed.value.retryable and looked


@pytest.mark.parametrize(("use", "learnt"), [("evaluated", False), ("negative", True), ("row", True)])
def test_a_document_that_was_only_asked_about_taints_no_version_but_its_files_go(
    database: Database, tenant: Tenant, use: str, learnt: bool
) -> None:
    Family(database, tenant.id)
    with database.write() as session:
        session.add(TuningRun(id="run_1", tenant_id=tenant.id, family_id="fam_1", method="sft"))
        version = AdapterVersion(
            id="adv_1", tenant_id=tenant.id, family_id="fam_1", version="v1", digest="0" * 64, status="candidate",
            source="run", run_id="run_1", manifest={},
        )  # fmt: skip
        session.add(version)
        session.flush()
        session.add(RunDocument(run_id="run_1", document_id="doc_gone", generation=1, use=use))
        session.add(TuningRun(id="run_2", tenant_id=tenant.id, family_id="fam_1", method="sft"))
        session.flush()
        parent = Parent("adv_1", "house@v1", "0" * 64, "run_1", None, [])
        found = Preparation("v", 1, 1, 0, 0, evaluated_documents=[("doc_new", 2)])
        record_lineage(session, "run_2", found, [parent])
    with database.read() as session:
        traces = find_traces(session, Wanted(tenant.id, frozenset({"doc_gone"})))
        assert traces.runs == ({"run_1", "run_2"} if learnt else {"run_1"}), "a child learns what its parent learnt"
        assert traces.versions == ({"adv_1"} if learnt else set())
        assert gone_sources(session, session.get_one(AdapterVersion, "adv_1")) == (["doc_gone"] if learnt else [])
        asked = session.scalars(select(RunDocument).where(RunDocument.document_id == "doc_new")).one()
        assert (asked.run_id, asked.generation, asked.use) == ("run_2", 2, "evaluated")
