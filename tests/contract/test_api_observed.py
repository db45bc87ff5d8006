"""What an operator sees: one trace from request to worker, figures of stages, the audit trail as a stream."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY
from sqlalchemy import update

from core import audit
from core.jobs import JobLease
from core.settings import TelemetrySettings
from core.tables.operations import AuditEntry
from core.tracing import start_tracing, stop_tracing
from tests.api_app import Api, serve
from workers.base import run_job

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    start_tracing(TelemetrySettings(), "test", SimpleSpanProcessor(exporter))
    yield exporter
    stop_tracing()


def test_a_trace_goes_from_the_callers_request_to_the_worker(api: Api, spans: InMemorySpanExporter) -> None:
    def work(lease: JobLease) -> None:
        lease.progress("extract", 0.1)
        lease.progress("embed", 0.5)

    before = figure("tsumugi_stage_seconds_count", stage="extract")
    with api.client() as client:
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        made = client.post("/v1/documents", json={"text": "25 days", "filename": "a.txt"}, headers=headers)
        client.post("/v1/ask", json={"question": "How?"}, headers=headers)
    assert made.status_code == 202, made.text
    run_job(api.services.jobs, made.json()["items"][0]["job"]["id"], work)
    found = {span.name: span for span in spans.get_finished_spans()}
    assert {f"{span.context.trace_id:032x}" for span in found.values() if span.context} == {TRACE}
    assert {"http POST", "job ingest.document", "extract", "embed", "retrieve", "generate"} <= set(found)
    job, extract = found["job ingest.document"], found["extract"]
    assert extract.parent is not None and job.context is not None and extract.parent.span_id == job.context.span_id
    assert found["generate"].attributes is not None and found["generate"].attributes["adapter"] == "base"
    assert figure("tsumugi_stage_seconds_count", stage="extract") == before + 1


def test_without_a_collector_jobs_carry_no_trace(api: Api) -> None:
    with api.client() as client:
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        made = client.post("/v1/documents", json={"text": "25 days", "filename": "a.txt"}, headers=headers)
    lease = api.services.jobs.claim(made.json()["items"][0]["job"]["id"])
    assert lease is not None and "traceparent" not in lease.arguments and 0 <= lease.queued_s < 60


def figure(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_answers_are_measured_by_adapter_version(api: Api) -> None:
    before = figure("tsumugi_generated_tokens_total", adapter="base")
    with api.client() as client:
        client.post("/v1/ask", json={"question": "How?"})
        shown = client.get("/metrics").text
    assert figure("tsumugi_generated_tokens_total", adapter="base") == before + 2
    for name in ("tsumugi_first_token_seconds", "tsumugi_answer_tokens_per_second", "tsumugi_stage_seconds"):
        assert f"# TYPE {name} histogram" in shown
    for stage in ("retrieve", "generate"):
        assert f'tsumugi_stage_seconds_count{{stage="{stage}"}}' in shown


def settle(api: Api) -> None:
    """Make every row old enough to be streamed."""
    with api.database.write() as session:
        earlier = timedelta(seconds=2)
        for row in session.query(AuditEntry).order_by(AuditEntry.created_at, AuditEntry.id):
            session.execute(
                update(AuditEntry).where(AuditEntry.id == row.id).values(created_at=row.created_at - earlier)
            )


def test_the_audit_trail_streams_oldest_first_and_goes_on_where_it_was_left(api: Api) -> None:
    with api.client() as admin:
        for number in range(5):
            admin.post("/v1/admin/keys", json={"name": f"k{number}", "scopes": ["query"]})
        settle(api)
        lines = admin.get("/v1/admin/audit/events", headers={"accept": "application/x-ndjson"})
        rows = [json.loads(line) for line in lines.text.splitlines()]
        assert lines.headers["content-type"].startswith("application/x-ndjson")
        assert [row["detail"]["name"] for row in rows] == ["admin", *(f"k{number}" for number in range(5))]
        rest = admin.get(
            "/v1/admin/audit/events", params={"after": rows[3]["id"]}, headers={"accept": "application/x-ndjson"}
        )
        assert [json.loads(line)["id"] for line in rest.text.splitlines()] == [row["id"] for row in rows[4:]]
        assert admin.get("/v1/admin/audit/events", params={"after": "aud_no"}).status_code == 404
    assert api.client(api.key("query")).get("/v1/admin/audit/events").status_code == 403
    seen: list[Any] = []
    headers = {"Authorization": f"Bearer {api.admin}", "Last-Event-ID": rows[4]["id"]}
    with (
        serve(api.app) as url,
        httpx.stream("GET", f"{url}/v1/admin/audit/events", headers=headers, timeout=20) as stream,
    ):
        for line in stream.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: "))["detail"]["name"])
            if len(seen) == 1 and line == "":
                threading.Thread(target=add_row, args=(api,)).start()
            if len(seen) == 2:
                break
        api.services.draining.set()
    assert seen == ["k4", "late"]


def add_row(api: Api) -> None:
    with api.database.write() as session:
        audit.record(session, tenant_id=api.tenant.id, actor=audit.SYSTEM, action="key.create", detail={"name": "late"})
