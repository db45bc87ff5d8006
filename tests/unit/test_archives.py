"""TAR batches, as ZIP ones: names that cannot escape, links refused, bombs stopped while they are unpacked."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from core.errors import ExtractionFailed
from ingest.batch import unpacked
from ingest.extract import extract_document
from ingest.extract.archive import ALL, refuse_archive, unpack_wanted
from ingest.upload import Upload


def tarred(files: dict[str, bytes], *, mode: str = "w:gz", encoding: str = "utf-8") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode, encoding=encoding, format=tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return target.getvalue()


def with_member(kind: bytes, name: str = "規程.txt") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/passwd"
        archive.addfile(entry)
    return target.getvalue()


def code_of(data: bytes) -> str:
    with pytest.raises(ExtractionFailed) as caught:
        refuse_archive(data)
    return caught.value.code


@pytest.mark.parametrize(("mode", "name"), [("w:gz", "束.tar.gz"), ("w", "束.tar"), ("w:gz", "束.tgz")])
def test_a_tar_is_its_files_under_names_that_cannot_escape(mode: str, name: str, tmp_path: Path) -> None:
    data = tarred({"../../etc/規程.txt": b"1", "/abs/b.md": b"# 2", "a/.hidden": b"x", "empty.txt": b""}, mode=mode)
    parts = unpacked(Upload(name, data, groups=["hr"]), tmp_path, unpack_wanted, max_bytes=10**6)
    assert [(part.filename, part.external_id) for part in parts] == [
        ("規程.txt", f"{name}!/etc/規程.txt"),
        ("b.md", f"{name}!/abs/b.md"),
    ]
    assert all(part.groups == ("hr",) for part in parts)


def test_tar_names_of_japanese_windows(tmp_path: Path) -> None:
    data = tarred({"見積書.txt": "中身".encode()}, encoding="cp932")
    assert unpack_wanted(data, tmp_path, ALL)[0].name == "見積書.txt"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind: bytes) -> None:
    assert code_of(with_member(kind)) == "unsafe_archive"


def test_a_link_in_a_zip_is_refused_as_well() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        link = zipfile.ZipInfo("規程.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert code_of(target.getvalue()) == "unsafe_archive"


def test_bombs_and_broken_tars_end_with_a_code() -> None:
    zeros = tarred({"zeros.txt": b"\0" * 2**25})
    assert code_of(zeros) == "zip_bomb"
    assert code_of(tarred({f"{n}.txt": b"x" for n in range(2001)})) == "zip_bomb"
    assert code_of(tarred({"a.txt": b"x" * 5000}, mode="w")[:3000]) == "broken_archive"
    assert code_of(tarred({"a.txt": b"x" * 5000})[:60]) == "broken_archive"
    assert code_of(tarred({"a.txt": b""})) == "empty_archive"


def test_a_header_with_a_negative_size_does_not_read_for_ever() -> None:
    data = bytearray(tarred({"a.txt": b"x"}, mode="w"))
    data[124:136] = b"\xff" * 11 + b"\x00"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert code_of(bytes(data)) == "broken_archive"


def test_a_tar_in_a_zip_and_a_gzip_of_something_else_fail_with_a_code(tmp_path: Path) -> None:
    with pytest.raises(ExtractionFailed) as caught:
        extract_document(tarred({"a.txt": b"x"}), "a.tar.gz", max_chars=1000)
    assert caught.value.code == "nested_archive"
    upload = Upload("notes.txt.gz", gzip.compress(b"text"))
    assert unpacked(upload, tmp_path, unpack_wanted, max_bytes=10**6) == [upload]
