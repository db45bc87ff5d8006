# ruff: noqa: F811 - fixtures of another file are named as arguments
"""Stored bytes read again with real parts: SQL, extraction, embedder, Qdrant Edge."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from core.access import Principal
from core.errors import Conflict, ExtractionFailed, Forbidden, NotFound
from core.tables import AuditEntry, DocumentGeneration, Job
from core.tables.base import utc_now
from core.types import ExtractedDocument, Scope
from ingest.reread import PRIORITY, Rereading
from ingest.validity import Validity
from tests.integration.test_ingest import Stack, embedder, groups, stack  # noqa: F401 - fixtures

PRICES = "品名,単価,納期\n水質計,64000円,三週間\n電極,3200円,翌日\n".encode("cp932")


@pytest.fixture
def earlier(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Until it is undone, extraction is that of a release whose tables were lines of ` | `."""
    sandbox = stack.ingest.pipeline.sandbox
    today = sandbox.extract

    def extract(*args: Any, **options: Any) -> ExtractedDocument:
        document = today(*args, **options)
        return replace(document, text=document.text.replace(": ", " | "), title="of old")

    patched = pytest.MonkeyPatch()
    patched.setattr(sandbox, "extract", extract)
    yield patched
    patched.undo()


def rereading(stack: Stack) -> Rereading:
    return stack.ingest.service.rereading


def text_of(stack: Stack, document_id: str) -> str:
    return stack.ingest.service.content(stack.principal, document_id, as_text=True).data.decode()


def test_old_text_serves_until_the_new_one_is_whole_and_what_people_said_stays(
    stack: Stack, earlier: pytest.MonkeyPatch
) -> None:
    said = Validity(date(2024, 4, 1), date(2025, 3, 31))
    accepted = stack.put(
        "価格.csv",
        PRICES,
        external_id="prices",
        groups=["sales"],
        metadata={"部署": "営業"},
        validity=said,
        encoding="cp932",
    )
    stack.work()
    old = stack.document(accepted)
    assert "単価 | 64000円" in text_of(stack, old.id)
    earlier.undo()
    (done,) = rereading(stack).these(stack.principal, [old.id, old.id], request_id="req_1")
    assert (done.under_way, done.job.priority, done.document.latest_generation) == (False, PRIORITY, 2)
    assert "単価 | 64000円" in text_of(stack, old.id) and stack.texts("水質計の単価")
    (again,) = rereading(stack).these(stack.principal, [old.id], request_id="req_2")
    assert again.under_way and again.job.id == done.job.id
    stack.work()
    new = stack.document(accepted)
    assert (new.status, new.active_generation, new.error) == ("ready", 2, None)
    assert "単価: 64000円" in text_of(stack, old.id) and "単価: 64000円" in stack.texts("水質計の単価")[0]
    kept = ("external_id", "filename", "metadata_", "valid_from", "valid_until", "validity_source")
    assert [getattr(new, name) for name in kept] == [getattr(old, name) for name in kept]
    assert groups(stack, accepted) == ("sales",)
    with stack.db.read() as session:
        (row,) = session.query(DocumentGeneration)
        entries = [(e.object_id, e.request_id) for e in session.query(AuditEntry) if e.action == "document.reread"]
    assert (row.generation, row.given_encoding, row.byte_size) == (2, "cp932", len(PRICES))
    assert entries == [(old.id, "req_1")]  # not the request that found it under way
    assert stack.put("価格.csv", PRICES, external_id="prices").unchanged  # of the same bytes still
    stack.assert_consistent()


def test_where_reading_fails_now_the_old_text_serves_and_the_next_try_reads(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = stack.put("価格.csv", PRICES)
    stack.work()

    def fails(*_: object, **__: object) -> None:
        raise ExtractionFailed("a sheet too many", code="too_many_sheets")

    with monkeypatch.context() as patched:
        patched.setattr(stack.ingest.pipeline.sandbox, "extract", fails)
        rereading(stack).these(stack.principal, [accepted.document.id], request_id=None)
        stack.work()
    document = stack.document(accepted)
    assert (document.status, document.active_generation, document.latest_generation) == ("ready", 1, 2)
    assert document.error is not None and document.error["code"] == "too_many_sheets"
    assert "64000円" in stack.texts("水質計の単価")[0]
    rereading(stack).these(stack.principal, [document.id], request_id=None)
    stack.work()
    document = stack.document(accepted)
    assert (document.error, document.active_generation) == (None, 3)
    stack.assert_consistent()


def test_a_replacement_that_failed_is_read_again_with_all_that_it_said(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = stack.put("価格.csv", PRICES, external_id="prices", groups=["sales", "board"])
    stack.work()

    def fails(*_: object, **__: object) -> None:
        raise ExtractionFailed("no such encoding then", code="encoding_mismatch")

    with monkeypatch.context() as patched:
        patched.setattr(stack.ingest.pipeline.sandbox, "extract", fails)
        newer = {"groups": ["board", "legal"], "metadata": {"年度": 2025}, "validity": Validity(date(2025, 4, 1))}
        stack.put("価格2.csv", PRICES.replace(b"64000", b"69000"), external_id="prices", **newer)
        stack.work()
    assert "64000円" in stack.texts("水質計の単価")[0] and groups(stack, accepted) == ("board",)
    rereading(stack).these(stack.principal, [accepted.document.id], request_id=None)
    assert groups(stack, accepted) == ("board",)
    stack.work()
    document = stack.document(accepted)
    assert "69000円" in stack.texts("水質計の単価")[0] and groups(stack, accepted) == ("board", "legal")
    assert (document.filename, document.metadata_, document.valid_from) == (
        "価格2.csv",
        {"年度": 2025},
        date(2025, 4, 1),
    )
    stack.assert_consistent()


def test_some_are_read_all_or_none_and_only_where_the_key_may(stack: Stack) -> None:
    mine = stack.put("a.csv", PRICES, groups=["sales"]).document.id
    theirs = stack.put("b.csv", PRICES, groups=["legal"]).document.id
    gone = stack.put("c.csv", PRICES).document.id
    stack.work()
    stack.ingest.service.delete(stack.principal, gone)
    tenant = stack.principal.tenant_id
    seller = Principal(tenant, "key_s", frozenset({Scope.INGEST}), frozenset({"sales"}))
    with pytest.raises(NotFound):
        rereading(stack).these(seller, [mine, theirs], request_id=None)
    with pytest.raises(Conflict) as caught:
        rereading(stack).these(stack.principal, [mine, gone], request_id=None)
    assert caught.value.code == "document_deleting"
    reader = replace(seller, scopes=frozenset({Scope.QUERY}))
    for refused in (
        lambda: rereading(stack).these(reader, [mine], request_id=None),
        lambda: rereading(stack).all(reader, limit=5),
    ):
        with pytest.raises(Forbidden):
            refused()
    with stack.db.read() as session:
        assert not [j for j in session.query(Job) if j.kind == "ingest" and j.status == "queued"]
    assert [one.document.id for one in rereading(stack).all(seller, limit=5).items] == [mine]


def test_all_are_read_a_page_at_a_time_and_once(stack: Stack) -> None:
    ids = {stack.put(f"{n}.csv", PRICES, collection="rooms" if n < 2 else "default").document.id for n in range(5)}
    stack.work()
    since = utc_now()
    stack.ingest.service.delete(stack.principal, max(ids))
    left = sorted(ids)[:-1]
    first = rereading(stack).all(stack.principal, limit=2, read_before=since)
    assert first.next_cursor is not None
    stack.work()
    second = rereading(stack).all(stack.principal, limit=2, after=first.next_cursor, read_before=since)
    assert second.next_cursor is None
    assert [one.document.id for one in [*first.items, *second.items]] == left
    stack.work()
    assert not rereading(stack).all(stack.principal, limit=9, read_before=since).items
    rooms = rereading(stack).all(stack.principal, limit=9, collection="rooms").items
    assert rooms and {one.document.collection_id for one in rooms} != {
        one.document.collection_id for one in rereading(stack).all(stack.principal, limit=9, collection="default").items
    }
    stack.work()
    stack.assert_consistent()
