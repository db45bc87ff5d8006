"""`tsumugi doctor` on what is broken beneath it: pages of the database, folders, the index. Findings, no tracebacks."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.checkup.service import check_folders
from cli.doctor import examine
from core.database import Database
from core.keys import ensure_bootstrap
from core.settings import Settings, load_settings
from tests.small_disk import small_disk

ROOT = Path(__file__).parents[2]
PAGE = 4096


@pytest.fixture
def data_dir(tmp_path: Path, migrated_sqlite: Path) -> Path:
    """A data dir with enough rows that their pages lie in the middle of the file."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copyfile(migrated_sqlite, folder / "tsumugi.sqlite3")
    settings = load_settings(data_dir=folder)
    database = Database(settings.database_url)
    ensure_bootstrap(database, settings)
    database.close()
    with sqlite3.connect(folder / "tsumugi.sqlite3") as connection:
        tenant, now = connection.execute("SELECT id, created_at FROM tenants").fetchone()
        connection.executemany(
            "INSERT INTO audit (id, tenant_id, actor, action, object_id, detail, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (f"aud_{n}", tenant, "system", "test", "x" * 40, json.dumps({"text": "y" * 800}), now)
                for n in range(400)
            ],
        )
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return folder


def doctor(data_dir: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TSUMUGI_")}
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "doctor", "--json", "--data-dir", str(data_dir), *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done, json.loads(done.stdout)["problems"] if done.stdout else []


def root_page_of(data_dir: Path, table: str) -> int:
    with sqlite3.connect(data_dir / "tsumugi.sqlite3") as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    connection.close()
    return int(page)


def overwrite(data_dir: Path, offset: int, count: int = PAGE) -> None:
    with (data_dir / "tsumugi.sqlite3").open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * count)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: overwrite(folder, 0, 100),
        lambda folder: overwrite(folder, 100, PAGE - 100),
        lambda folder: overwrite(folder, (root_page_of(folder, "audit") - 1) * PAGE),
        lambda folder: overwrite(folder, (root_page_of(folder, "alembic_version") - 1) * PAGE),
        lambda folder: os.truncate(folder / "tsumugi.sqlite3", 20 * PAGE),
    ],
    ids=["header", "schema", "a table", "the revision", "cut off"],
)
def test_damaged_pages_are_named_and_nothing_is_touched(data_dir: Path, damage: Callable[[Path], None]) -> None:
    damage(data_dir)
    before = (data_dir / "tsumugi.sqlite3").read_bytes()
    done, problems = doctor(data_dir, "--repair")
    assert done.returncode == 1
    assert problems and {problem["check"] for problem in problems} == {"database"}
    assert any("backup" in problem["problem"] for problem in problems)
    assert not any(problem["repaired"] for problem in problems)
    assert (data_dir / "tsumugi.sqlite3").read_bytes() == before


def test_any_other_command_says_it_in_one_line(data_dir: Path, tmp_path: Path) -> None:
    overwrite(data_dir, 100, PAGE - 100)
    command = [sys.executable, "-m", "cli.main", "backup", str(tmp_path / "b.tar.gz"), "--data-dir", str(data_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "tsumugi doctor" in done.stderr.strip().splitlines()[-1]


@pytest.fixture
def read_only(data_dir: Path, tmp_path: Path) -> Iterator[Path]:
    """The folder of the blobs, mounted so that nobody can write."""
    with small_disk(tmp_path / "disk", 2**24) as disk:
        (disk / "blobs").mkdir()
        (data_dir / "blobs").symlink_to(disk / "blobs")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield data_dir


def test_a_folder_that_cannot_be_written_is_a_finding(read_only: Path) -> None:
    done, problems = doctor(read_only, "--repair")
    assert done.returncode == 1
    assert [(problem["check"], problem["object"], problem["repairable"]) for problem in problems] == [
        ("folders", "blobs", False)
    ]


def test_a_folder_of_ours_is_opened_again(settings: Settings, database: Database, monkeypatch: Any) -> None:
    folder = settings.data_dir / "runs"
    folder.mkdir(mode=0o500)
    real = os.access
    # to root, as whom tests may run, everything is open: the mode says it instead
    monkeypatch.setattr(
        os, "access", lambda path, mode: real(path, mode) and Path(path).stat().st_mode & 0o700 == 0o700
    )
    (finding,) = check_folders(settings)
    assert (finding.check, finding.object_id) == ("folders", "runs") and finding.repair is not None
    finding.repair()
    assert list(check_folders(settings)) == []


def test_an_index_that_cannot_be_opened_is_a_finding(data_dir: Path) -> None:
    settings = load_settings(data_dir=data_dir)
    assert examine(settings, repair=False) == ([], [])
    (config,) = settings.index_dir.glob("*/edge_config.json")
    config.write_text("{")
    found, mended = examine(settings, repair=True)
    assert [(finding.check, finding.repair) for finding in found] == [("index", None)] and not mended
    assert "cannot be opened" in found[0].problem
