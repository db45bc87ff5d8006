"""What PostgreSQL does otherwise than SQLite: a snapshot a statement by default, and several writers at once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from api.idempotency import IdempotencyLedger
from core import migrate
from core.access import Principal
from core.audit import list_after, record
from core.blobs import FolderBlobStore
from core.database import Database, lock_name
from core.errors import Conflict
from core.jobs import JobStore
from core.keys import ensure_bootstrap
from core.migrate import newest_revision, start_alone, upgrade
from core.settings import DatabaseSettings, Settings, load_settings
from core.tables import Document, IdempotencyRecord, Job, Schedule, Tenant
from core.tables.operations import AuditEntry
from core.tables.tenancy import ApiKey
from core.tenants import create_tenant
from core.types import Scope
from ingest.accept import IngestService
from ingest.update import DocumentChange
from ingest.upload import Upload
from tests.server_processes import Postgres
from tests.unit.test_schedules import NOW, Bench
from tuning.schedules import SchedulesService


def test_a_read_session_is_one_snapshot(postgres_database: Database) -> None:
    names = select(Tenant.name)
    with postgres_database.read() as session:
        assert session.scalars(names).all() == []
        with postgres_database.write() as write:
            create_tenant(write, "late")
        assert session.scalars(names).all() == []
    with postgres_database.read() as session:
        assert session.scalars(names).all() == ["late"]


def test_a_lock_on_a_name_holds_until_the_commit(postgres_database: Database) -> None:
    order: list[str] = []
    held = threading.Event()

    def second() -> None:
        held.wait()
        with postgres_database.write() as session:
            lock_name(session, "family:x")
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with postgres_database.write() as session:
            lock_name(session, "family:x")
            waiting = pool.submit(second)
            held.set()
            with postgres_database.write() as other:
                lock_name(other, "family:y")  # another name is free
            order.append("first")
        waiting.result(10)
    assert order == ["first", "second"]


def test_processes_that_start_at_once_migrate_once_and_make_one_key(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.create("starters")
    settings = load_settings(data_dir=tmp_path, database={"url": url})

    def start(_number: int) -> bool:
        database = Database(url)
        with start_alone(database):
            upgrade(database)
            made = ensure_bootstrap(database, settings).created
        database.close()
        return made

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(start, range(4))) == [False, False, False, True]
    database = Database(url)
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(ApiKey)) == 1
    database.close()
    assert newest_revision() is not None


def test_two_beats_start_one_first_run(
    postgres_database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both beats judge before either commits: the family has no row yet that could be locked."""
    with postgres_database.write() as session:
        tenant = create_tenant(session, "default")
    bench = Bench(postgres_database, settings, tenant)
    bench.upload(30)
    for _ in range(2):
        bench.make_due(bench.schedule().id, NOW)
    both_judged = threading.Barrier(2)
    queue = SchedulesService._queue

    def queue_when_both_have_judged(self: SchedulesService, *arguments: object) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # the other waits for our lock, as it should
            both_judged.wait(1.0)
        queue(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SchedulesService, "_queue", queue_when_both_have_judged)
    beats = [SchedulesService(postgres_database, bench.tuning) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda beat: beat.run_due(NOW), beats))
    assert bench.runs() == 1
    with postgres_database.read() as session:
        outcomes = sorted(str(row.last_outcome["reason"]) for row in session.scalars(select(Schedule)))  # type: ignore[index]
    assert outcomes == ["run_in_progress", "started"]


def waits_for_a_lock(database: Database) -> bool:
    """Whether a connection of this database waits for another's lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.engine.connect() as connection:
        return bool(connection.execute(text(waiting)).scalar())


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread, ten seconds at most."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        threading.Event().wait(0.02)


def test_migrations_are_not_under_the_limit_of_requests(postgres: Postgres) -> None:
    url = postgres.create("patient")
    holder = Database(url)
    hurried = Database(url, pool=DatabaseSettings(statement_timeout_s=0.5))
    with ThreadPoolExecutor(2) as pool, holder.engine.begin() as connection:
        # Another process migrates a large table.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": migrate._POSTGRES_LOCK})
        waiting = pool.submit(upgrade, hurried)
        until(lambda: waits_for_a_lock(holder))
        threading.Event().wait(1.0)
        connection.commit()
        waiting.result(60)
    with ThreadPoolExecutor(1) as pool:
        with start_alone(holder):
            late = pool.submit(_start_and_end, hurried)
            threading.Event().wait(1.0)
            assert not late.done(), "it gave up"
            with holder.engine.begin() as connection:
                connection.execute(text("DROP INDEX ix_jobs_turn"))
            assert migrate.build_large_indexes(holder) == ["ix_jobs_turn"], "whoever waits is not in its way"
        late.result(10)
    with hurried.engine.connect() as connection:
        assert connection.execute(text("SHOW statement_timeout")).scalar() == "500ms"
    holder.close()
    hurried.close()


def _start_and_end(database: Database) -> None:
    with start_alone(database):
        pass


def test_a_large_index_is_made_while_others_write_and_made_anew_where_it_was_left_half(postgres: Postgres) -> None:
    database = Database(postgres.create("indexed"))
    upgrade(database)
    held = {index.name for index in migrate._large_indexes()}
    assert held == set(migrate.LARGE_INDEXES)
    assert migrate.build_large_indexes(database) == []
    with database.engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_jobs_turn"))
        connection.execute(
            text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_audit_tenant_position'::regclass")
        )
    assert migrate.build_large_indexes(database) == ["ix_audit_tenant_position", "ix_jobs_turn"]
    database.close()


def test_the_audit_stream_waits_for_a_slow_transaction(postgres_database: Database) -> None:
    def write(action: str) -> None:
        with postgres_database.write() as session:
            record(session, tenant_id="t", actor="system", action=action)

    def read(after: str | None) -> list[AuditEntry]:
        with postgres_database.read() as session:
            return list_after(session, "t", after, limit=10)

    write("first")
    known = read(None)
    assert [row.action for row in known] == ["first"]
    with postgres_database.write() as slow:
        record(slow, tenant_id="t", actor="system", action="slow")
        slow.flush()
        with postgres_database.engine.begin() as connection:
            connection.execute(text("SELECT 1"))
        write("quick")
        assert read(known[-1].id) == [], "what comes after a row that is not yet there waits for it"
    assert [row.action for row in read(known[-1].id)] == ["slow", "quick"]


def test_rows_of_another_server_come_before_those_of_this_one(postgres_database: Database) -> None:
    with postgres_database.write() as session:
        record(session, tenant_id="t", actor="system", action="brought").position = 2**50
    upgrade(postgres_database)
    with postgres_database.write() as session:
        record(session, tenant_id="t", actor="system", action="own")
    with postgres_database.read() as session:
        assert [row.action for row in list_after(session, "t", None, limit=10)] == ["brought", "own"]


def test_what_two_make_at_once_is_a_conflict_for_one(postgres_database: Database) -> None:
    def idempotent() -> object:
        return IdempotencyLedger(postgres_database, "key_1", "abc").begin("POST /v1/x", "0" * 64)

    def tenant() -> object:
        with postgres_database.write() as session:
            return create_tenant(session, "acme")

    with ThreadPoolExecutor(1) as pool:
        for other, code in ((idempotent, "idempotency_in_progress"), (tenant, "tenant_exists")):
            with postgres_database.write() as session:
                if other is idempotent:
                    session.add(
                        IdempotencyRecord(
                            key_id="key_1", idempotency_key="abc", route="POST /v1/x", body_sha256="0" * 64
                        )
                    )
                else:
                    create_tenant(session, "acme")
                session.flush()
                waiting = pool.submit(other)
                until(lambda: waits_for_a_lock(postgres_database))
            with pytest.raises(Conflict) as refused:
                waiting.result(10)
            assert refused.value.code == code


@pytest.fixture
def service(postgres_database: Database, settings: Settings) -> IngestService:
    """Takes uploads; nothing works on them."""
    with postgres_database.write() as session:
        create_tenant(session, "default")
    jobs = JobStore(postgres_database, settings, None)
    return IngestService(postgres_database, FolderBlobStore(settings.blobs_dir), jobs, settings)


@pytest.fixture
def uploader(service: IngestService, postgres_database: Database) -> Principal:
    """May do everything."""
    with postgres_database.read() as session:
        tenant_id = session.scalars(select(Tenant.id)).one()
    return Principal(tenant_id, "key_1", frozenset({Scope.ADMIN}), frozenset())


def upload(service: IngestService, uploader: Principal) -> tuple[str, str]:
    """(document, job) of a file that waits to be read."""
    (accepted,) = service.accept(uploader, [Upload("a.txt", b"text", external_id="a")])
    assert accepted.job is not None
    return accepted.document.id, accepted.job.id


def test_deletions_at_once_make_one_job(
    postgres_database: Database, service: IngestService, uploader: Principal
) -> None:
    document_id, _ = upload(service, uploader)
    with ThreadPoolExecutor(4) as pool:
        with postgres_database.write() as session:
            session.get(Document, document_id, with_for_update=True)
            waiting = [pool.submit(service.delete, uploader, document_id) for _ in range(4)]
            until(lambda: waits_for_a_lock(postgres_database))
            threading.Event().wait(0.5)
        found = [one.result(10).job for one in waiting]
    assert len({job.id for job in found if job is not None}) == 1
    with postgres_database.read() as session:
        assert session.scalar(select(func.count()).where(Job.kind == "delete")) == 1


@pytest.mark.parametrize("change", ["delete", "replace", "update"])
def test_a_worker_and_a_request_take_job_and_document_in_one_order(
    postgres_database: Database, service: IngestService, uploader: Principal, change: str
) -> None:
    document_id, job_id = upload(service, uploader)
    changes = {
        "delete": lambda: service.delete(uploader, document_id),
        "replace": lambda: service.accept(uploader, [Upload("a.txt", b"other", external_id="a")]),
        "update": lambda: service.updates.update(uploader, document_id, DocumentChange(metadata={"a": 1})),
    }
    with ThreadPoolExecutor(1) as pool:
        with postgres_database.write() as session:  # a worker: its job, then the document
            job = session.get_one(Job, job_id, with_for_update=True)
            waiting = pool.submit(changes[change])
            until(lambda: waits_for_a_lock(postgres_database) or waiting.done())
            session.execute(text("SET LOCAL lock_timeout = '2s'"))  # a deadlock would take longer to be seen
            document = session.get_one(Document, document_id, with_for_update=True)
            job.stage, document.status = "extract", "processing"
        waiting.result(10)
