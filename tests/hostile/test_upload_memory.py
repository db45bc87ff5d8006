"""Uploads and what archives unpack to wait on disk: the API's process holds a block of each, whatever their size."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient

from core.access import Principal
from core.contents import FileOnDisk, keep, work_folder
from core.database import Database
from core.settings import Settings
from core.tables import DocumentGeneration
from generation.adapters.archive import unpack
from ingest.upload import Upload
from tests.api_app import Api, build_api, serve
from tests.hostile.test_archive_guards import many_entries
from tests.locked_files import PASSWORD, locked_zip, word_file

MIB = 2**20
MOST_HELD = 24 * MIB
ADAPTER = {"a/adapter_config.json": b"{}", "a/adapter_model.safetensors": b"x", "a/README.md": b"r"}
MEMBER = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(MIB // 32))
"""A MiB that does not compress."""


@pytest.fixture
def api(settings: Settings, database: Database) -> Api:
    return build_api(settings, database)


@pytest.fixture
def admin(api: Api) -> TestClient:
    return api.client()


@contextmanager
def held_at_most(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak / MIB:.0f} MiB were held"


def on_disk(path: Path) -> FileOnDisk:
    with path.open("rb") as file:
        return FileOnDisk(path, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def zipped(path: Path, members: int, mib: int) -> FileOnDisk:
    """Text that compresses a hundred to one: a small file, and much of it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(members):
            with archive.open(f"{number}.txt", "w", force_zip64=True) as member:
                for line in range(mib * 16):
                    member.write(f"{path.stem} {number} {line} ".encode() + MEMBER[line * 600 : line * 600 + 600])
                    member.write(b"." * 64_000)
    return on_disk(path)


def tarred(path: Path, members: int, mib: int) -> FileOnDisk:
    with tarfile.open(path, "w") as archive:
        for number in range(members):
            entry = tarfile.TarInfo(f"{number}.bin")
            entry.size = mib * MIB
            archive.addfile(entry, io.BytesIO(MEMBER * mib))
    return on_disk(path)


def generations(api: Api) -> list[DocumentGeneration]:
    with api.database.read() as session:
        return list(session.query(DocumentGeneration).order_by(DocumentGeneration.byte_size))


def principal(api: Api) -> Principal:
    return api.services.authenticate(api.admin)


@pytest.mark.parametrize("make", [zipped, tarred], ids=["zip", "tar"])
def test_three_archives_of_one_request_are_never_whole_in_memory(
    api: Api, tmp_path: Path, make: Callable[[Path, int, int], FileOnDisk]
) -> None:
    members, mib = 3, 20
    uploads = [Upload(f"{name}.zip", make(tmp_path / f"{name}.zip", members, mib)) for name in "abc"]
    caller = principal(api)
    with held_at_most(MOST_HELD):
        accepted = api.services.ingest.accept(caller, uploads)
    assert len(accepted) == 9
    rows = generations(api)
    assert len(rows) == 9 and all(row.byte_size > 0.95 * mib * MIB for row in rows)
    for row in rows:
        assert hashlib.sha256(api.services.blobs.get(row.source_sha256)).hexdigest() == row.source_sha256
    assert list((api.services.settings.data_dir / "tmp" / "uploads").iterdir()) == []


def test_many_small_members_are_not_in_memory_together(api: Api, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "many.tar", "w") as archive:
        for number in range(100):
            entry = tarfile.TarInfo(f"{number}.bin")
            entry.size = MIB - 8
            archive.addfile(entry, io.BytesIO(b"%08d" % number + MEMBER[16:]))
    caller = principal(api)
    with held_at_most(MOST_HELD):
        accepted = api.services.ingest.accept(caller, [Upload("many.tar", on_disk(tmp_path / "many.tar"))])
    assert len(accepted) == 100


@pytest.fixture
def no_archive_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; the extractors have their own."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an archive is opened in the process of the API")

    for module, name in ((zipfile, "ZipFile"), (zipfile, "_EndRecData"), (tarfile, "open"), (gzip, "GzipFile")):
        monkeypatch.setattr(module, name, refuse)


def packed(kind: str, files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(target, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return target.getvalue()
    with tarfile.open(fileobj=target, mode=f"w:{kind}") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return target.getvalue()


TEXTS = {"規程/a.txt": b"text a", "b.txt": b"text b"}
UPLOADS = {
    "zip": (packed("zip", TEXTS), "a.zip", ["a.txt", "b.txt"]),
    "tar": (packed("", TEXTS), "a.tar", ["a.txt", "b.txt"]),
    "gzip": (packed("gz", TEXTS), "a.tgz", ["a.txt", "b.txt"]),
    "locked": (locked_zip(TEXTS), "a.zip", ["a.txt", "b.txt"]),
    "document": (word_file(), "a.docx", ["a.docx"]),
    "named as no archive": (word_file(), "a.zip", ["a.zip"]),
    "entries without end": (many_entries(600_000), "a.zip", ["a.zip"]),
}


@pytest.mark.parametrize("kind", UPLOADS)
def test_archives_are_opened_by_a_child_alone(
    api: Api, admin: TestClient, kind: str, no_archive_is_opened: None
) -> None:
    data, name, documents = UPLOADS[kind]
    answer = admin.post("/v1/documents", files={"file": (name, data)}, data={"password": PASSWORD})
    assert answer.status_code == 202, answer.text
    assert sorted(item["document"]["filename"] for item in answer.json()["items"]) == documents


ADAPTERS = [packed(kind, ADAPTER) for kind in ("zip", "", "gz")]


def test_an_adapter_is_unpacked_by_a_child_alone(api: Api, tmp_path: Path, no_archive_is_opened: None) -> None:
    take = api.services.ingest.unpack_for(principal(api))
    for data in ADAPTERS:
        folder = tmp_path / hashlib.sha256(data).hexdigest()
        folder.mkdir()
        assert unpack(data, folder, take) == ["a/README.md"]
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            name.removeprefix("a/"): content for name, content in ADAPTER.items() if not name.endswith("md")
        }


def test_a_large_file_passes_through_in_blocks(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        for number in range(150):
            file.write(b"%d" % number + MEMBER[8:])
    digest = on_disk(path).sha256
    with serve(api.app) as url, path.open("rb") as file:
        with held_at_most(MOST_HELD):
            answer = httpx.post(
                f"{url}/v1/documents",
                files={"file": ("large.txt", file)},
                headers={"Authorization": f"Bearer {api.admin}"},
                timeout=120,
            )
        assert answer.status_code == 202, answer.text
    assert [row.source_sha256 for row in generations(api)] == [digest]
    assert api.services.blobs.exists(digest)
    assert list((api.services.settings.data_dir / "tmp" / "uploads").iterdir()) == []


def test_many_files_of_a_form_are_not_in_memory_together(api: Api, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(60)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%08d" % number + MEMBER[8:])
    with serve(api.app) as url, ExitStack() as stack:
        files = [("file", (path.name, stack.enter_context(path.open("rb")))) for path in paths]
        with held_at_most(MOST_HELD):
            answer = httpx.post(
                f"{url}/v1/documents", files=files, headers={"Authorization": f"Bearer {api.admin}"}, timeout=300
            )
    assert answer.status_code == 202, answer.text
    assert len(generations(api)) == 60


def test_an_adapter_as_a_body_waits_on_disk_too(api: Api, tmp_path: Path) -> None:
    archive = tarred(tmp_path / "adapter.tar", 1, 100)
    with serve(api.app) as url, archive.path.open("rb") as file, held_at_most(MOST_HELD):
        answer = httpx.post(
            f"{url}/v1/admin/adapters/house/versions",
            content=iter(lambda: file.read(MIB), b""),
            headers={"Authorization": f"Bearer {api.admin}", "content-type": "application/x-tar"},
            timeout=120,
        )
    assert answer.status_code in {422, 503}, answer.text
    assert list((api.services.settings.data_dir / "tmp" / "uploads").iterdir()) == []


@pytest.mark.parametrize("form", ["lines", "array"])
def test_a_training_set_is_read_a_row_at_a_time(api: Api, tmp_path: Path, form: str) -> None:
    path, rows = tmp_path / "set.jsonl", 3_000
    with path.open("w") as file:
        file.write("[" if form == "array" else "")
        for number in range(rows):
            row = {"instruction": f"Question {number}?", "output": f"Answer {number}. " + "Words. " * 4_000}
            file.write(("," if form == "array" else "\n") * bool(number) + json.dumps(row))
        file.write("]" if form == "array" else "\n")
    assert path.stat().st_size > 80 * MIB
    with serve(api.app) as url, path.open("rb") as file, held_at_most(MOST_HELD):
        answer = httpx.post(
            f"{url}/v1/datasets",
            files={"file": (path.name, file)},
            headers={"Authorization": f"Bearer {api.admin}"},
            timeout=300,
        )
    assert answer.status_code == 201, answer.text
    assert (answer.json()["row_count"], answer.json()["report"]["invalid"]) == (rows, [])
    assert api.services.blobs.exists(on_disk(path).sha256)
    assert list((api.services.settings.data_dir / "tmp" / "uploads").iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_upload(settings: Settings) -> None:
    with work_folder(settings) as folder:
        parent = folder.parent
        keep(io.BytesIO(b"x"), folder / "0")
        dead, successor, sibling = (parent / name for name in ("4194303-a", f"{os.getpid()}-b", f"{os.getppid()}-c"))
        for path in (dead, successor, sibling):
            path.mkdir()
        before = psutil.Process().create_time() - 60
        os.utime(successor, (before, before))  # of a process that had the number of this one
        with work_folder(settings) as other:
            assert {path.name for path in parent.iterdir()} == {folder.name, sibling.name, other.name}
        assert (folder / "0").read_bytes() == b"x"
    assert [path.name for path in parent.iterdir()] == [sibling.name]
