"""Declarative base, id and time columns. SQLite drops time zones, so times are put back to UTC here."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, MetaData, String, TypeDecorator, text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from core.names import one_spelling

NAMING = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """Time-zone-aware UTC datetime on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times; store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give UTC back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Name(TypeDecorator[str]):
    """A name that people give, in one spelling: what is written and what is compared with it are both made so."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """In NFC."""
        return None if value is None else one_spelling(value)


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, datetime: UtcDateTime}  # noqa: RUF012


def only_where(condition: str) -> dict[str, Any]:
    """Options of an index that holds only some rows. Queries must say the same with the same literals to be helped."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """Opaque id such as `doc_018f...`: time-ordered enough for paging by (created_at, id)."""
    return f"{prefix}_{uuid.uuid4().hex}"


def id_column(prefix: str) -> Mapped[str]:
    """Primary key filled in by the application."""
    return mapped_column(String(48), primary_key=True, default=lambda: new_id(prefix))


def created_column() -> Mapped[datetime]:
    """Creation time."""
    return mapped_column(UtcDateTime, default=utc_now, index=True)
