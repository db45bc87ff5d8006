"""A disk that is full, or fails: uploads are refused by their code, what needs no room goes on, and room mends all."""

from __future__ import annotations

import errno
import io
import json
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from core.blobs import FolderBlobStore
from core.database import Database, WriteSession
from core.settings import Settings
from core.tables import Answer, Document
from generation.adapters.manifest import CONFIG_FILE, WEIGHTS_FILE
from ingest.zygote import DISK_FULL_STATUS
from tests.api_app import Api, build_api, shared_sandbox

ROW = json.dumps({"instruction": "How many days?", "output": "25."}).encode()


class Usage(NamedTuple):
    total: int
    used: int
    free: int


class Disk:
    """What `shutil.disk_usage` says, in place of the real one."""

    def __init__(self, reserve: int) -> None:
        self.reserve = reserve
        self.free = reserve * 10

    def usage(self, _path: object) -> Usage:
        return Usage(self.reserve * 20, self.reserve * 20 - self.free, self.free)


@pytest.fixture
def disk(api: Api, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(api.services.settings.storage.reserve_bytes)
    monkeypatch.setattr(shutil, "disk_usage", disk.usage)
    return disk


def upload(admin: TestClient, text: str = "Leave is 25 days.") -> Any:
    return admin.post("/v1/documents", files={"file": ("a.txt", text.encode())})


def uploads(admin: TestClient) -> list[Callable[[], Any]]:
    """Every way in which bytes come to stay."""
    whole = {"file": ("a.txt", b"Leave is 25 days.")}
    return [
        lambda: admin.post("/v1/documents", files=whole),
        lambda: admin.post("/v1/documents", json={"text": "Leave is 25 days.", "filename": "b.txt"}),
        lambda: admin.post("/v1/documents", content=iter([b"no length is announced"])),
        lambda: admin.post("/v1/datasets?name=n", content=ROW, headers={"content-type": "application/jsonl"}),
        lambda: admin.post("/v1/admin/adapters/house/versions", files={"file": ("a.tar", io.BytesIO(b"x" * 999))}),
    ]


def assert_full(answer: Any) -> None:
    body = answer.json()
    assert (answer.status_code, body["code"], body["retryable"]) == (507, "storage_full", True), answer.text
    assert int(answer.headers["retry-after"]) >= 30


def test_below_the_reserve_uploads_are_refused_and_the_rest_goes_on(api: Api, admin: TestClient, disk: Disk) -> None:
    taken = upload(admin).json()["items"][0]["document"]
    disk.free = disk.reserve - 1
    for send in uploads(admin):
        assert_full(send())
    assert admin.post("/v1/search", json={"query": "leave"}).status_code == 200
    assert admin.post("/v1/ask", json={"question": "How many days?"}).status_code == 200
    assert admin.get(f"/v1/documents/{taken['id']}").status_code == 200
    assert admin.delete(f"/v1/documents/{taken['id']}").status_code == 202
    made = admin.post("/v1/admin/keys", json={"name": "n", "scopes": ["query"]})
    assert made.status_code == 201, "rows of the operator still fit"


def test_an_upload_that_would_take_the_reserve_is_refused_and_a_small_one_taken(admin: TestClient, disk: Disk) -> None:
    disk.free = disk.reserve + 10_000
    assert_full(upload(admin, "x" * 20_000))
    assert upload(admin).status_code == 202


def test_what_an_archive_unpacks_to_counts(api: Api, admin: TestClient, disk: Disk) -> None:
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(40):
            archive.writestr(f"{number}.txt", f"{number} word " * 3_000)
    disk.free = disk.reserve + 2 * len(packed.getvalue())
    assert_full(admin.post("/v1/documents", files={"file": ("a.zip", packed.getvalue())}))
    assert list(api.services.blobs.list()) == []


def test_readiness_says_so_and_takes_it_back(admin: TestClient, disk: Disk) -> None:
    assert admin.get("/readyz").json()["degraded"] == []
    disk.free = disk.reserve - 1
    answer = admin.get("/readyz")
    assert (answer.status_code, answer.json()["status"], answer.json()["degraded"]) == (200, "ready", ["disk"])
    assert answer.json()["checks"]["disk"]["state"] == "failing"
    disk.free = disk.reserve + 2**20
    answer = admin.get("/readyz").json()
    assert (answer["degraded"], answer["checks"]["disk"]["detail"]) == ([], {"free_bytes": disk.free})
    assert upload(admin).status_code == 202


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/secret/blob"), 507, "storage_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/secret/blob"), 507, "storage_full"),
        (OSError(errno.EROFS, "Read-only file system", "/secret/blob"), 503, "storage_failed"),
        (OSError(errno.EIO, "Input/output error", "/secret/blob"), 503, "storage_failed"),
        (PermissionError(errno.EACCES, "Permission denied", "/secret/blob"), 503, "storage_failed"),
        (OSError(errno.EMFILE, "Too many open files", "/secret/blob"), 503, "system_exhausted"),
        (MemoryError(), 503, "system_exhausted"),
        (OSError(errno.ENOTDIR, "Not a directory", "/secret/blob"), 500, "internal"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_fault_of_the_machine_is_told_apart_from_a_bug(
    api: Api,
    admin: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    code: str,
) -> None:
    def fail(*_: object) -> str:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(FolderBlobStore, "put", fail)
        answer = upload(admin)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "secret" not in answer.text, "no path of the machine is told"
    with api.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Document)) == 0
    assert upload(admin).status_code == 202, "nothing has to be restarted"


def test_an_archive_is_not_blamed_for_the_disk_it_is_unpacked_to(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    base: Any = object()  # what it would be compared with once it is unpacked
    admin = build_api(settings, database, base).client()
    import tarfile

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            entry = tarfile.TarInfo(name)
            entry.size = 2
            archive.addfile(entry, io.BytesIO(b"{}"))

    ended = {"status": DISK_FULL_STATUS, "timed_out": False, "cpu_s": 0.0, "max_rss_bytes": 0}
    monkeypatch.setattr(shared_sandbox(), "_run", lambda *_: ended)
    assert_full(admin.post("/v1/admin/adapters/house/versions", files={"file": ("a.tar", packed.getvalue())}))


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ("database or disk is full", 507, "storage_full"),
        ("attempt to write a readonly database", 503, "storage_failed"),
        ("disk I/O error", 503, "storage_failed"),
    ],
)
def test_answers_outlive_a_database_that_takes_nothing(
    api: Api, admin: TestClient, monkeypatch: pytest.MonkeyPatch, said: str, status: int, code: str
) -> None:
    def fail(self: WriteSession) -> None:
        raise OperationalError("COMMIT", {}, Exception(said))

    admin.post("/v1/search", json={"query": "days"})  # with a key whose use is recorded by now
    with monkeypatch.context() as broken:
        broken.setattr(WriteSession, "commit", fail)
        asked = admin.post("/v1/ask", json={"question": "How many days?"})
        assert asked.status_code == 200 and asked.json()["answer"]
        with admin.stream("POST", "/v1/ask", json={"question": "How many days?", "stream": True}) as stream:
            assert "event: done" in "\n".join(stream.iter_lines())
        assert admin.post("/v1/search", json={"query": "days"}).status_code == 200
        refused = upload(admin)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert "COMMIT" not in refused.text
    with api.database.read() as session:
        assert session.get(Answer, asked.json()["id"]) is None
    again = admin.post("/v1/ask", json={"question": "How many days?"}).json()
    with api.database.read() as session:
        assert session.get(Answer, again["id"]) is not None


def test_a_lost_database_is_no_full_disk(api: Api, admin: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: WriteSession) -> None:
        raise OperationalError("COMMIT", {}, Exception("server closed the connection"))

    monkeypatch.setattr(WriteSession, "commit", fail)
    asked = admin.post("/v1/ask", json={"question": "How many days?"})
    assert (asked.status_code, asked.json()["code"]) == (503, "unavailable")
