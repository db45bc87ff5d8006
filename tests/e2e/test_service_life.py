"""The embedded service from start to stop: one owner of a data dir, children restarted, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

from cli.service_process import ServiceProcess
from tests.e2e.conftest import tsumugi, upload_text, wait_until


def children_of(service: ServiceProcess, word: str) -> list[psutil.Process]:
    found = []
    for process in service.family():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just died, and may not be waited for yet
            if any(word in part for part in process.cmdline()):
                found.append(process)
    return found


def ready(service: ServiceProcess) -> bool:
    answer = httpx.get(f"{service.url}/readyz", timeout=10)
    return answer.status_code == 200 and not answer.json()["degraded"]


def test_second_up_says_so_and_exits_2(service: ServiceProcess) -> None:
    second = tsumugi("up", "--data-dir", str(service.data_dir), "--port", "0")
    assert second.returncode == 2
    assert str(service.pid) in second.stderr
    assert ready(service)


def test_admin_key_is_private_and_needed(service: ServiceProcess) -> None:
    assert (service.data_dir / "admin.key").stat().st_mode & 0o777 == 0o600
    assert httpx.get(f"{service.url}/v1/documents").status_code == 401
    assert service.admin_key not in service.log_file.read_text("utf-8").replace(f"admin key {service.admin_key}", "", 1)


def test_a_taken_port_is_said_before_anything_starts(prepared_models: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = tsumugi("up", "--data-dir", str(tmp_path), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "cannot listen" in done.stderr
    assert not (tmp_path / "tsumugi.sqlite3").exists()


def test_children_are_restarted_and_sigterm_leaves_nothing(make_service: Callable[..., ServiceProcess]) -> None:
    service = make_service("life")
    service.start()
    (redis,) = children_of(service, "redis-server")
    (trainer,) = children_of(service, "workers.tuning_worker")
    for child in (redis, trainer):
        child.kill()
    wait_until(lambda: len(children_of(service, "redis-server")) == 1, 15, "a new redis")
    wait_until(lambda: len(children_of(service, "workers.tuning_worker")) == 1, 15, "a new tuning worker")
    wait_until(lambda: ready(service), 30, "ready again")
    with service.client() as client:
        item = upload_text(client, "The night watch is kept by Petra Lindqvist.", "watch.txt")
        assert client.follow_job(item["job"]["id"], timeout_s=60)["status"] == "succeeded"

        # A request that runs when SIGTERM comes is answered to its end.
        with ThreadPoolExecutor(1) as pool:
            stream = client.stream("POST", "/v1/ask", json={"question": "Who keeps the night watch?", "stream": True})
            first = next(stream)
            family = service.family()
            os.kill(service.pid, signal.SIGTERM)
            events = pool.submit(lambda: [first, *stream]).result(timeout=60)
    assert events[-1][0] == "done"
    assert service.stop() == 0
    assert service.left_behind(family) == []


def test_kill_9_leaves_no_process(make_service: Callable[..., ServiceProcess]) -> None:
    service = make_service("killed")
    service.start()
    family = service.family()
    assert len(family) >= 3
    service.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    service.start()  # and its data dir is free again
    assert service.stop() == 0
