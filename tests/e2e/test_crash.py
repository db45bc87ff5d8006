"""Killed in the middle of ingesting, again and again: nothing is lost, nothing is double, and doctor can say so."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.client import Client
from cli.service_process import ServiceProcess
from tests.e2e.conftest import tsumugi, upload_text, wait_until

DOCUMENTS = 30
KILLS_AT = (2, 8, 14, 20, 26)
"""Kill when so many documents are ready, and the rest is somewhere on its way."""


def doctor(data_dir: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = tsumugi("doctor", "--data-dir", str(data_dir), "--json", *options)
    assert done.returncode in {0, 1}, done.stderr
    return done.returncode, json.loads(done.stdout)


def problems(report: dict[str, Any]) -> set[str]:
    return {row["check"] for row in report["problems"]}


def count_ready(client: Client) -> int:
    return sum(document["status"] == "ready" for document in client.items("/v1/documents"))


def story(number: int) -> str:
    lines = [f"Station {number} keeps barrel {number}-{line}, filled in {1900 + line}." for line in range(60)]
    return f"# Station {number}\n\n" + "\n\n".join(lines)


def cut_write(data_dir: Path, number: int) -> None:
    """What a kill leaves that comes while bytes are stored: a race that few of these kills win by themselves."""
    folder = data_dir / "blobs" / f"{number:02x}"
    folder.mkdir(exist_ok=True)
    (folder / ".new-cut").write_bytes(b"half of")


@pytest.fixture(scope="module")
def survivor(make_service: Callable[..., ServiceProcess]) -> ServiceProcess:
    """A service that was killed five times while ingesting, then finished, then stopped."""
    service = make_service("crash")
    service.start()
    with service.client() as client:
        for number in range(DOCUMENTS):
            upload_text(client, story(number), f"station-{number}.md", external_id=f"station-{number}")
        for ready in KILLS_AT:
            wait_until(lambda ready=ready: count_ready(service_client(service)) >= ready, 120, f"{ready} documents")
            service.kill()
            cut_write(service.data_dir, ready)
            service.start()
        wait_until(lambda: count_ready(service_client(service)) == DOCUMENTS, 180, "all documents")
        for document in service_client(service).items("/v1/documents"):
            hits = service_client(service).post("/v1/search", {"query": document["filename"], "limit": 3})["items"]
            assert len({hit["chunk_id"] for hit in hits}) == len(hits)
    assert service.stop() == 0
    return service


def service_client(service: ServiceProcess) -> Client:
    return service.client()  # the port changes with every start


def test_doctor_finds_nothing_after_five_kills(survivor: ServiceProcess) -> None:
    code, report = doctor(survivor.data_dir)
    assert (code, report["problems"]) == (0, [])
    with sqlite3.connect(survivor.data_dir / "tsumugi.sqlite3") as db:
        rows = db.execute("SELECT active_generation, latest_generation, status FROM documents").fetchall()
        jobs = db.execute("SELECT DISTINCT status FROM jobs").fetchall()
    assert rows == [(1, 1, "ready")] * DOCUMENTS
    assert jobs == [("succeeded",)]


def test_backup_and_restore(survivor: ServiceProcess, tmp_path: Path, prepared_models: Path) -> None:
    archive = tmp_path / "backup.tar.gz"
    done = tsumugi("backup", str(archive), "--json", data_dir=survivor.data_dir)
    assert done.returncode == 0, done.stderr
    taken = json.loads(done.stdout)
    (points,) = taken["points"].values()
    assert points > DOCUMENTS and taken["missing"] == []
    assert archive.stat().st_mode & 0o777 == 0o600
    restored = tmp_path / "restored"
    restored.mkdir()
    (restored / "models").symlink_to(prepared_models)
    done = tsumugi("restore", str(archive), "--json", data_dir=restored)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["points"], report["embedded"]) == (points, 0)
    assert doctor(restored) == (0, {"ok": True, "problems": [], "left": 0})
    refused = tsumugi("restore", str(archive), data_dir=restored)  # not into a data dir in use
    assert refused.returncode == 1 and "target_not_empty" in refused.stderr
    damaged = tmp_path / "damaged.tar"
    with tarfile.open(archive) as source, tarfile.open(damaged, "w") as target:
        for member in source.getmembers():
            data = source.extractfile(member)
            assert data is not None
            if member.name == "tables/documents.jsonl":
                member.size -= 1
            target.addfile(member, data)
    refused = tsumugi("restore", str(damaged), data_dir=tmp_path / "never")
    assert refused.returncode == 1 and "backup_damaged" in refused.stderr
    assert not (tmp_path / "never" / "tsumugi.sqlite3").exists()


def test_a_backup_beside_the_running_service(
    service: ServiceProcess, client: Client, tmp_path: Path, prepared_models: Path
) -> None:
    """Taken while documents come in; the service hands out the vectors of its index."""
    items = [upload_text(client, story(number), f"beside-{number}.md") for number in range(4)]
    done = tsumugi("backup", str(tmp_path / "kept"), "--json", data_dir=service.data_dir)
    assert done.returncode == 0, done.stderr
    (points,) = json.loads(done.stdout)["points"].values()
    assert points > 0
    for item in items:
        assert client.follow_job(item["job"]["id"], timeout_s=120)["status"] == "succeeded"
        client.delete(f"/v1/documents/{item['document']['id']}")
    restored = tmp_path / "restored"
    restored.mkdir()
    (restored / "models").symlink_to(prepared_models)
    done = tsumugi("restore", str(tmp_path / "kept"), "--json", data_dir=restored)
    assert done.returncode == 0, done.stderr
    # Only what became ready between the rows' snapshot and the vectors, or the other way round, is embedded.
    assert json.loads(done.stdout)["embedded"] < json.loads(done.stdout)["points"] / 2
    assert doctor(restored) == (0, {"ok": True, "problems": [], "left": 0})


def test_doctor_names_and_mends_damage(survivor: ServiceProcess, tmp_path: Path) -> None:
    data_dir = tmp_path / "damaged"
    shutil.copytree(survivor.data_dir, data_dir, symlinks=True)
    with sqlite3.connect(data_dir / "tsumugi.sqlite3") as db:
        ids = [row[0] for row in db.execute("SELECT id FROM documents ORDER BY id")]
        db.execute("DELETE FROM chunks WHERE document_id = ? AND ordinal = 0", (ids[0],))
        (text,) = db.execute("SELECT text_sha256 FROM document_generations WHERE document_id = ?", (ids[1],)).fetchone()
        db.execute("UPDATE jobs SET status = 'running' WHERE subject_id = ?", (ids[2],))
    blob = data_dir / "blobs" / text[:2] / text[2:]
    blob.write_bytes(blob.read_bytes()[:-1])
    orphan = data_dir / "blobs" / "ab" / ("c" * 62)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"nobody's")
    (data_dir / "adapters" / ("d" * 64)).mkdir(parents=True)
    code, report = doctor(data_dir)
    assert code == 1
    assert {"documents", "blobs", "index", "jobs", "adapters"} <= problems(report)
    assert {row["object"] for row in report["problems"] if row["check"] == "documents"} == {ids[0], ids[1]}
    code, report = doctor(data_dir, "--repair")
    assert code == 0, report
    assert report["problems"]
    assert all(row["repaired"] for row in report["problems"])
    again = ServiceProcess(data_dir)  # what was queued is ingested anew
    again.start()
    try:
        with again.client() as client:
            wait_until(
                lambda: all(job["status"] == "succeeded" for job in client.items("/v1/jobs")), 120, "the repairs"
            )
            assert count_ready(client) == DOCUMENTS
    finally:
        assert again.stop() == 0
    assert doctor(data_dir) == (0, {"ok": True, "problems": [], "left": 0})


def test_doctor_says_when_it_cannot_mend(survivor: ServiceProcess, tmp_path: Path) -> None:
    data_dir = tmp_path / "lost"
    shutil.copytree(survivor.data_dir, data_dir, symlinks=True)
    with sqlite3.connect(data_dir / "tsumugi.sqlite3") as db:
        (source,) = db.execute("SELECT source_sha256 FROM document_generations LIMIT 1").fetchone()
    (data_dir / "blobs" / source[:2] / source[2:]).unlink()
    code, report = doctor(data_dir, "--repair")
    assert code == 1
    assert report["left"] == 1


def test_doctor_needs_a_stopped_service(service: ServiceProcess, tmp_path: Path) -> None:
    assert tsumugi("doctor", data_dir=service.data_dir).returncode == 2
    assert tsumugi("doctor", data_dir=tmp_path).returncode == 2
