"""A cell of the methods table is a result of this source and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import methods_table
from tests.methods_table import NOT_SHOWN, Shown, family_rows, named_tests, recipe_rows, render
from tests.shown import ROOT, ShownResults, read_results, source_of
from tests.tiny_families import FAMILIES
from tuning.recipe import recipe_names


def test_every_recipe_and_family_has_a_row_of_tests_that_exist() -> None:
    assert set(recipe_rows()) == set(recipe_names()) and set(family_rows()) == set(FAMILIES)
    files = sorted({test.partition("::")[0] for test in named_tests()})
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *files],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.splitlines()  # fmt: skip
    missing = [test for test in named_tests() if test not in collected and not test.endswith("[zero3]")]
    assert not missing, missing


def test_without_a_result_nothing_is_shown() -> None:
    table = render({})
    for name in recipe_names():
        row = next(line for line in table.splitlines() if line.startswith(f"| {name} "))
        assert NOT_SHOWN in row and "yes" not in row and "in process" not in row


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (("passed", "passed"), "yes"),
        (("passed", "failed"), "fails"),
        (("failed", None), "fails"),
        (("passed", "skipped"), NOT_SHOWN),
        (("passed", None), NOT_SHOWN),
    ],
)
def test_a_cell_needs_all_its_tests(outcomes: tuple[str | None, str | None], said: str) -> None:
    results = {name: outcome for name, outcome in zip("ab", outcomes, strict=True) if outcome is not None}
    assert Shown(("a", "b")).cell(results) == said


def test_results_of_another_source_count_for_nothing(tmp_path: Path) -> None:
    report = tmp_path / "shown.json"
    report.write_text(json.dumps({"source": source_of(), "results": {"a": "passed"}}), "utf-8")
    assert read_results(report) == {"a": "passed"}
    report.write_text(json.dumps({"source": "another", "results": {"a": "passed"}}), "utf-8")
    assert read_results(report) == {} == read_results(tmp_path / "none.json")


def test_a_source_is_told_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1", "utf-8")
    first = source_of(tmp_path)
    (tmp_path / "a.py").write_text("2", "utf-8")
    assert source_of(tmp_path) != first
    (tmp_path / "a.py").write_text("1", "utf-8")
    assert source_of(tmp_path) == first


def test_sessions_add_up_and_a_failed_teardown_is_a_failure(tmp_path: Path) -> None:
    class Report:
        def __init__(self, nodeid: str, when: str, outcome: str) -> None:
            self.nodeid, self.when, self.outcome = nodeid, when, outcome
            self.failed, self.skipped = outcome == "failed", outcome == "skipped"

    report = tmp_path / "shown.json"
    for tests in ([("a", "call", "passed"), ("a", "teardown", "failed")], [("b", "call", "passed")]):
        session = ShownResults(report)
        for one in tests:
            session.pytest_runtest_logreport(Report(*one))  # type: ignore[arg-type]
        session.pytest_sessionfinish()
    assert read_results(report) == {"a": "failed", "b": "passed"}


def test_the_command_fails_where_a_cell_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "shown.json"
    broken = recipe_rows()["dpo"].direction.tests[0]
    for outcome, status in (("failed", 1), ("passed", 0)):
        report.write_text(json.dumps({"source": source_of(), "results": {broken: outcome}}), "utf-8")
        assert methods_table.main(["--report", str(report)]) == status
        row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| dpo "))
        assert row.split("|")[2].strip() == ("fails" if status else "yes")
