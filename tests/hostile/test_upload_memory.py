"""Uploads and what archives unpack to wait on disk: the API's process holds a block of each, whatever their size."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from core.access import Principal
from core.contents import FileOnDisk, keep, work_folder
from core.database import Database
from core.settings import Settings
from core.tables import DocumentGeneration
from ingest.upload import Upload
from tests.api_app import Api, build_api, serve

MIB = 2**20
MOST_HELD = 24 * MIB
MEMBER = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(MIB // 32))
"""A MiB that does not compress."""


@pytest.fixture
def api(settings: Settings, database: Database) -> Api:
    return build_api(settings, database)


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
