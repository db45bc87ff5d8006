"""Backups taken of busy systems and brought back into empty ones, from each topology into each.

A topology is what its settings name: SQLite, a folder and Edge; or PostgreSQL, an S3 server and the Qdrant stand-in.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import threading
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import pytest
from sqlalchemy import JSON, null, select, text

from cli.backup.bring import Restored, bring_back, require_empty
from cli.backup.card import CARD, SQLITE, entry_of
from cli.backup.rows import dump_rows, load_rows
from cli.backup.take import take_backup
from cli.doctor import examine
from cli.output import CommandFailed
from core.access import Principal, access_filter
from core.blobs import open_blobs
from core.database import Database, open_database
from core.errors import Conflict, InvalidInput, TsumugiError
from core.jobs import JobStore
from core.keys import default_tenant_id, ensure_bootstrap
from core.migrate import current_revision, downgrade, known_revisions, newest_revision, upgrade
from core.s3 import open_s3_client
from core.settings import Settings, load_settings
from core.tables import AuditEntry, Collection, Document, DocumentGeneration, IdempotencyRecord, Job
from core.tenants import create_tenant
from core.types import Scope
from ingest.build import build_ingest
from ingest.upload import Upload
from retrieval.build import build_retrieval
from tests.qdrant_standin import serve
from tests.retrieval_corpus import HANDBOOK, minilm
from tests.server_processes import Postgres
from workers.base import run_job

QUESTIONS = (
    "How many days of annual leave are there?",
    "Which toner does the printer PPR-9087 take?",
    "有給休暇は何日ですか",
    "三階の会議室は何名まで利用できますか",
    "What does the KS-50 cost?",
)
BUSY = 10
"""Documents that are being ingested while a backup is taken."""


def nothing(_line: str) -> None:
    """Says nothing."""


@dataclass
class System:
    """One running system: what takes documents in, works on them and answers."""

    settings: Settings
    db: Database
    jobs: JobStore
    retrieval: Any
    ingest: Any
    principal: Principal

    def put(self, filename: str, text: str, **more: Any) -> str:
        (accepted,) = self.ingest.service.accept(self.principal, [Upload(filename, text.encode(), **more)])
        return str(accepted.document.id)

    def work(self) -> int:
        """Run every queued job, oldest first; returns how many."""
        done = 0
        while True:
            with self.db.read() as session:
                job = session.scalars(select(Job).where(Job.status == "queued").order_by(Job.created_at)).first()
            if job is None:
                return done
            pipeline = self.ingest.pipeline
            run_job(self.jobs, job.id, pipeline.run if job.kind == "ingest" else pipeline.delete)
            done += 1

    def passages(self, question: str, limit: int = 5) -> list[str]:
        found = self.retrieval.searcher.search(question, access_filter(self.principal), limit)
        return [passage.chunk_id for passage in found.passages]

    def served(self) -> list[Document]:
        """Documents of which a generation serves."""
        with self.db.read() as session:
            return list(session.scalars(select(Document).where(Document.active_generation.is_not(None))))


@contextmanager
def running(settings: Settings) -> Iterator[System]:
    """A system over some settings, made where there is none."""
    with ExitStack() as stack:
        db = open_database(settings)
        stack.callback(db.close)
        upgrade(db)
        ensure_bootstrap(db, settings)
        blobs, jobs = open_blobs(settings), JobStore(db, settings, None)
        retrieval = build_retrieval(settings, db, embedder=minilm())
        stack.callback(retrieval.close)
        ingest = build_ingest(settings, db, blobs, jobs, retrieval)
        stack.callback(ingest.close)
        principal = Principal(default_tenant_id(db), "key_admin", frozenset({Scope.ADMIN}), frozenset())
        yield System(settings, db, jobs, retrieval, ingest, principal)


@contextmanager
def busy(system: System) -> Iterator[None]:
    """Ingest, replace and ask beside the block, which begins when that is under way."""
    under_way, stop, failed = threading.Event(), threading.Event(), []

    def ingest() -> None:
        try:
            for number in range(BUSY):
                system.put(f"busy-{number}.txt", story(number), external_id=f"busy-{number}")
                if number % 4 == 3:  # a replaced document's old blobs go while they are being copied
                    system.put(f"busy-{number}.txt", story(number) + " Replaced.", external_id=f"busy-{number - 1}")
                if number > 2 or stop.is_set():
                    under_way.set()
                if number % 2:
                    system.work()
        except BaseException as error:
            failed.append(error)
            under_way.set()
            raise

    def ask() -> None:
        while not stop.is_set():
            for question in QUESTIONS:
                system.passages(question)

    threads = [threading.Thread(target=ingest), threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    try:
        assert under_way.wait(60)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not failed, failed


def story(number: int) -> str:
    lines = [f"Station {number} keeps barrel {number}-{line}, filled in {1900 + line}." for line in range(12)]
    return f"# Station {number}\n\n" + "\n\n".join(lines)


@pytest.fixture(scope="module")
def qdrant_url() -> Iterator[str]:
    with serve() as (url, _):
        yield url


@pytest.fixture(scope="module")
def make_settings(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, s3_server: str, qdrant_url: str
) -> Callable[[str], Settings]:
    """Settings of an empty system of either topology."""

    def make(topology: str) -> Settings:
        folder = tmp_path_factory.mktemp(topology) / "data"
        folder.mkdir()
        s3 = {"endpoint_url": s3_server, "access_key_id": "test", "secret_access_key": "test", "attempts": 1}
        if topology == "embedded":
            return load_settings(data_dir=folder, s3=s3)
        postgres: Postgres = request.getfixturevalue("postgres")
        name = f"b-{uuid.uuid4().hex}"
        bucket_client(s3_server).create_bucket(Bucket=name)
        return load_settings(
            data_dir=folder,
            s3=s3,
            database={"url": postgres.create(f"t{uuid.uuid4().hex[:12]}")},
            blobs={"store": "s3", "bucket": name, "prefix": "blobs/", **s3},
            retrieval={"index": "qdrant"},
            qdrant={"url": qdrant_url, "collection": f"c{uuid.uuid4().hex[:8]}"},
            generation={"engine": "openai"},
        )

    return make


def bucket_client(url: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )


@dataclass
class Source:
    """A system that backups were taken of, and what it answered to questions that the busy part does not touch."""

    settings: Settings
    busy_backup: str
    still_backup: str
    documents: int
    """How many the busy backup holds."""
    at_rest: dict[str, list[str]]
    chunks: dict[tuple[str, int | None], str]
    """{busy document and its generation: chunk that a question about it finds first}."""


def fill(system: System) -> None:
    for filename, content in HANDBOOK:
        system.put(filename, content, external_id=filename)
    system.work()
    with system.db.write() as session:
        session.add(IdempotencyRecord(key_id="k", idempotency_key="i", route="r", body_sha256="0" * 64))


def first_chunks(system: System) -> dict[tuple[str, int | None], str]:
    found = {}
    for document in system.served():
        if document.filename.startswith("busy-"):
            number = document.filename.removeprefix("busy-").removesuffix(".txt")
            (found[document.id, document.active_generation],) = system.passages(
                f"Station {number} barrel {number}-7", 1
            )
    return found


def make_source(topology: str, settings: Settings, folder: Path, s3_server: str) -> Source:
    if topology == "embedded":
        busy_place, still_place = str(folder / "busy.tar.gz"), str(folder / "still")
    else:
        bucket_client(s3_server).create_bucket(Bucket=f"k-{folder.name}")
        busy_place, still_place = f"s3://k-{folder.name}/monday", str(folder / "still.tar")
    with running(settings) as system:
        fill(system)
        with busy(system):
            # An embedded service owns its shard, so the command leaves vectors out then.
            card = take_backup(settings, busy_place, with_vectors=topology == "server", say=nothing)
        assert card.missing == []
        system.work()
        at_rest = {question: system.passages(question) for question in QUESTIONS}
        chunks = first_chunks(system)
        count = system.retrieval.count()
    still = take_backup(settings, still_place, with_vectors=True, say=nothing)
    assert list(still.points.values()) == [count]
    return Source(settings, busy_place, still_place, card.tables["documents"].rows, at_rest, chunks)


@pytest.fixture(scope="module")
def sources(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[[str], Settings], s3_server: str
) -> dict[str, Source]:
    return {
        topology: make_source(topology, make_settings(topology), tmp_path_factory.mktemp(f"to-{topology}"), s3_server)
        for topology in ("embedded", "server")
    }


def restore(settings: Settings, place: str, **options: Any) -> Restored:
    return bring_back(settings, place, **{"with_vectors": True, "say": nothing, **options})


@pytest.mark.parametrize("target", ["embedded", "server"])
@pytest.mark.parametrize("source", ["embedded", "server"])
def test_a_system_at_rest_comes_back_as_it_was(
    sources: dict[str, Source], make_settings: Callable[[str], Settings], source: str, target: str
) -> None:
    taken, settings = sources[source], make_settings(target)
    done = restore(settings, taken.still_backup)
    assert done.embedded == 0 and done.points > len(HANDBOOK)
    assert examine(settings, repair=False) == ([], [])
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
        assert len(HANDBOOK) < taken.documents < len(HANDBOOK) + BUSY, "the backup was to be taken in the middle"
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


def copy_of(sources: dict[str, Source], tmp_path: Path) -> Path:
    """A backup in a folder, to be changed."""
    return Path(shutil.copytree(sources["embedded"].still_backup, tmp_path / "changed"))


def refused(settings: Settings, place: str, code: str) -> None:
    """The backup is refused, and nothing was changed."""
    with pytest.raises(TsumugiError) as caught:
        restore(settings, place)
    assert caught.value.code == code, caught.value.detail
    require_empty(settings)  # raises where something was left
    assert not [path for path in settings.data_dir.rglob("*") if path.is_file()]


def rewrite(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change a file and put its new digest into the card: what an attacker does."""
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    card = json.loads((folder / CARD).read_text())
    card["files"][name] = entry_of(path).model_dump()
    (folder / CARD).write_text(json.dumps(card))


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
            take_backup(source.settings, place, with_vectors=False, say=nothing)
        assert caught.value.code == "backup_exists"

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cli.backup.take.dump_vectors", full)
    bucket = sources["server"].busy_backup.removesuffix("monday")
    for place in (str(tmp_path / "a.tar"), str(tmp_path / "folder"), f"{bucket}tuesday"):
        with pytest.raises((OSError, TsumugiError)):
            take_backup(source.settings, place, with_vectors=True, say=nothing)
    assert list(tmp_path.iterdir()) == []
    client = open_s3_client(source.settings.s3, "the test")
    name = bucket.removeprefix("s3://").rstrip("/")
    assert client.list_objects_v2(Bucket=name, Prefix="tuesday")["KeyCount"] == 0
    client.close()


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
        system.retrieval.index.delete_document(system.served()[0].id)
        with pytest.raises(CommandFailed, match="stop them first"):
            examine(settings, repair=False)
    found, _ = examine(settings, repair=False)
    assert {finding.check for finding in found} == {"documents", "blobs", "index"}
    found, mended = examine(settings, repair=True)
    assert [finding.object_id for finding in found if finding not in mended] == [] and not blobs.exists(orphan)
    with running(settings) as system:
        system.work()
    assert examine(settings, repair=False) == ([], [])
