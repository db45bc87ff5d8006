"""`tsumugi calibrate --evidence` over documents that were really ingested."""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import select
from typer.testing import CliRunner

from benchmarks.ingested import open_ingested
from cli.main import app
from core.database import Database
from core.settings import load_settings
from core.tables import AuditEntry, EvidenceCalibration
from generation.evidence.in_force import parameters_in_force
from generation.evidence.parameters import shipped_parameters
from ingest.upload import Upload

TOOLS = (
    "脚立",
    "台車",
    "投光器",
    "発電機",
    "送風機",
    "溶接機",
    "送水ポンプ",
    "高圧洗浄機",
    "油圧ジャッキ",
    "延長コード",
)
BRANCHES = ("苫小牧", "高崎", "桑名", "鳥栖")


def price(branch: int, tool: int) -> str:
    return f"{(tool + 3) * 130 + branch * 7}円"


def test_questions_of_ones_own_are_fitted_and_in_force(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    with open_ingested(settings) as service:
        for at, branch in enumerate(BRANCHES):
            rows = [f"{tool},{price(at, number)}" for number, tool in enumerate(TOOLS)]
            text = "\n".join(["品名,日額", *rows])
            service.add([Upload(f"{branch}営業所_貸出料金.csv", text.encode())])
    questions = [
        {"question": f"{branch}営業所の{tool}の日額はいくらですか", "expected": price(at, number)}
        for at, branch in enumerate(BRANCHES)
        for number, tool in enumerate(TOOLS)
    ] + [
        {"question": f"{branch}営業所の{what}はいつですか", "unanswerable": True}
        for branch in BRANCHES
        for what in ("開所式", "避難訓練", "棚卸し")
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in questions), encoding="utf-8")
    told = CliRunner().invoke(
        app, ["calibrate", str(file), "--evidence", "--tenant", "benchmark", "--json", "--data-dir", str(tmp_path)]
    )
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout[told.stdout.index("{") :])
    assert report["figures"]["ja"]["questions"] == len(questions)
    assert report["figures"]["ja"]["calibration_error"] <= report["figures"]["ja"]["calibration_error_shipped"]
    db = Database(settings.database_url)
    with db.read() as session:
        stored = session.scalars(select(EvidenceCalibration)).one()
        assert stored.id == report["id"]
        assert parameters_in_force(session, stored.tenant_id) != shipped_parameters()
        assert session.scalars(select(AuditEntry.action)).all()[-1] == "evidence.calibrate"
    db.close()
    few = tmp_path / "few.jsonl"
    few.write_text(json.dumps(questions[0], ensure_ascii=False), encoding="utf-8")
    refused = CliRunner().invoke(
        app, ["calibrate", str(few), "--evidence", "--data-dir", str(tmp_path), "--tenant", "benchmark"]
    )
    assert refused.exit_code != 0
