"""A real service forgets: over HTTP and the command line, and in the raw bytes of its data dir while it runs."""

from __future__ import annotations

import json
from pathlib import Path

from cli.client import Client
from cli.service_process import ServiceProcess
from tests.e2e.conftest import tsumugi, upload_text
from tests.erasing import files_with

WORD = "Quartzfeather"
TEXT = (
    f"# Signal station {WORD}\n\nThe signal station {WORD} is manned by 41 keepers. "
    "Its lamp is lit at dusk by the keeper on duty.\n"
)


def test_a_document_leaves_no_byte_behind(service: ServiceProcess, client: Client, tmp_path: Path) -> None:
    item = upload_text(client, TEXT, f"{WORD}.md", external_id=f"station/{WORD}")
    assert client.follow_job(item["job"]["id"], timeout_s=60)["status"] == "succeeded"
    answer = client.post("/v1/ask", {"question": f"How many keepers man the signal station {WORD}?"})
    assert any(one["document_id"] == item["document"]["id"] for one in answer["citations"]), answer
    rated = {"rating": "up", "comment": f"right about {WORD}", "consent": True}
    client.request(
        "POST", f"/v1/answers/{answer['id']}/feedback", json=rated, headers={"Idempotency-Key": f"rate-{answer['id']}"}
    )
    client.request(
        "PATCH", f"/v1/documents/{item['document']['id']}", json={"metadata": {"station": WORD}},
        headers={"Idempotency-Key": "patch-the-station"},
    )  # fmt: skip
    harvested = client.post("/v1/datasets/from-feedback", {"name": "stations", "family": "stations"})
    assert harvested["datasets"]
    client.delete(f"/v1/documents/{item['document']['id']}")
    before = files_with(service.data_dir, WORD)
    assert any(name.startswith("tsumugi.sqlite3") for name in before), before

    planned = tsumugi("erase", "--external-id", f"station/{WORD}", "--dry-run", "--json", data_dir=service.data_dir)
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert plan["status"] == "planned" and plan["plan"]["counts"]["answers"] == 1 and plan["plan"]["counts"]["rows"]
    unasked = tsumugi("erase", "--external-id", f"station/{WORD}", "--json", data_dir=service.data_dir)
    assert unasked.returncode == 1 and "--yes" in unasked.stderr

    kept = tmp_path / "certificate.json"
    done = tsumugi(
        "erase", "--external-id", f"station/{WORD}", "--yes", "--certificate", str(kept), data_dir=service.data_dir
    )
    assert done.returncode == 0, done.stderr
    certificate = json.loads(kept.read_text("utf-8"))
    assert certificate["erased"]["answers"]["count"] == 1 and certificate["purged"]["database"]
    assert all(certificate["purged"]["index"].values())
    assert WORD not in kept.read_text("utf-8")
    assert files_with(service.data_dir, WORD) == []
    assert client.get("/readyz")["status"] == "ready"
    again = client.post("/v1/ask", {"question": "How many days of annual leave do full-time staff get?"})
    assert not again["refused"], "the rest answers as before"
    listed = tsumugi("erasures", "list", data_dir=service.data_dir)
    assert "done" in listed.stdout and WORD not in listed.stdout
