"""The embedded service on a really small disk: filled by uploads, then by somebody else, then with room again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli.service_process import ServiceProcess
from tests.e2e.conftest import tsumugi, upload_text, wait_until
from tests.small_disk import fill, small_disk

MIB = 2**20
RESERVE = 128 * MIB


@pytest.fixture
def cramped(prepared_models: Path, tmp_path: Path) -> Iterator[ServiceProcess]:
    with small_disk(tmp_path / "disk", 400 * MIB) as disk:
        data_dir = disk / "data"
        data_dir.mkdir()
        (data_dir / "models").symlink_to(prepared_models)
        service = ServiceProcess(data_dir, settings={"TSUMUGI_STORAGE__RESERVE_BYTES": str(RESERVE)})
        try:
            service.start()
            yield service
        finally:
            service.stop()


def send(service: ServiceProcess, method: str, path: str, **more: object) -> httpx.Response:
    headers = {"Authorization": f"Bearer {service.admin_key}"}
    return httpx.request(method, service.url + path, headers=headers, timeout=60, **more)  # type: ignore[arg-type]


def ask(service: ServiceProcess) -> str:
    answer = send(service, "POST", "/v1/ask", json={"question": "When was the mill at Arden built?"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["answer"])


def test_uploads_stop_before_the_disk_is_full_and_go_on_when_there_is_room(cramped: ServiceProcess) -> None:
    disk, pid = cramped.data_dir.parent, cramped.pid
    first = upload_text(cramped.client(), "The mill at Arden was built in 1702.", "mill.txt")
    job = f"/v1/jobs/{first['job']['id']}"
    wait_until(lambda: send(cramped, "GET", job).json()["status"] == "succeeded", 60, "the document")
    assert "1702" in ask(cramped)

    # As full as uploads make it: what was accepted is still read, what comes is refused, what goes makes room.
    fill(disk / "other", but_bytes=RESERVE + 2 * MIB)
    late = upload_text(cramped.client(), "The bridge at Arden was built in 1711.", "bridge.txt")
    fill(disk / "other", but_bytes=RESERVE - 2 * MIB)
    refused = send(cramped, "POST", "/v1/documents", files={"file": ("c.txt", b"more")})
    assert (refused.status_code, refused.json()["code"]) == (507, "storage_full")
    ready = send(cramped, "GET", "/readyz")
    assert (ready.status_code, ready.json()["degraded"]) == (200, ["disk"])
    job = f"/v1/jobs/{late['job']['id']}"
    wait_until(lambda: send(cramped, "GET", job).json()["status"] == "succeeded", 60, "the accepted document")
    gone = f"/v1/documents/{late['document']['id']}"
    assert send(cramped, "DELETE", gone).status_code == 202
    wait_until(lambda: send(cramped, "GET", gone).status_code == 404, 60, "the deletion")

    # Filled to its last byte by something else: nobody can prevent that, and nothing dies of it.
    fill(disk / "other")
    began = time.monotonic()
    while time.monotonic() - began < 8:
        assert "1702" in ask(cramped)
        assert send(cramped, "POST", "/v1/search", json={"query": "mill"}).json()["items"]
        refused = send(cramped, "POST", "/v1/documents", files={"file": ("c.txt", b"more")})
        assert (refused.status_code, refused.json()["code"]) == (507, "storage_full")
        assert send(cramped, "GET", "/readyz").json()["degraded"][0] == "disk"

    (disk / "other").unlink()
    wait_until(lambda: send(cramped, "GET", "/readyz").json()["degraded"] == [], 60, "all is well")
    again = upload_text(cramped.client(), "The weir at Arden was built in 1723.", "weir.txt")
    job = f"/v1/jobs/{again['job']['id']}"
    wait_until(lambda: send(cramped, "GET", job).json()["status"] == "succeeded", 60, "a document after it")
    assert cramped.pid == pid
    failed = send(cramped, "GET", "/v1/jobs?status=failed").json()["items"]
    assert failed == [], "no document was blamed"

    # A start without any room is one line, and no traceback.
    cramped.kill()
    fill(disk / "other")
    done = tsumugi("up", "--data-dir", str(cramped.data_dir), "--port", "0")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "(storage_full)" in done.stderr.strip().splitlines()[-1]
