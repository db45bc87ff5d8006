"""The command line: every command explains itself, and exit codes mean what the contract says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from cli.data_dir import exclusive
from cli.main import app
from cli.service_process import ServiceProcess
from tests.e2e.conftest import EXAMPLES, tsumugi

NO_JSON = {"completion"}


def commands() -> list[tuple[str, ...]]:
    found = []

    def walk(command: object, path: tuple[str, ...]) -> None:
        children = getattr(command, "commands", None)
        if children:
            for name, child in children.items():
                walk(child, (*path, name))
        else:
            found.append(path)

    walk(typer.main.get_command(app), ())
    return found


SERVER_PROCESSES = {("api",), ("worker",), ("beat",)}
"""They answer nothing; what they say are logs, which are JSON already."""


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_help_has_an_example_and_json(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0
    assert f"Example: tsumugi {' '.join(path)}" in result.output
    assert "--json" in result.output or path in SERVER_PROCESSES


def test_the_commands_of_the_contract_are_there() -> None:
    names = {path[0] for path in commands()}
    assert {"up", "demo", "ingest", "ask", "search", "adapters", "keys", "doctor", "backup", "restore"} <= names


def test_wrong_usage_is_2() -> None:
    assert tsumugi("ask").returncode == 2
    assert tsumugi("keys", "create", "x", "--scope", "everything").returncode == 2


def test_no_service_is_3(tmp_path: Path) -> None:
    nothing = tsumugi("ask", "Is anybody there?", data_dir=tmp_path)
    assert (nothing.returncode, nothing.stdout) == (3, "")
    refused = tsumugi("search", "x", TSUMUGI_URL="http://127.0.0.1:9", TSUMUGI_API_KEY="tsu_x")
    assert refused.returncode == 3
    assert "127.0.0.1:9" in refused.stderr


def test_failures_are_1(service: ServiceProcess) -> None:
    unknown = tsumugi("jobs", "show", "job_unknown", data_dir=service.data_dir)
    assert unknown.returncode == 1
    assert "not_found" in unknown.stderr


def test_ask_and_search_print_json(service: ServiceProcess) -> None:
    answer = tsumugi("ask", "What does error code E-17 mean?", "--json", data_dir=service.data_dir)
    assert answer.returncode == 0, answer.stderr
    assert {"id", "answer", "refused", "citations", "provenance", "usage", "timings_ms"} <= set(
        json.loads(answer.stdout)
    )
    found = tsumugi("search", "避難場所", "--limit", "2", "--json", data_dir=service.data_dir)
    assert json.loads(found.stdout)["items"][0]["filename"] == "facilities-ja.txt"


def test_ingest_a_folder_twice(service: ServiceProcess, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("The lamp in the hall is called Orion.", encoding="utf-8")
    (folder / "empty.txt").write_bytes(b"")
    first = tsumugi("ingest", str(folder), "--collection", "notes", "--json", data_dir=service.data_dir)
    assert first.returncode == 1  # one file is empty, the other is in all the same
    rows = {Path(row["path"]).name: row for row in json.loads(first.stdout)["items"]}
    assert rows["a.txt"]["document"]["status"] == "ready"
    assert rows["empty.txt"]["error"]["code"] == "empty_file"
    (folder / "empty.txt").unlink()
    again = tsumugi("ingest", str(folder), "--collection", "notes", "--json", data_dir=service.data_dir)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["items"][0]["document"]["id"] == rows["a.txt"]["document"]["id"]


def test_documents_are_read_again(service: ServiceProcess, tmp_path: Path) -> None:
    file = tmp_path / "lamp.txt"
    file.write_text("The lamp in the yard is called Vega.", encoding="utf-8")
    sent = tsumugi("ingest", str(file), "--collection", "yard", "--json", data_dir=service.data_dir)
    document_id = json.loads(sent.stdout)["items"][0]["document"]["id"]
    for generation, which in ((2, (document_id,)), (3, ("--all", "--collection", "yard"))):
        done = tsumugi("documents", "reread", *which, "--json", data_dir=service.data_dir)
        assert done.returncode == 0, done.stderr
        (item,) = json.loads(done.stdout)["items"]
        assert (item["document"]["id"], item["document"]["active_generation"]) == (document_id, generation)
    before = ("--all", "--collection", "yard", "--before", "2020-01-01")
    assert "no documents" in tsumugi("documents", "reread", *before, data_dir=service.data_dir).stdout
    assert tsumugi("documents", "reread", data_dir=service.data_dir).returncode == 2
    assert tsumugi("documents", "reread", document_id, "--all", data_dir=service.data_dir).returncode == 2


def test_demo_needs_examples(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = tsumugi("demo", "--examples", str(tmp_path), "--report", str(report))
    assert done.returncode == 1
    assert not report.exists()


def test_examples_hold_what_the_demo_promises() -> None:
    lines = [json.loads(line) for line in (EXAMPLES / "questions.jsonl").read_text("utf-8").splitlines()]
    answerable = [line for line in lines if line["answerable"]]
    assert len(lines) >= 24
    assert sum(line["language"] == "ja" for line in lines) * 2 >= len(lines) - 2
    assert len(lines) - len(answerable) >= 4
    names = {path.name for path in (EXAMPLES / "documents").iterdir()}
    assert {line["document"] for line in answerable} <= names


def test_a_second_holder_of_a_data_dir_is_told_who_has_it(tmp_path: Path) -> None:
    with exclusive(tmp_path, "this test"):
        second = tsumugi("up", "--port", "0", data_dir=tmp_path)
    assert second.returncode == 2
    assert "this test" in second.stderr
