"""The data dir: for its owner alone, and its service believed only while it lives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.client import connect
from cli.data_dir import ServiceNote, exclusive, read_service_note, running_service, write_service_note
from cli.output import CommandFailed

HOLD = """
import sys
from pathlib import Path
from cli.data_dir import exclusive, write_service_note
with exclusive(Path(sys.argv[1]), "test"):
    write_service_note(Path(sys.argv[1]), "http://127.0.0.1:1")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    mask = os.umask(0)
    yield
    os.umask(mask)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("there", [True, False])
def test_everything_is_for_the_owner_alone(tmp_path: Path, there: bool) -> None:
    data_dir = tmp_path / "data"
    if there:
        data_dir.mkdir(mode=0o777)
    with exclusive(data_dir, "test"):
        (data_dir / "blobs").mkdir()
        (data_dir / "blobs" / "a").write_text("secret")
        write_service_note(data_dir, "http://127.0.0.1:1")
    assert mode(data_dir) == mode(data_dir / "blobs") == 0o700
    files = [path for path in data_dir.rglob("*") if path.is_file()]
    assert len(files) == 3 and {mode(path) for path in files} == {0o600}
    (tmp_path / "after").write_text("")
    assert mode(tmp_path / "after") == 0o666, "the umask is the caller's again"


def test_a_service_is_found_only_while_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSUMUGI_URL", raising=False)
    (tmp_path / "admin.key").write_text("tsu_key")
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None and service.stdout.readline() == b"held\n"
        found = running_service(tmp_path)
        assert found is not None and found.pid == service.pid
        service.kill()
    assert isinstance(read_service_note(tmp_path), ServiceNote), "the note outlives a kill"
    assert running_service(tmp_path) is None
    with pytest.raises(CommandFailed) as refused:  # whoever listens there now is not sent the key
        connect(tmp_path)
    assert refused.value.exit_code == 3


def test_a_note_of_another_process_than_the_holder_is_not_believed(tmp_path: Path) -> None:
    with exclusive(tmp_path, "test"):
        (tmp_path / "service.json").write_text('{"url": "http://127.0.0.1:1", "pid": 1, "started_at": ""}')
        assert running_service(tmp_path) is None


def test_a_data_dir_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandFailed) as refused, exclusive(tmp_path / "file" / "data", "test"):
        pass
    assert "cannot be written" in refused.value.message
