"""Filters on metadata, asked of real databases: what is written with a document is found as docs/filters.md says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text

from core.database import Database
from core.migrate import upgrade
from core.tables import Collection, Document, DocumentValue
from core.tables.base import utc_now
from core.tenants import create_tenant
from core.types import AccessFilter
from retrieval.filters import matching_documents, parse_filters

CASES: list[tuple[Any, Any, bool]] = [
    ("sales", "sales", True),
    ("sales", "Sales", False),
    ("営業部", "営業部", True),
    ("ＫＳ－５０", "KS-50", True),
    (["hr", "sales"], "sales", True),
    (["hr"], ["it", "hr"], True),
    (7, 7, True),
    (7, "7", False),
    (1, True, False),
    (True, 1, False),
    (True, True, True),
    (None, None, True),
    (None, [], True),
    (None, "x", False),
    (["x", None], None, True),
    ("x", None, False),
    ({"gte": 2}, 2, True),
    ({"gt": 2}, 2, False),
    ({"gt": 1, "lt": 3}, [9, 2], True),
    ({"gt": 1}, True, False),
    ({"gt": 1}, "2", False),
    ({"gte": "2025-04-01"}, "2025年4月1日", True),
    ({"lte": "2025-03-31"}, "2025-03-31T15:00:00Z", True),
    ({"lt": "2025-03-31"}, "2025/3/31", False),
    ({"gt": "2025-03-31"}, "2025-03-31T23:59:59Z", False),
    ({"gt": "2025-03-31"}, "２０２５年４月１日", True),
    ({"gte": "2025-04-01T00:00:00+09:00"}, "2025-03-31T15:00:00Z", True),
    ({"gt": "2025-04-01T00:00:00+09:00"}, "2025-03-31T15:00:00Z", False),
    (7, [None, 7.0], True),
    (None, [None], False),
    (None, {"a": 1}, False),
    ({"gte": 1}, {"a": 1}, False),
    (2**60, 2**60 + 1, False),
    (0, -0.0, True),
    (1.5, 1.5, True),
    ({"lt": 10**400}, 3, True),
    ({"gt": 1}, 10**400, True),
    ("", "", True),
    ("x" * 400, "x" * 400, True),
    ({"gte": "2025-04-01"}, ["x", "2025-05-01"], True),
    ({"lt": "0001-01-02"}, "0001-01-01", True),
    *(({"gte": "2025-04-01"}, value, False) for value in (None, "some day", "2025-13-40", 20250401, [])),
    *(
        ({"gte": "2025-04-01", "missing": True}, value, True)
        for value in (None, "some day", "2025-13-40", 20250401, [])
    ),
    ({"gte": "2025-04-01", "missing": True}, "2025-03-01", False),
]
"""(condition, a document's value, whether it passes)."""


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest) -> Database:
    name = "database" if request.param == "sqlite" else "postgres_database"
    found: Database = request.getfixturevalue(name)
    return found


class Store:
    """Documents of one tenant, by their metadata."""

    def __init__(self, db: Database, name: str) -> None:
        self.db = db
        with db.write() as session:
            self.tenant_id = create_tenant(session, name).id
            query = select(Collection.id).where(Collection.tenant_id == self.tenant_id)
            self.collection_id = session.scalars(query).one()

    def add(self, metadata: dict[str, Any]) -> str:
        with self.db.write() as session:
            document = Document(
                tenant_id=self.tenant_id,
                collection_id=self.collection_id,
                filename="a",
                status="ready",
                metadata_=metadata,
            )
            session.add(document)
            session.flush()
            return document.id

    def change(self, document_id: str, metadata: dict[str, Any]) -> None:
        with self.db.write() as session:
            session.get_one(Document, document_id).metadata_ = metadata

    def find(self, filters: dict[str, Any], among: str | None = None) -> frozenset[str]:
        access = AccessFilter(self.tenant_id, None, document_ids=frozenset({among}) if among else None)
        with self.db.read() as session:
            return matching_documents(session, access, parse_filters(filters))


def test_a_condition_holds_as_written(db: Database) -> None:
    store = Store(db, "cases")
    wrong = []
    for condition, value, expected in CASES:
        document_id = store.add({"key": value, "other": "x"})
        found = bool(store.find({"key": condition}, among=document_id))
        both = bool(store.find({"key": condition, "other": "x"}, among=document_id))
        neither = bool(store.find({"key": condition, "other": "y"}, among=document_id))
        if (found, both, neither) != (expected, expected, False):
            wrong.append((condition, value, found, both, neither))
    assert not wrong


def test_values_follow_the_document(db: Database) -> None:
    store, others = Store(db, "ours"), Store(db, "theirs")
    first, second = store.add({"year": 2025, "tags": ["a", "b"]}), store.add({"year": 2026})
    others.add({"year": 2025})
    assert store.find({"year": 2025}) == {first}
    store.change(first, {"year": 2027})
    assert store.find({"year": 2025}) == frozenset() and store.find({"year": {"gt": 2025}}) == {first, second}
    assert store.find({"tags": None}) == {first, second}
    store.change(second, {})
    assert store.find({"year": [None, 2027]}) == {first, second}
    with db.write() as session:
        for document in session.scalars(select(Document)).all():
            session.delete(document)
    with db.read() as session:
        assert session.scalar(select(func.count()).select_from(DocumentValue)) == 0


def test_documents_of_an_earlier_release_are_found(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'old.db'}")
    upgrade(db, "0014")
    with db.write() as session:
        tenant_id, collection_id = "ten_old", "col_old"
        columns = {"name": "old", "created_at": utc_now()}  # of that release: the tables have more by now
        session.execute(
            text("INSERT INTO tenants (id, name, created_at) VALUES (:id, :name, :created_at)"),
            {"id": tenant_id} | columns,
        )
        session.execute(
            text("INSERT INTO collections (id, tenant_id, name, created_at) VALUES (:id, :tenant, :name, :created_at)"),
            {"id": collection_id, "tenant": tenant_id} | columns,
        )
        rows = [
            {"id": f"doc_{n:04}", "tenant_id": tenant_id, "collection_id": collection_id, "filename": "a",
             "status": "ready", "metadata": {"n": n}, "latest_generation": 1, "created_at": utc_now(),
             "updated_at": utc_now()}
            for n in range(2_500)
        ]  # fmt: skip
        session.execute(insert(Document.__table__), rows)
    upgrade(db)
    with db.read() as session:
        access = AccessFilter(tenant_id, None)
        for n in (0, 999, 1_000, 2_499):
            assert matching_documents(session, access, parse_filters({"n": n})) == {f"doc_{n:04}"}
        assert len(matching_documents(session, access, parse_filters({"n": {"gte": 0}}))) == 2_500
    db.close()
