"""The short loop: rows in, a run as a job, its gate, promotion, answers under its stamp. Few steps, real parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli.client import ApiProblem, Client
from cli.service_process import ServiceProcess
from tests.e2e.conftest import EXAMPLES, tsumugi

ROWS = 32
STEPS = 2


@pytest.fixture(scope="module")
def run(service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A finished run of the family `short`."""
    rows = (EXAMPLES / "style.jsonl").read_text("utf-8").splitlines()[:ROWS]
    path: Path = tmp_path_factory.mktemp("rows") / "short.jsonl"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    with service.client() as client:
        dataset = client.post("/v1/datasets", files={"file": (path.name, path.read_bytes())})
        assert dataset["row_count"] == ROWS
        overrides = {"batch.max_steps": STEPS, "batch.rows": 2}
        body = {"family": "short", "method": "sft", "recipe": "style-cpu", "dataset_ids": [dataset["id"]]}
        queued = client.post("/v1/admin/tuning-runs", {**body, "overrides": overrides})
        job = client.follow_job(queued["job"]["id"], timeout_s=420)
        assert job["status"] == "succeeded", job
        detail: dict[str, Any] = client.get(f"/v1/admin/tuning-runs/{queued['id']}")
        return detail


def test_a_run_leaves_losses_a_verdict_and_a_version(client: Client, run: dict[str, Any]) -> None:
    assert len(run["loss_curve"]) == STEPS
    assert all(point["loss"] > 0 for point in run["loss_curve"])
    assert run["gate_report"]
    assert run["dataset_version"]
    family = client.get("/v1/admin/adapters/short")
    assert [version["version"] for version in family["versions"]] == ["v1"]
    # Two steps teach no style: a gate that lets this through would let anything through.
    assert family["versions"][0]["status"] == "rejected"
    assert family["versions"][0]["reasons"]


def test_a_rejected_version_serves_only_by_force(client: Client, run: dict[str, Any]) -> None:
    promote = "/v1/admin/adapters/short/promote"
    with pytest.raises(ApiProblem, match=r"409|422"):
        client.post(promote, {"version": "v1"})
    with pytest.raises(ApiProblem, match="reason"):
        client.post(promote, {"version": "v1", "force": True})
    client.post(promote, {"version": "v1", "force": True, "reason": "the test wants to see it serve"})
    question = {"question": "What does error code E-17 mean?"}
    assert client.post("/v1/ask", {**question, "adapter": "short"})["provenance"]["adapter"] == "short@v1"
    assert client.post("/v1/ask", {**question, "adapter": "base"})["provenance"]["adapter"] is None
    rolled = client.post("/v1/admin/adapters/short/rollback", {"reason": "enough"})
    assert rolled["to"] is None
    assert rolled["effective_ms"] < 1000
    with pytest.raises(ApiProblem, match="404"):  # rejected, and no alias holds it any more
        client.post("/v1/ask", {**question, "adapter": "short@v1"})


def test_the_command_line_shows_it(service: ServiceProcess, run: dict[str, Any]) -> None:
    shown = tsumugi("adapters", "show", "short", data_dir=service.data_dir)
    assert shown.returncode == 0
    assert "v1" in shown.stdout
    history = tsumugi("adapters", "history", "short", data_dir=service.data_dir)
    assert "rollback" in history.stdout
