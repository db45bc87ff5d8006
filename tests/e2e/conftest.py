"""Real services as subprocesses. One is shared by all tests that do not stop or damage it; models are prepared once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.client import Client
from cli.service_process import ServiceProcess

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def tsumugi(*arguments: str, data_dir: Path | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, from outside the checkout's folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TSUMUGI_")}
    if data_dir is not None:
        environment["TSUMUGI_DATA_DIR"] = str(data_dir)
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env={**environment, **settings},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture(scope="session")
def prepared_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded base, converted once for all services of the session."""
    data_dir = tmp_path_factory.mktemp("models")
    done = tsumugi("models", "prepare", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    return data_dir / "models"


def base_folder(models_dir: Path) -> Path:
    """Folder of the base that serves: the one with the starter merged in, where there is a starter."""
    done = tsumugi("models", "prepare", "--json", data_dir=models_dir.parent)
    return Path(json.loads(done.stdout)["path"])


@pytest.fixture(scope="session")
def make_service(
    prepared_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., ServiceProcess]]:
    """Make a service on a fresh data dir; whatever is still alive at the end of the session is stopped."""
    made: list[ServiceProcess] = []

    def make(name: str, **settings: str) -> ServiceProcess:
        data_dir = tmp_path_factory.mktemp(name)
        (data_dir / "models").symlink_to(prepared_models)
        made.append(ServiceProcess(data_dir, settings=settings))
        return made[-1]

    yield make
    for service in made:
        service.stop()


@pytest.fixture(scope="session")
def service(make_service: Callable[..., ServiceProcess]) -> ServiceProcess:
    """The shared service, with the example documents in the tenant `default`."""
    # What a gate proves is tested elsewhere; here it is enough that it is asked.
    shared = make_service("shared", TSUMUGI_TUNING__EVALUATION_ITEMS="8")
    shared.start()
    with shared.client() as client:
        upload_and_wait(client, sorted((EXAMPLES / "documents").iterdir()))
    return shared


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[Client]:
    """Admin client of the shared service."""
    with service.client() as opened:
        yield opened


def upload_text(client: Client, text: str, filename: str, **fields: Any) -> dict[str, Any]:
    """Upload one text; returns {document, job}."""
    answer = client.post("/v1/documents", {"text": text, "filename": filename, **fields})
    item: dict[str, Any] = answer["items"][0]
    return item


def upload_and_wait(client: Client, paths: list[Path]) -> list[dict[str, Any]]:
    """Upload files under their names as external ids and wait for all; every one must become ready."""
    items = []
    for path in paths:
        with path.open("rb") as file:
            answer = client.post("/v1/documents", files={"file": (path.name, file)}, data={"external_id": path.name})
        items.append(answer["items"][0])
    for item in items:
        job = client.follow_job(item["job"]["id"], timeout_s=120)
        assert job["status"] == "succeeded", job
    return items


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll another process; fail when it takes longer."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.1)
