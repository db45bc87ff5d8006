"""Archives that announce too much: refused by their headers, one by one and over a whole request."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from core.archives import ArchiveTooLarge, open_zip
from core.errors import ExtractionFailed, TooLarge, TsumugiError
from generation.adapters.archive import unpack
from ingest.batch import Budget, unpacked
from ingest.extract.archive import ALL, refuse_archive, unpack_wanted
from ingest.extract.container import open_container
from ingest.extract.detect import is_batch_archive
from ingest.upload import Upload

MOST_HELD = 64 * 2**20


def many_entries(count: int) -> bytes:
    """A ZIP whose directory has `count` entries of one empty file."""
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * count
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 9, 9, len(directory), len(local), 0)
    return local + directory + end


def long_name(size: int, kind: bytes) -> bytes:
    """A gzipped TAR whose first header announces a name or attributes of `size` bytes, and has them."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, size
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as stream:
        stream.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(size // 2**20):
            stream.write(b"a" * 2**20)
        inner = tarfile.TarInfo("adapter_config.json")
        stream.write(inner.tobuf() + bytes(1024))
    return packed.getvalue()


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_long_header_is_refused_by_its_size(tmp_path: Path, kind: bytes) -> None:
    data = long_name(100 * 2**20, kind)
    tracemalloc.start()
    try:
        with pytest.raises(TsumugiError) as refused:
            unpack(data, tmp_path)
        assert refused.value.code == "unsupported_archive"
        with pytest.raises(ExtractionFailed):
            refuse_archive(data)
        assert tracemalloc.get_traced_memory()[1] < MOST_HELD / 8
    finally:
        tracemalloc.stop()


def test_a_directory_without_end_is_refused_before_it_is_read(tmp_path: Path) -> None:
    data = many_entries(600_000)
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveTooLarge):
            open_zip(io.BytesIO(data))
        assert is_batch_archive(data, "a.zip")
        assert unpacked(Upload("a.zip", data), tmp_path, unpack_wanted, max_bytes=2**30) == [Upload("a.zip", data)]
        with pytest.raises(ExtractionFailed) as refused:
            refuse_archive(data)
        assert refused.value.code == "zip_bomb"
        with pytest.raises(ExtractionFailed) as refused, open_container(data, "DOCX"):
            pass
        assert refused.value.code == "zip_bomb"
        with pytest.raises(TooLarge):
            unpack(data, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < len(data) + MOST_HELD
    finally:
        tracemalloc.stop()


def zipped(files: int, size: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(files):
            archive.writestr(f"{number}.txt", bytes(size))
    return packed.getvalue()


def test_many_small_parts_are_one_bomb() -> None:
    with pytest.raises(ExtractionFailed) as refused:
        refuse_archive(zipped(100, 2**20))  # each of a size that is free of the ratio
    assert refused.value.code == "zip_bomb"


def test_the_archives_of_a_request_share_one_budget(tmp_path: Path) -> None:
    data = zipped(60, 2**20)
    budget = Budget(150 * 2**20)
    for name in "abc":
        (tmp_path / name).mkdir()
    assert len(unpacked(Upload("a.zip", data), tmp_path / "a", unpack_wanted, max_bytes=2**30, budget=budget)) == 60
    assert len(unpacked(Upload("b.zip", data), tmp_path / "b", unpack_wanted, max_bytes=2**30, budget=budget)) == 60
    with pytest.raises(TooLarge):
        unpacked(Upload("c.zip", data), tmp_path / "c", unpack_wanted, max_bytes=2**30, budget=budget)


def test_what_people_pack_is_taken(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name in ("規程/" + "長い名前" * 40 + ".txt", "b.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))
    members = unpack_wanted(packed.getvalue(), tmp_path, ALL)
    assert [member.path and member.path.read_bytes() for member in members] == [b"abc", b"abc"]
