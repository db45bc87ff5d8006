"""Rows of all tables as JSON lines, written from one snapshot and read into an empty schema of the same revision.

The schema is asked from the database, not taken from the code, so that a backup of an older revision can be loaded as
it is and migrated afterwards. JSON columns travel as the text they are stored as: SQL's NULL and JSON's null stay two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Engine,
    MetaData,
    Table,
    Text,
    cast,
    func,
    insert,
    select,
    table,
    text,
)
from sqlalchemy import column as plain_column
from sqlalchemy.exc import SQLAlchemyError

from cli.backup.card import TableEntry
from core.database import Database, ReadSession
from core.errors import InvalidInput
from core.migrate import connected
from core.tables.base import UtcDateTime

T = TypeVar("T")

BATCH = 500
VERSION_TABLE = "alembic_version"
TRANSIENT = frozenset({"gpu_leases"})
"""What only running processes mean something by; their rows stay behind."""


def schema_of(bind: Engine | Connection) -> MetaData:
    """Tables of a database as they are."""
    found = MetaData()
    found.reflect(bind)
    if VERSION_TABLE in found.tables:
        found.remove(found.tables[VERSION_TABLE])
    return found


def dump_rows(session: ReadSession, folder: Path) -> dict[str, TableEntry]:
    """Write `NAME.jsonl` for each table, one array a row, in the snapshot of the session."""
    tables = {}
    for source in schema_of(session.connection()).sorted_tables:
        columns = list(source.columns)
        query = select(*(_exported(one) for one in columns)).order_by(*source.primary_key.columns)
        count = 0
        with (folder / f"{source.name}.jsonl").open("w", encoding="utf-8") as file:
            if source.name not in TRANSIENT:
                for row in session.execute(query.execution_options(yield_per=BATCH)):
                    file.write(json.dumps([_plain(value) for value in row], ensure_ascii=False) + "\n")
                    count += 1
        tables[source.name] = TableEntry(columns=[one.name for one in columns], rows=count)
    return tables


def check_schema(tables: Mapping[str, TableEntry], schema: MetaData) -> None:
    """Refuse a backup whose tables are not those of its revision.

    Raises:
        InvalidInput: `backup_schema_unknown`.
    """
    wanted = {one.name: sorted(column.name for column in one.columns) for one in schema.sorted_tables}
    for name, entry in tables.items():
        if name not in wanted:
            raise InvalidInput(f"the backup holds a table '{name[:63]}' that is none", code="backup_schema_unknown")
        if sorted(entry.columns) != wanted[name]:
            raise InvalidInput(f"the columns of table '{name}' are not those of it", code="backup_schema_unknown")
    if set(wanted) - set(tables):
        raise InvalidInput(f"the backup lacks {sorted(set(wanted) - set(tables))}", code="backup_schema_unknown")


def load_rows(db: Database, tables: Mapping[str, TableEntry], folder: Path) -> int:
    """Load all tables in one transaction, parents first; returns how many rows.

    Raises:
        InvalidInput: `backup_rows_refused`: the database takes a row not; nothing was loaded.
    """
    loaded = 0
    try:
        with connected(db) as connection:
            for target in schema_of(connection).sorted_tables:
                entry = tables[target.name]
                count = _load(connection, target, entry, folder / f"{target.name}.jsonl")
                if count != entry.rows:
                    raise InvalidInput(
                        f"table '{target.name}' has {count} of {entry.rows} rows", code="backup_rows_refused"
                    )
                loaded += count
                if not db.is_sqlite:
                    _advance_sequences(connection, target)
    except (SQLAlchemyError, ValueError, TypeError, RuntimeError) as error:  # RuntimeError: rows that point nowhere
        reason = str(error).splitlines()[0][:300]
        raise InvalidInput(f"the database refuses the rows: {reason}", code="backup_rows_refused") from error
    return loaded


def filled_tables(db: Database) -> list[str]:
    """Tables that hold a row."""
    with db.engine.connect() as connection:
        return [
            one.name
            for one in schema_of(connection).sorted_tables
            if connection.execute(select(text("1")).select_from(one).limit(1)).first() is not None
        ]


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` items, in order."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _load(connection: Connection, target: Table, entry: TableEntry, path: Path) -> int:
    # A light table: the reflected one knows no time zones, and defaults must not fill what was null.
    kinds = [_bound(target.columns[name]) for name in entry.columns]
    light = table(target.name, *(plain_column(name, kind) for name, kind in zip(entry.columns, kinds, strict=True)))
    count = 0
    for rows in in_batches(_read(path, len(kinds)), BATCH):
        values = [
            {name: _value(value, kind) for name, value, kind in zip(entry.columns, row, kinds, strict=True)}
            for row in rows
        ]
        connection.execute(insert(light), values)
        count += len(values)
    return count


def _read(path: Path, width: int) -> Iterator[Sequence[Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if not isinstance(row, list) or len(row) != width:
                raise ValueError(f"a row of {path.name} has not {width} values")
            yield row


def _exported(one: Column[Any]) -> Any:
    return cast(one, Text) if isinstance(one.type, JSON) else one


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    return value.isoformat() if isinstance(value, date) else value


def _bound(one: Column[Any]) -> Any:
    if isinstance(one.type, JSON):
        return JSON(none_as_null=True)
    return UtcDateTime() if isinstance(one.type, DateTime) else one.type


def _value(value: Any, kind: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, JSON):
        found = json.loads(value)
        return JSON.NULL if found is None else found
    if isinstance(kind, UtcDateTime):
        return datetime.fromisoformat(value)
    if isinstance(kind, Date):
        return date.fromisoformat(value)
    return bool(value) if isinstance(kind, Boolean) else value


def _advance_sequences(connection: Connection, target: Table) -> None:
    """Rows came with their numbers, so a sequence behind a column has not moved."""
    for one in target.columns:
        name = connection.scalar(
            text("SELECT pg_get_serial_sequence(:table, :column)"),
            {"table": f'"{target.name}"', "column": one.name},
        )
        if name is not None:
            newest = connection.scalar(select(func.coalesce(func.max(one), 0))) or 0
            connection.execute(text("SELECT setval(:name, :next, false)"), {"name": name, "next": newest + 1})
