"""What PostgreSQL does otherwise than SQLite: a snapshot a statement by default, and several writers at once."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select

from core.database import Database, lock_name
from core.keys import ensure_bootstrap
from core.migrate import newest_revision, start_alone, upgrade
from core.settings import Settings, load_settings
from core.tables import Schedule, Tenant
from core.tables.tenancy import ApiKey
from core.tenants import create_tenant
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
