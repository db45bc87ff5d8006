"""The gate report as a page: complete, escaped, one file that loads nothing; through API and command."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from typer.testing import CliRunner

from cli.main import app as cli
from cli.output import CommandFailed
from core.tables import AdapterFamily, AdapterVersion, TuningRun
from tests.api_app import Api
from tests.unit.test_tuning_gate import ITEMS, right_answer, styled, system
from tuning.gate import judge
from tuning.items import BASE, CANDIDATE, Evaluation
from tuning.report import intervals_svg, loss_svg

HOUSE = "/v1/admin/adapters/house"
EVIL = "<script>alert(1)</script> | `x`"


def gate_report(*, good: bool) -> dict[str, Any]:
    systems = {
        BASE: system(right_answer, 2.5),
        CANDIDATE: system(styled if good else right_answer, 0.5 if good else 2.5),
    }
    evaluation = Evaluation(systems=systems, max_new_tokens=48, device="cpu", precision="float32", seconds=1)
    return judge(ITEMS, evaluation, notes=[EVIL]).to_json()


@pytest.fixture
def version(api: Api) -> str:
    """A version with a run, a loss curve and a rejecting report."""
    name = api.add_version(status="rejected")
    with api.database.write() as session:
        row = session.scalars(select(AdapterVersion)).one()
        family = session.scalars(select(AdapterFamily)).one()
        curve = [{"step": step, "loss": 3.0 / step} for step in range(1, 30)] + [{"step": 30, "loss": None}]
        session.add(TuningRun(id="run_1", tenant_id=api.tenant.id, family_id=family.id, method="sft", loss_curve=curve))
        row.run_id, row.gate_report = "run_1", gate_report(good=False)
        row.manifest = {"base_name": EVIL, "recipe": {"name": "style-cpu"}}
    return name


def test_markdown_names_every_check_failures_first(admin: TestClient, version: str) -> None:
    given = admin.get(f"{HOUSE}/versions/{version}/report")
    assert given.headers["content-type"].startswith("text/markdown")
    rows = [line for line in given.text.splitlines() if line.startswith("| ") and " | base | " in line]
    assert rows[0].startswith("| **failed** | likelihood") and rows[-1].startswith("| passed")
    assert len(rows) == len(gate_report(good=False)["checks"])
    assert (
        "- refusal against base: a true drop of 10 points would be seen with probability 0.98 at n = 120" in given.text
    )
    assert "first candidate on these held-out rows: each bound errs with 0.030 at most" in given.text
    assert "at least" in given.text and "Loss 3.000 at step 1 to 0.103 at step 29." in given.text
    assert "<script" not in given.text


def test_html_is_one_safe_file_with_both_pictures(admin: TestClient, version: str) -> None:
    given = admin.get(f"{HOUSE}/versions/house@{version}/report?as=html")
    assert given.headers["content-type"].startswith("text/html")
    policy = given.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "sandbox" in policy and "script" not in policy
    assert "<script" not in given.text and "&lt;script&gt;" in given.text
    assert given.text.count("<svg") == 2 and "src=" not in given.text and "href=" not in given.text
    for part in given.text.split("<svg")[1:]:
        ET.fromstring("<svg" + part.partition("</svg>")[0] + "</svg>")


def test_a_version_without_a_gate_says_so(api: Api, admin: TestClient) -> None:
    api.add_version()
    with api.database.write() as session:
        session.scalars(select(AdapterVersion)).one().gate_report = None
    assert "It passed no gate here." in admin.get(f"{HOUSE}/versions/v1/report").text
    assert admin.get(f"{HOUSE}/versions/v9/report").status_code == 404
    assert admin.get(f"{HOUSE}/versions/v1/report?as=pdf").status_code == 422
    assert api.client(api.key("query")).get(f"{HOUSE}/versions/v1/report").status_code == 403


def test_pictures_bear_empty_flat_and_undefined_values() -> None:
    assert loss_svg([]) == ""
    ET.fromstring(loss_svg([(1, 2.0)]))
    undefined = {"name": "a<b", "against": "base", "passed": False, "difference": None, "ci_low": None, "ci_high": None}
    drawn = intervals_svg([undefined, {**undefined, "difference": 0.0, "ci_low": 0.0, "ci_high": 0.0, "passed": True}])
    ET.fromstring(drawn)
    assert "undefined" in drawn and "a&lt;b" in drawn and "nan" not in drawn


def test_commands_show_report_canary_and_policy(
    api: Api, api_url: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSUMUGI_URL", api_url)
    monkeypatch.setenv("TSUMUGI_API_KEY", api.admin)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["adapters", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    assert "likelihood" in run("report", "house", version)
    run("report", "house", version, "--html", str(tmp_path / "report.html"))
    assert "<svg" in (tmp_path / "report.html").read_text("utf-8")
    assert json.loads(run("report", "house", version, "--json"))["verdict"] == "rejected"
    assert "no canary yet" in run("canary", "house")
    assert "by_hand" in run("policy", "house")
    changed = json.loads(run("policy", "house", "--set", '{"promotion": "by_rule"}', "--json"))
    assert changed["policy"]["promotion"] == "by_rule"
    broken = CliRunner().invoke(cli, ["adapters", "policy", "house", "--set", "{"])
    assert isinstance(broken.exception, CommandFailed) and broken.exception.exit_code == 2
