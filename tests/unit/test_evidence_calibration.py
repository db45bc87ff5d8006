"""Fitting the evidence stage to a tenant's own questions: what is stored, what it changes, and for whom."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pytest

from core.database import Database
from core.errors import InvalidInput
from core.tables import EvidenceCalibration, Tenant
from core.types import Passage
from generation.evaluation.evidence import Judged, fit_for_tenant, right_candidates
from generation.evaluation.evidence_fit import fit_ranking
from generation.evaluation.questions import parse_questions
from generation.evidence.in_force import parameters_in_force
from generation.evidence.parameters import parse_parameters, shipped_parameters
from generation.evidence.pool import pool_of
from generation.evidence.ranking import features

TODAY = date(2026, 5, 1)
GOODS = ("脚立", "台車", "延長コード", "投光器", "発電機", "高圧洗浄機", "送風機", "溶接機", "送水ポンプ", "ジャッキ")


def judged(answerable: int, unanswerable: int) -> list[Judged]:
    """Questions for prices of hired tools: each asks one row of a list of ten; others ask for what no row tells."""
    items = []
    for number in range(answerable + unanswerable):
        good, branch = GOODS[number % len(GOODS)], f"第{number // len(GOODS) + 1}営業所"
        text = "\n".join(f"品名: {one} | 日額: {(at + 3) * 110 + number}円" for at, one in enumerate(GOODS))
        name = f"{branch}_貸出料金_{number}.xlsx"
        passage = Passage(f"c{number}", f"d{number}", 1, name, None, "貸出料金", 0, len(text), text, 1.0, 0.8)
        price = f"{(GOODS.index(good) + 3) * 110 + number}円"
        given = (
            {"question": f"{branch}の{good}の日額はいくらですか", "expected": price, "document": name}
            if number < answerable
            else {"question": f"{branch}の屋上の広さは何平方メートルですか{number}", "unanswerable": True}
        )
        [question] = parse_questions([given])
        pool = pool_of(question.question, [passage], TODAY)
        items.append(Judged(question, pool, features(pool), right_candidates(question, pool)))
    return items


def test_a_tenants_own_questions_make_it_as_sure_as_it_is_right() -> None:
    parameters, figures = fit_for_tenant(judged(40, 15))
    told = figures["ja"]
    assert told["questions"] == 55 and told["right_at_first"] > 0.9
    assert told["calibration_error"] < told["calibration_error_shipped"]
    assert told["refused_rightly"] == 1.0
    own = parse_parameters(parameters)
    assert own.uncompared.confidence != shipped_parameters().uncompared.confidence
    assert own.uncompared.ranking == shipped_parameters().uncompared.ranking
    assert own.own == shipped_parameters().own, "what was not heard of stays as it was"


def test_too_few_questions_are_refused_with_what_is_needed() -> None:
    with pytest.raises(InvalidInput) as caught:
        fit_for_tenant(judged(40, 3))
    assert caught.value.code == "too_few_questions" and "10 unanswerable" in caught.value.detail


def test_the_newest_fit_of_a_tenant_is_in_force_for_it_alone(
    database: Database, tenant: Tenant, other_tenant: Tenant
) -> None:
    with database.write() as session:
        for minute, refuse in enumerate((0.55, 0.65)):
            stored = shipped_parameters().to_json() | {"refuse": refuse}
            moment = datetime(2026, 5, 1, 9, minute, tzinfo=UTC)
            session.add(EvidenceCalibration(tenant_id=tenant.id, parameters=stored, created_at=moment))
    with database.read() as session:
        assert parameters_in_force(session, tenant.id).refuse == 0.65
        assert parameters_in_force(session, other_tenant.id) == shipped_parameters()


def test_no_feature_is_turned_round_by_a_fit() -> None:
    random = np.random.RandomState(3)
    rows = []
    for _ in range(40):
        table = random.rand(12, 2)
        right = np.zeros(12)
        right[int(table[:, 0].argmin())] = 1.0  # the data say that the first feature speaks against
        rows.append((table, right))
    free = fit_ranking(rows, np.array([0.0, 0.0]))
    held = fit_ranking(rows, np.array([1.0, 0.0]))
    assert free[0] < 0 and held[0] == 0.0
