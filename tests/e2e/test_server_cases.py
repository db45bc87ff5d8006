"""The end-to-end cases of the embedded service, once more over the server topology: PostgreSQL, Redis, two api and two
ingest worker processes, beat. Each client made talks to the next api process, so one writes what the other reads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from benchmarks.server_chaos import run_chaos
from cli.client import Client
from tests.e2e.conftest import EXAMPLES, upload_and_wait, upload_text

# The cases themselves. `client` and `tenants` find the fixture `service` below, as it is nearer than the embedded one.
from tests.e2e.test_access import (  # noqa: F401
    tenants,
    test_a_revoked_key_is_401,
    test_another_tenant_finds_nothing,
    test_groups_bound_what_a_key_reads,
    test_no_key_is_401,
    test_wrong_scope_is_403,
)
from tests.e2e.test_answers import (  # noqa: F401
    test_an_answer_cites_a_span_that_is_in_its_source,
    test_feedback_is_taken,
    test_replacing_changes_the_next_answer_and_deleting_ends_it,
    test_streaming_says_the_same,
    test_the_openai_client_works,
    test_what_no_document_says_is_refused,
)
from tests.e2e.test_bad_input import (  # noqa: F401
    test_a_bad_row_is_named_by_its_line,
    test_an_upload_over_the_limit_is_413,
    test_bad_requests,
    test_files_that_cannot_be_read,
    test_nothing_was_lost,
)
from tests.server_processes import ServerTopology, postgres_binaries

pytestmark = pytest.mark.skipif(
    postgres_binaries() is None,
    reason="NOT TESTED: the server topology, as PostgreSQL is not installed (apt-get install postgresql)",
)


@dataclass
class ServerService:
    """A server topology in the shape of `cli.service_process.ServiceProcess`, as far as the cases use it."""

    topology: ServerTopology
    _turns: Iterator[str] = field(default_factory=lambda: itertools.cycle(("api-1", "api-2")))

    @property
    def url(self) -> str:
        return self.topology.url(next(self._turns))

    @property
    def admin_key(self) -> str:
        return self.topology.admin_key

    def client(self, key: str | None = None) -> Client:
        return self.topology.client(next(self._turns), key)


@pytest.fixture(scope="module")
def topology(prepared_models: Path) -> Iterator[ServerTopology]:
    with ServerTopology(prepared_models) as started:
        started.start_all(trainer=True)
        yield started


@pytest.fixture(scope="module")
def service(topology: ServerTopology) -> ServerService:
    shared = ServerService(topology)
    with shared.client() as client:
        upload_and_wait(client, sorted((EXAMPLES / "documents").iterdir()))
    return shared


def test_no_process_that_only_serves_holds_torch(topology: ServerTopology, service: ServerService) -> None:
    """The memory maps of the running processes say what they have loaded, whatever imported it."""
    loaded = {}
    for name in ("api-1", "api-2", "beat", "worker-1"):
        process = topology.processes[name].process
        assert process is not None
        loaded[name] = "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()
    assert not any(loaded.values()), loaded


def test_each_process_says_what_it_stands_on(topology: ServerTopology, service: ServerService) -> None:
    for name in ("api-1", "api-2"):
        answer = httpx.get(f"{topology.url(name)}/readyz")
        assert answer.json()["status"] == "ready"
        assert set(answer.json()["checks"]) == {"database", "broker", "index", "generator"}


def test_job_events_of_a_worker_reach_a_stream_of_an_api_process(service: ServerService) -> None:
    item = upload_text(service.client(), "The mill at Arden was built in 1702. " * 40, "mill.txt")
    path = f"/v1/jobs/{item['job']['id']}/events"
    seen = [data["status"] for _, data in service.client().stream("GET", path)]
    assert seen[-1] == "succeeded"


def test_processes_without_an_api_tell_their_figures(topology: ServerTopology) -> None:
    for name in ("worker-1", "worker-2", "beat", "trainer"):
        assert "python_info" in httpx.get(f"{topology.url(name)}/metrics").text


def test_nothing_is_lost_while_each_process_dies(topology: ServerTopology) -> None:
    """A small version of `python -m benchmarks.server_chaos`."""
    victims = ("worker-1", "redis", "postgres", "api-2")
    report = run_chaos(topology, documents=12, queries=80, say=print, victims=victims)
    assert report.wrong == []
    assert report.ready == 12 - report.deleted and report.points == report.points_wanted > 0
    assert report.queries_answered >= 80 and report.kills == list(victims)
