"""The end-to-end cases of the embedded service, once more over the server topology: PostgreSQL, Redis, two api and two
ingest worker processes, beat. Each client made talks to the next api process, so one writes what the other reads.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from benchmarks.chaos_load import in_threads
from benchmarks.server_chaos import Server, run_chaos
from cli.client import Client
from cli.service_process import ServiceProcess
from tests.e2e.conftest import EXAMPLES, tsumugi, upload_and_wait, upload_text

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
from tests.e2e.test_evaluations import test_an_evaluation_runs_where_questions_are_answered  # noqa: F401
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
    # As in docker-compose.yml, but shorter: a process that is told to stop says so before it refuses anything.
    with ServerTopology(prepared_models, settings={"TSUMUGI_HTTP__DRAIN_NOTICE_S": "1"}) as started:
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
        assert set(answer.json()["checks"]) == {"database", "disk", "broker", "index", "index_incomplete", "generator"}


def test_job_events_of_a_worker_reach_a_stream_of_an_api_process(service: ServerService) -> None:
    item = upload_text(service.client(), "The mill at Arden was built in 1702. " * 40, "mill.txt")
    path = f"/v1/jobs/{item['job']['id']}/events"
    seen = [data["status"] for _, data in service.client().stream("GET", path)]
    assert seen[-1] == "succeeded"


def test_processes_without_an_api_tell_their_figures(topology: ServerTopology) -> None:
    for name in ("worker-1", "worker-2", "beat", "trainer"):
        assert "python_info" in httpx.get(f"{topology.url(name)}/metrics").text


def test_a_rolling_restart_fails_no_request(topology: ServerTopology, service: ServerService) -> None:
    """Each process is told to stop and started again, behind a balancer that sends requests to whoever is ready."""
    key = {"Authorization": f"Bearer {service.admin_key}"}
    balancer = Balancer([topology.url("api-1"), topology.url("api-2")])
    stopping = threading.Event()
    answered: Counter[str] = Counter()
    failed: list[str] = []
    jobs: list[str] = []

    def load(number: int) -> None:
        with httpx.Client(headers=key, timeout=60, trust_env=False) as http:
            while not stopping.is_set():
                turn = answered.total()
                if number == 0:
                    path, body = (
                        "/v1/documents",
                        {"text": f"Barge {turn} lies at pier {turn}.", "filename": f"{turn}.md"},
                    )
                elif turn % 5 == 0:
                    path, body = "/v1/ask", {"question": "How many days of annual leave are there?"}
                else:
                    path, body = "/v1/search", {"query": f"annual leave {turn}"}
                try:
                    response = http.post(balancer.choose() + path, json=body)
                except httpx.HTTPError as error:
                    failed.append(f"{path}: {error!r}")
                    continue
                answered[path] += 1
                if not response.is_success:
                    failed.append(f"{path}: {response.status_code} {response.text[:200]}")
                elif number == 0:
                    jobs.append(response.json()["items"][0]["job"]["id"])
                    stopping.wait(0.3)

    with balancer:
        threads = in_threads(4, load)
        for name in ("api-1", "worker-1", "api-2", "worker-2", "beat"):
            assert topology.processes[name].stop() == 0, topology.processes[name].tail()
            topology.restart(name)
            topology.wait_ready(name)
            balancer.wait_all_ready()
        stopping.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert min(answered[path] for path in ("/v1/documents", "/v1/ask", "/v1/search")) > 10, answered
    ended = {service.client().follow_job(job, timeout_s=120)["status"] for job in jobs}
    assert ended == {"succeeded"}


class Balancer:
    """Looks at /readyz of each api process ten times a second, and names in turn those that said yes."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self._ready = list(urls)
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="balancer", daemon=True)
        self._turn = itertools.count()

    def __enter__(self) -> Balancer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def choose(self) -> str:
        """The next process that is ready."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._ready, 60), "no api process is ready"
            return self._ready[next(self._turn) % len(self._ready)]

    def wait_all_ready(self) -> None:
        """Return when all are seen to be ready."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._ready) == len(self._urls), 60)

    def _look(self) -> None:
        while not self._stopping.wait(0.1):
            found = []
            for url in self._urls:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == 200:
                        found.append(url)
            with self._changed:
                self._ready = found
                self._changed.notify_all()


def test_nothing_is_lost_while_each_process_dies(topology: ServerTopology) -> None:
    """A small version of `python -m benchmarks.server_chaos`."""
    victims = ("worker-1", "redis", "postgres", "api-2")
    report = run_chaos(Server(topology), documents=12, queries=80, say=print, victims=victims)
    assert report.wrong == []
    assert report.ready == 12 - report.deleted and report.points == report.points_wanted > 0
    assert report.queries_answered >= 80 and report.kills == list(victims)


def test_a_busy_server_is_backed_up_and_moves_into_a_data_dir(
    topology: ServerTopology, service: ServerService, tmp_path: Path, prepared_models: Path
) -> None:
    """Taken by the command beside the running processes while documents come in, restored into the other topology."""
    client = service.client()
    items = [
        upload_text(client, f"Hall {number} was built in {1700 + number}. " * 30, "hall.txt") for number in range(6)
    ]
    backup = tsumugi("backup", str(tmp_path / "server.tar.gz"), "--json", **topology.environment())
    assert backup.returncode == 0, backup.stderr
    taken = json.loads(backup.stdout)
    assert taken["missing"] == [] and sum(taken["points"].values()) > 0
    for item in items:
        assert client.follow_job(item["job"]["id"], timeout_s=120)["status"] == "succeeded"
    asked = ["What does error code E-17 mean?", "How many days of annual leave are there?"]
    before = [found(client, question) for question in asked]

    data_dir = tmp_path / "moved"
    data_dir.mkdir()
    (data_dir / "models").symlink_to(prepared_models)
    # The embedder of the backup's index version answers over HTTP, here as there.
    done = tsumugi("restore", str(tmp_path / "server.tar.gz"), "--json", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    doctor = tsumugi("doctor", "--json", data_dir=data_dir)
    assert json.loads(doctor.stdout) == {"ok": True, "problems": [], "left": 0}, doctor.stdout
    moved = ServiceProcess(data_dir)
    moved.start()
    try:
        with moved.client() as there:
            assert [found(there, question)[:1] for question in asked] == [one[:1] for one in before]
    finally:
        moved.stop()


def found(client: Client, question: str) -> list[str]:
    """Passages that a search finds, best first."""
    return [passage["chunk_id"] for passage in client.post("/v1/search", {"query": question})["items"]]
