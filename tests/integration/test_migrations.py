"""Migrations and tables agree; up, down and up again; two starts at once; from an installed package."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, select, text

from core.database import Database
from core.migrate import connected, current_revision, downgrade, migrations_dir, newest_revision, upgrade
from core.settings import Settings
from core.tables import Base, Tenant
from core.tenants import create_tenant

OPTIONS = {"compare_type": True, "compare_server_default": True}


@pytest.fixture
def empty(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'db.sqlite3'}")


def test_migrated_database_equals_the_tables(database: Database) -> None:
    with connected(database) as connection:
        difference = compare_metadata(MigrationContext.configure(connection, opts=OPTIONS), Base.metadata)
    assert difference == []
    assert current_revision(database) == newest_revision() is not None


def test_down_to_nothing_and_up_again(database: Database) -> None:
    downgrade(database, "base")
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    assert current_revision(database) is None
    upgrade(database)
    assert set(inspect(database.engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_upgrade_of_a_current_database_keeps_its_rows(database: Database) -> None:
    with database.write() as session:
        create_tenant(session, "default")
    upgrade(database)
    with database.read() as session:
        assert session.scalars(select(Tenant.name)).all() == ["default"]


def test_a_migration_that_fails_leaves_nothing(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import op

    real = op.create_table

    def failing(name: str, *columns: object, **options: object) -> object:
        if name == "jobs":
            raise RuntimeError("disk full")
        return real(name, *columns, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(op, "create_table", failing)
    with pytest.raises(RuntimeError, match="disk full"):
        upgrade(empty)
    assert inspect(empty.engine).get_table_names() == []


def test_two_processes_that_start_at_once_both_find_the_newest(empty: Database) -> None:
    code = (
        "import sys; from core.database import Database; from core.migrate import upgrade;"
        "upgrade(Database(sys.argv[1]))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, empty.url]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert current_revision(empty) == newest_revision()


def test_revisions_form_one_line(settings: Settings) -> None:
    files = sorted(path.name for path in (migrations_dir() / "versions").glob("*.py"))
    assert files and all(name[:4].isdigit() for name in files)
    assert [int(name[:4]) for name in files] == list(range(1, len(files) + 1))


def test_groups_of_older_data_get_one_spelling(database: Database) -> None:
    downgrade(database, "0008")
    taken_apart, whole = unicodedata.normalize("NFD", "ガイド"), unicodedata.normalize("NFC", "ガイド")
    with connected(database) as connection:
        connection.execute(text("INSERT INTO tenants (id, name, created_at) VALUES ('t', 't', '2026-01-01')"))
        connection.execute(
            text("INSERT INTO collections (id, tenant_id, name, created_at) VALUES ('c', 't', 'c', '2026-01-01')")
        )
        for document, groups in (("a", [taken_apart]), ("b", [taken_apart, whole])):
            connection.execute(
                text(
                    "INSERT INTO documents (id, tenant_id, collection_id, filename, status, metadata,"
                    " latest_generation, created_at, updated_at)"
                    " VALUES (:id, 't', 'c', 'x', 'ready', '{}', 1, '2026-01-01', '2026-01-01')"
                ),
                {"id": document},
            )
            for group in groups:
                values = {"document": document, "group": group}
                connection.execute(text("INSERT INTO document_groups VALUES (:document, :group)"), values)
    upgrade(database)
    with connected(database) as connection:
        rows = connection.execute(
            text("SELECT document_id, group_name FROM document_groups ORDER BY document_id")
        ).all()
    assert [tuple(row) for row in rows] == [("a", whole), ("b", whole)]
