"""Archives that attack: each is refused with a code, and nothing is written outside the work folder."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile

import pytest

from core.errors import AdapterRefused, TooLarge, UnsupportedFormat
from generation.adapters import archive
from generation.adapters.archive import unpack

GOOD = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


def tar(members: dict[str, bytes], *, extra=(), mode="w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
        for entry in extra:
            file.addfile(entry)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], *, modes=()) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = dict(modes).get(name, 0) << 16
            file.writestr(info, data)
    return buffer.getvalue()


def link(kind: bytes, name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


@pytest.mark.parametrize("data", [tar(GOOD), tar(GOOD, mode="w:gz"), zipped(GOOD)])
def test_good_archives_give_exactly_the_files_of_an_adapter(data, tmp_path):
    unpack(data, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == GOOD


def test_readmes_are_left_and_one_folder_level_is_taken(tmp_path):
    inside = {f"my-adapter/{name}": data for name, data in GOOD.items()}
    unpack(zipped({**inside, "my-adapter/README.md": b"x", "__MACOSX/._adapter_config.json": b"x"}), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(GOOD)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (tar({**GOOD, "../../escape": b"x"}), "adapter_unsafe_file"),
        (tar({**GOOD, "/etc/cron.d/x": b"x"}), "adapter_unsafe_file"),
        (zipped({**GOOD, "..\\..\\escape": b"x"}), "adapter_unsafe_file"),
        (zipped({**GOOD, "C:\\x": b"x"}), "adapter_unsafe_file"),
        (tar(GOOD, extra=[link(tarfile.SYMTYPE, "adapter_model.safetensors", "/etc/passwd")]), "adapter_unsafe_file"),
        (tar(GOOD, extra=[link(tarfile.LNKTYPE, "x", "/etc/passwd")]), "adapter_unsafe_file"),
        (tar(GOOD, extra=[link(tarfile.FIFOTYPE, "x", "")]), "adapter_unsafe_file"),
        (zipped(GOOD, modes=[("adapter_config.json", stat.S_IFLNK | 0o777)]), "adapter_unsafe_file"),
        (tar({**GOOD, "pytorch_model.bin": b"\x80\x04."}), "adapter_unsafe_file"),
        (tar({**GOOD, "deep/below/optimizer.PT": b"\x80\x04."}), "adapter_unsafe_file"),
        (tar({**GOOD, "b/adapter_config.json": b"{}"}), "adapter_bad_config"),
        (tar({"a/adapter_config.json": b"{}", "b/adapter_model.safetensors": b"x"}), "adapter_bad_config"),
        (tar({"adapter_config.json": b"{}"}), "adapter_bad_config"),
        (tar(GOOD)[:700], "unsupported_archive"),
        (zipped(GOOD)[:-30], "unsupported_archive"),
        (b"PK\x03\x04 nonsense", "unsupported_archive"),
        (b"\x00" * 4096, "adapter_bad_config"),
        (b"", "unsupported_archive"),
    ],
)
def test_bad_archives_are_refused_by_code(data, code, tmp_path):
    inside = tmp_path / "work"
    inside.mkdir()
    with pytest.raises((AdapterRefused, UnsupportedFormat)) as refused:
        unpack(data, inside)
    assert refused.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    assert {path.name for path in inside.iterdir()} <= set(GOOD)


def test_bombs_are_stopped_by_what_they_declare(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 100_000)
    zeros = {**GOOD, "adapter_model.safetensors": b"\0" * 200_000}
    for data in (zipped(zeros), tar(zeros, mode="w:gz"), tar({f"f{n}": b"" for n in range(300)})):
        assert len(data) < 400_000
        with pytest.raises(TooLarge):
            unpack(data, tmp_path)
    with pytest.raises(TooLarge):
        unpack(zipped({**GOOD, "adapter_config.json": b" " * (archive.MAX_TEXT_BYTES + 1)}), tmp_path)
