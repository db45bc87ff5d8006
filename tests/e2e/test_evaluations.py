"""One's own questions asked of a real service: by the command, as a job that survives a kill, in both topologies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli.client import Client
from cli.service_process import ServiceProcess
from tests.e2e.conftest import EXAMPLES, tsumugi, wait_until

QUESTIONS = [
    {"id": "code", "question": "What does error code E-17 mean?", "documents": ["support-faq.md"], "kind": "code"},
    {"id": "shelter", "question": "避難場所はどこですか。", "documents": "facilities-ja.txt", "kind": "place"},
    {"id": "cup", "question": "Who won the football world cup in 1998?", "unanswerable": True, "kind": "off"},
]


def outcomes_of(client: Client, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = client.get(f"/v1/admin/evaluations/{run_id}/outcomes", after=after, limit=200)
        found += page["items"]
        after = page["next_after"]
    return found


def test_an_evaluation_runs_where_questions_are_answered(client: Client) -> None:
    run = client.post("/v1/admin/evaluations", {"questions": QUESTIONS, "name": "both topologies"})
    assert client.follow_job(run["job"]["id"], timeout_s=120)["status"] == "succeeded"
    ended = client.get(f"/v1/admin/evaluations/{run['id']}")
    assert ended["report"]["questions"] == 3 and ended["report"]["failed"] == 0
    assert isinstance(ended["conditions"]["index_version"], str) and ended["conditions"]["prompt_version"]
    assert [one["question"]["id"] for one in outcomes_of(client, run["id"])] == ["code", "shelter", "cup"]


def test_the_command_reports_the_examples_and_what_changed(service: ServiceProcess, tmp_path: Path) -> None:
    examples = (EXAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [json.loads(line) for line in examples][::3]
    file = tmp_path / "例題.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    done = tsumugi("eval", str(file), "--json", data_dir=service.data_dir)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert run["name"] == "例題" and len(run["outcomes"]) == len(lines)
    assert run["report"]["right"]["share"] > 0.6, run["report"]
    assert set(run["report"]["by_language"]) == {"en", "ja"}
    second = tsumugi("eval", str(file), "--compare", run["id"], data_dir=service.data_dir)
    assert second.returncode == 0, second.stderr
    assert f"since {run['id']} ({len(lines)} questions in both)" in second.stdout
    assert "0 gained, 0 lost, p = 1" in second.stdout  # greedy decoding says the same twice


def test_a_file_that_cannot_be_used_is_wrong_usage(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "Why?"}\n{"question": ""}', encoding="utf-8")
    done = tsumugi("eval", str(file), data_dir=tmp_path)
    assert done.returncode == 2 and "questions.1" in done.stderr and "questions.2" in done.stderr


def test_a_killed_service_asks_the_rest_only(make_service: Callable[..., ServiceProcess]) -> None:
    count = 400
    service = make_service("evaluations")
    service.start()
    questions = [{"question": f"What is in barrel {number}?", "unanswerable": True} for number in range(count)]
    with service.client() as client:
        run = client.post("/v1/admin/evaluations", {"questions": questions})
        wait_until(lambda: len(some(client, run["id"])) > 5, 60, "some questions")
        service.kill()
    service.start()
    with service.client() as client:
        before = some(client, run["id"])
        assert client.follow_job(run["job"]["id"], timeout_s=300)["attempt"] == 2
        after = outcomes_of(client, run["id"])
    assert [one["ordinal"] for one in after] == list(range(1, count + 1))
    assert len(before) > 5 and before == after[: len(before)]
    assert service.stop() == 0


def some(client: Client, run_id: str) -> list[dict[str, Any]]:
    page = client.get(f"/v1/admin/evaluations/{run_id}/outcomes", limit=20)
    items: list[dict[str, Any]] = page["items"]
    return items
