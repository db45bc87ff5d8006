"""Backups taken of busy systems and of ones at rest come back into empty ones, from each topology into each."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import uuid
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import JSON, null, select, text

from cli.backup.card import CARD, SQLITE, entry_of
from cli.backup.rows import dump_rows, load_rows
from cli.backup.take import from_index, take_backup
from cli.doctor import examine
from cli.output import CommandFailed
from core.blobs import open_blobs
from core.database import Database
from core.migrate import current_revision, downgrade, known_revisions, newest_revision
from core.settings import Settings
from core.tables import AuditEntry, Collection, Document, DocumentGeneration, IdempotencyRecord, Tenant
from core.tenants import create_tenant
from tests.backed_up import (
    ADAPTER,
    BUSY,
    DOCUMENTS,
    QUESTIONS,
    Source,
    copy_of,
    first_chunks,
    nothing,
    refused,
    restore,
    rewrite,
    running,
)


@pytest.mark.parametrize("target", ["embedded", "server"])
@pytest.mark.parametrize("source", ["embedded", "server"])
def test_a_system_at_rest_comes_back_as_it_was(
    sources: dict[str, Source], make_settings: Callable[[str], Settings], source: str, target: str
) -> None:
    taken, settings = sources[source], make_settings(target)
    done = restore(settings, taken.still_backup)
    assert done.embedded == 0 and done.points > len(DOCUMENTS)
    assert examine(settings, repair=False) == ([], [])
    assert (settings.adapters_dir / ADAPTER / "説明 1.md").read_text("utf-8") == "この語調は丁寧です。"
    assert open_blobs(settings).exists(hashlib.sha256(b"prepared rows of a run").hexdigest())
    assert settings.admin_key_file.read_text() == taken.settings.admin_key_file.read_text()
    with running(settings) as system:
        assert {question: system.passages(question) for question in QUESTIONS} == taken.at_rest
        assert first_chunks(system) == taken.chunks
        with system.db.read() as session:
            assert session.scalars(select(AuditEntry.action).where(AuditEntry.action == "system.restore")).all()
            assert session.scalars(select(IdempotencyRecord)).all() == []
            assert current_revision(system.db) == newest_revision()
        system.put("new.txt", "The new hall opens in May.")  # it takes documents like any other
        assert system.work() == 1


@pytest.mark.parametrize(("source", "target"), [("embedded", "server"), ("server", "embedded")])
def test_a_busy_system_comes_back_whole(
    sources: dict[str, Source], make_settings: Callable[[str], Settings], source: str, target: str
) -> None:
    taken, settings = sources[source], make_settings(target)
    done = restore(settings, taken.busy_backup)
    assert done.card.missing == [] and done.points > 0
    assert (done.embedded == done.points) is (source == "embedded")
    assert examine(settings, repair=False) == ([], [])
    with running(settings) as system:
        assert len(DOCUMENTS) < taken.documents < len(DOCUMENTS) + BUSY, "the backup was to be taken in the middle"
        before = first_chunks(system)
        same = set(before) & set(taken.chunks)
        assert same and all(before[one] == taken.chunks[one] for one in same)
        firsts = {question: system.passages(question, 1) for question in QUESTIONS}
        assert firsts == {question: found[:1] for question, found in taken.at_rest.items()}
        system.work()  # what was queued or running is taken up again
        with system.db.read() as session:
            assert set(session.scalars(select(Document.status))) == {"ready"}
        assert len(system.served()) == taken.documents
    assert examine(settings, repair=False) == ([], [])


@pytest.mark.parametrize("target", ["embedded", "server"])
def test_a_tenant_with_a_shard_of_its_own_has_it_again(
    make_settings: Callable[[str], Settings], tmp_path: Path, target: str
) -> None:
    settings = make_settings("server")
    apart = settings.retrieval.model_copy(update={"tenant_shards": True})
    settings = settings.model_copy(update={"retrieval": apart})
    with running(settings) as system:
        for filename, content in DOCUMENTS:
            system.put(filename, content, external_id=filename)
        system.work()
        asked = {question: system.passages(question) for question in QUESTIONS}
        tenant = system.principal.tenant_id
        with system.db.write() as session:
            session.get_one(Tenant, tenant).apart = True
        system.retrieval.index.place([tenant], lambda _: None)
        (before,) = system.retrieval.index.tenant_shards()
        assert {question: system.passages(question) for question in QUESTIONS} == asked
    take_backup(settings, str(tmp_path / "taken"), vectors=from_index(settings), say=nothing)
    other = make_settings(target)  # the version says how its index is made, whatever the settings of today say
    done = restore(other, str(tmp_path / "taken"))
    assert (done.points, done.embedded) == (before.points, 0) and examine(other, repair=False) == ([], [])
    with running(other) as system:
        assert {question: system.passages(question) for question in QUESTIONS} == asked
        if target == "server":
            assert system.retrieval.index.tenant_shards() == [before]


def test_a_first_format_archive_goes_into_a_server(
    sources: dict[str, Source], make_settings: Callable[[str], Settings], tmp_path: Path
) -> None:
    """What version 1 of the command wrote: a data dir's files and their digests."""
    data_dir = sources["embedded"].settings.data_dir
    archive = tmp_path / "old.tar"
    names = ["tsumugi.sqlite3", "admin.key", *(f"blobs/{p.parent.name}/{p.name}" for p in data_dir.glob("blobs/*/*"))]
    files = {name: hashlib.sha256((data_dir / name).read_bytes()).hexdigest() for name in names}
    (tmp_path / CARD).write_text(json.dumps({"format": 1, "version": "0", "created_at": "then", "files": files}))
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / CARD, arcname=CARD)
        for name in names:
            tar.add(data_dir / name, arcname=name)
    settings = make_settings("server")
    done = restore(settings, str(archive))
    assert done.points == done.embedded > 0
    assert examine(settings, repair=False) == ([], [])
    with running(settings) as system:
        assert {question: system.passages(question) for question in QUESTIONS} == sources["embedded"].at_rest


def test_an_older_revision_is_migrated_and_a_newer_one_refused(
    sources: dict[str, Source], make_settings: Callable[[str], Settings], tmp_path: Path
) -> None:
    folder = copy_of(sources, tmp_path)
    old = known_revisions()[1]
    card = json.loads((folder / CARD).read_text())
    # The rows of the older revision, by the database's own way back.
    database = Database(
        f"sqlite:///{shutil.copyfile(sources['embedded'].settings.data_dir / SQLITE, tmp_path / 'old')}"
    )
    downgrade(database, old)
    with database.read() as session:
        tables = dump_rows(session, folder / "tables")
    database.close()
    card |= {"revision": old, "tables": {name: entry.model_dump() for name, entry in tables.items()}}
    for name in list(card["files"]):
        if name.startswith("tables/"):
            del card["files"][name]
    for name in tables:
        card["files"][f"tables/{name}.jsonl"] = entry_of(folder / "tables" / f"{name}.jsonl").model_dump()
    for topology in ("embedded", "server"):
        (folder / CARD).write_text(json.dumps(card))
        settings = make_settings(topology)
        restore(settings, str(folder))
        assert examine(settings, repair=False) == ([], [])
        (folder / CARD).write_text(json.dumps(card | {"revision": "9999"}))
        refused(make_settings(topology), str(folder), "backup_newer")
    (folder / CARD).write_text(json.dumps(card | {"format": 3}))
    refused(make_settings("embedded"), str(folder), "backup_newer")


def test_vectors_of_another_shape_are_made_anew(
    sources: dict[str, Source], make_settings: Callable[[str], Settings], tmp_path: Path
) -> None:
    folder = copy_of(sources, tmp_path)
    (name,) = (name for name in json.loads((folder / CARD).read_text())["files"] if name.startswith("index/"))

    def spoil(data: bytes) -> bytes:
        lines = data.splitlines()
        first = json.loads(lines[0])
        lines[0] = json.dumps({**first, "dense": b64encode(b"\0" * 12).decode()}).encode()
        lines[1] = b"{}"
        lines[2] = json.dumps({**json.loads(lines[2]), "id": str(uuid.uuid4())}).encode()
        return b"\n".join(lines)

    rewrite(folder, name, spoil)
    settings = make_settings("embedded")
    assert restore(settings, str(folder)).embedded == 3
    assert examine(settings, repair=False) == ([], [])
    with running(settings) as system:
        assert {question: system.passages(question) for question in QUESTIONS} == sources["embedded"].at_rest


def test_rows_cross_databases_as_they_are(database: Database, postgres_database: Database, tmp_path: Path) -> None:
    """JSON's null is not SQL's NULL; times keep their zone; a sequence goes on after the rows that came."""
    later = datetime(2026, 3, 1, 9, 30, 0, 123456, tzinfo=timezone(timedelta(hours=9)))
    with database.write() as session:
        tenant = create_tenant(session, "tsumugi")
        collection = session.scalars(select(Collection)).one()
        for name, error in (("none", null()), ("json", JSON.NULL), ("object", {"理由": [1, None, 0.1]})):
            session.add(
                Document(
                    id=f"doc_{name}", tenant_id=tenant.id, collection_id=collection.id, filename="\u2028改行.txt",
                    status="ready", error=error, created_at=later,
                )
            )  # fmt: skip
    serial = {True: "INTEGER PRIMARY KEY AUTOINCREMENT", False: "SERIAL PRIMARY KEY"}
    for one in (database, postgres_database):
        with one.write() as session:
            session.execute(text(f"CREATE TABLE counted (id {serial[one.is_sqlite]}, name TEXT)"))
    with database.write() as session:
        session.execute(text("INSERT INTO counted (id, name) VALUES (41, 'x')"))
    with database.read() as session:
        tables = dump_rows(session, tmp_path)
    assert load_rows(postgres_database, tables, tmp_path) == sum(entry.rows for entry in tables.values())
    with postgres_database.write() as session:
        session.execute(text("INSERT INTO counted (name) VALUES ('y')"))
        assert session.scalars(text("SELECT id FROM counted ORDER BY id")).all() == [41, 42]
        rows = session.execute(text("SELECT id, error IS NULL, error::text FROM documents ORDER BY id")).all()
        assert [tuple(row)[:2] for row in rows] == [("doc_json", False), ("doc_none", True), ("doc_object", False)]
        assert rows[0][2] == "null" and json.loads(rows[2][2]) == {"理由": [1, None, 0.1]}
        document = session.get_one(Document, "doc_json")
        assert (document.created_at, document.filename) == (later, "\u2028改行.txt")


def test_doctor_finds_what_is_wrong_with_a_server(
    sources: dict[str, Source], make_settings: Callable[[str], Settings]
) -> None:
    settings = make_settings("server")
    restore(settings, sources["server"].still_backup)
    blobs = open_blobs(settings)
    with running(settings) as system:
        document = system.put("lines.txt", "One line.\r\nAnother line.")  # its text is another blob than its source
        system.work()
        with system.db.read() as session:
            digest = session.scalars(
                select(DocumentGeneration.text_sha256).where(DocumentGeneration.document_id == document)
            ).one()
        assert digest is not None
        blobs.delete(digest)
        orphan = blobs.put(b"nobody's")
        served = system.served()[0]
        system.retrieval.index.delete_document(served.id, tenant_id=served.tenant_id)
        with pytest.raises(CommandFailed, match="stop them first"):
            examine(settings, repair=False)
    found, _ = examine(settings, repair=False)
    assert {finding.check for finding in found} == {"documents", "blobs", "index"}
    found, mended = examine(settings, repair=True)
    assert [finding.object_id for finding in found if finding not in mended] == [] and not blobs.exists(orphan)
    with running(settings) as system:
        system.work()
    assert examine(settings, repair=False) == ([], [])
