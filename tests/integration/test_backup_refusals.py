"""What is no whole backup of ours is refused with a code, and so is a target that holds something; nothing changes."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.backup.card import CARD
from cli.backup.take import from_index, take_backup
from cli.doctor import examine
from core.blobs import FolderBlobStore
from core.errors import Conflict, InvalidInput, TsumugiError, Unavailable
from core.s3 import open_s3_client
from core.settings import Settings
from tests.backed_up import QUESTIONS, Source, copy_of, nothing, refused, restore, rewrite, running


@pytest.mark.parametrize("topology", ["embedded", "server"])
def test_damaged_and_forged_backups_are_refused_and_change_nothing(
    sources: dict[str, Source], make_settings: Callable[[str], Settings], tmp_path: Path, topology: str
) -> None:
    settings = make_settings(topology)

    def case(code: str, change: Callable[[Path], None]) -> None:
        folder = copy_of(sources, tmp_path)
        change(folder)
        refused(settings, str(folder), code)
        shutil.rmtree(folder)

    def card(**values: Any) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            found = json.loads((folder / CARD).read_text())
            (folder / CARD).write_text(json.dumps({**found, **values}))

        return change

    def cut(name: str) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            path = next(folder.glob(name))
            path.write_bytes(path.read_bytes()[:-1])

        return change

    def link(folder: Path) -> None:
        (folder / "admin.key").unlink()
        (folder / "admin.key").symlink_to("/etc/hostname")

    def column(folder: Path) -> None:
        found = json.loads((folder / CARD).read_text())
        found["tables"]["api_keys"]["columns"][0] = 'id" FROM x; DROP TABLE documents; --'
        (folder / CARD).write_text(json.dumps(found))

    def row(folder: Path) -> None:
        rewrite(folder, "tables/documents.jsonl", lambda data: data.replace(b'"ready"', b"{}", 1))

    def orphan(folder: Path) -> None:
        rewrite(folder, "tables/tenants.jsonl", lambda data: data.replace(b"ten_", b"tex_"))

    tables = json.loads((Path(sources["embedded"].still_backup) / CARD).read_text())["tables"]
    case("backup_damaged", cut("blobs/*/*"))
    case("backup_rows_refused", row)
    case("backup_rows_refused", orphan)
    if topology == "server":
        return  # the others are found before the target is looked at
    case("backup_damaged", cut("tables/chunks.jsonl"))
    case("backup_damaged", lambda folder: (folder / "blobs.txt").unlink())
    case("backup_damaged", link)
    case("backup_unreadable", lambda folder: (folder / CARD).unlink())
    case("backup_unreadable", card(files={"../../etc/passwd": {"sha256": "0" * 64, "bytes": 1}}))
    case("backup_unreadable", card(owner="somebody"))
    case("backup_schema_unknown", card(tables={k: v for k, v in tables.items() if k != "feedback"}))
    case("backup_schema_unknown", column)


def test_archives_with_what_no_backup_holds_are_refused(
    sources: dict[str, Source], make_settings: Callable[[str], Settings], tmp_path: Path
) -> None:
    settings = make_settings("embedded")
    for number, (name, kind) in enumerate(
        [("../up", tarfile.REGTYPE), ("blobs/ab/" + "c" * 62, tarfile.SYMTYPE), ("tables/x.jsonl/y", tarfile.REGTYPE)]
    ):
        archive = tmp_path / f"{number}.tar"
        with tarfile.open(archive, "w") as tar:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/hostname"
            tar.addfile(entry)
        refused(settings, str(archive), "backup_unreadable")
    still = Path(sources["server"].still_backup)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(still.read_bytes()[: still.stat().st_size // 2])
    refused(settings, str(cut), "backup_unreadable")
    refused(settings, str(tmp_path / "absent.tar"), "backup_unreadable")


def test_a_system_that_holds_something_is_left_alone(sources: dict[str, Source]) -> None:
    for source in sources.values():
        before = [(path, path.stat().st_mtime_ns) for path in sorted(source.settings.data_dir.rglob("*"))]
        with pytest.raises(Conflict) as caught:
            restore(source.settings, sources["embedded"].still_backup)
        assert caught.value.code == "target_not_empty"
        assert [(path, path.stat().st_mtime_ns) for path in sorted(source.settings.data_dir.rglob("*"))] == before


def test_a_place_that_holds_something_is_left_alone_and_no_half_is_left(
    sources: dict[str, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources["embedded"]
    for place in (source.still_backup, sources["server"].busy_backup):
        with pytest.raises(InvalidInput) as caught:
            take_backup(source.settings, place, vectors=None, say=nothing)
        assert caught.value.code == "backup_exists"

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cli.backup.take.dump_vectors", full)
    bucket = sources["server"].busy_backup.removesuffix("monday")
    for place in (str(tmp_path / "a.tar"), str(tmp_path / "folder"), f"{bucket}tuesday"):
        with pytest.raises((OSError, TsumugiError)):
            take_backup(source.settings, place, vectors=from_index(source.settings), say=nothing)
    assert list(tmp_path.iterdir()) == []
    client = open_s3_client(source.settings.s3, "the test")
    name = bucket.removeprefix("s3://").rstrip("/")
    assert client.list_objects_v2(Bucket=name, Prefix="tuesday")["KeyCount"] == 0
    client.close()


def test_an_index_that_fails_costs_nothing_but_a_repair(
    sources: dict[str, Source], make_settings: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> int:
        raise Unavailable("the index went away", code="index_unreachable")

    settings = make_settings("embedded")
    monkeypatch.setattr("cli.backup.bring.load_vectors", away)
    with pytest.raises(Unavailable, match="doctor --repair"):
        restore(settings, sources["embedded"].still_backup)
    found, mended = examine(settings, repair=True)
    assert [finding.check for finding in found] == ["index"] and mended == found
    with running(settings) as system:
        assert {question: system.passages(question) for question in QUESTIONS} == sources["embedded"].at_rest


def test_a_blob_that_goes_while_it_is_copied_costs_a_second_look_and_one_gone_before_is_told(
    sources: dict[str, Source],
    make_settings: Callable[[str], Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = make_settings("embedded")
    restore(settings, sources["embedded"].still_backup)
    lines: list[str] = []
    with running(settings) as system:
        system.put("rule.txt", "The old rule holds.", external_id="rule")
        system.work()
        old = hashlib.sha256(b"The old rule holds.").hexdigest()
        copy = FolderBlobStore.copy_to

        def overtaken(blobs: FolderBlobStore, digest: str, path: Path) -> int:
            if digest == old and blobs.exists(old):
                system.put("rule.txt", "The new rule holds.", external_id="rule")
                system.work()
                assert not blobs.exists(old)
            return copy(blobs, digest, path)

        monkeypatch.setattr(FolderBlobStore, "copy_to", overtaken)
        card = take_backup(settings, str(tmp_path / "kept"), vectors=None, say=lines.append)
    assert card.missing == [] and [line for line in lines if "looking again" in line]
    assert hashlib.sha256(b"The new rule holds.").hexdigest() in (tmp_path / "kept" / "blobs.txt").read_text()
    blobs = FolderBlobStore(settings.blobs_dir)
    digest, size = next(blobs.list())
    blobs.path_of(digest).write_bytes(b"x" * size)
    card = take_backup(settings, str(tmp_path / "a.tar"), vectors=None, say=nothing)
    assert card.missing == [digest]
    assert card.blob_count == len(list(blobs.list())) - 1
