# ruff: noqa: F811 - fixtures of another file are named as arguments
"""PATCH of a document and deletion of a collection with real parts: SQL, extraction, embedder, Qdrant Edge."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

import ingest.pipeline
from core.access import Principal, access_filter
from core.database import Database
from core.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from core.tables import AuditEntry, Collection, Document, Job
from core.types import AccessFilter, Scope
from ingest.update import DocumentChange
from ingest.upload import Upload
from ingest.validity import Validity
from tests.integration.test_ingest import Stack, embedder, stack  # noqa: F401 - fixtures

RATES = "# 貸会議室 料金表\n\n2024年4月1日より適用\n\n中会議室は一時間二千円です。"


def reader(stack: Stack, *groups: str, scopes: frozenset[Scope] = frozenset({Scope.QUERY})) -> Principal:
    return Principal(stack.principal.tenant_id, "key_reader", scopes, frozenset(groups))


def index_finds(stack: Stack, access: AccessFilter) -> int:
    """Hits of the index alone, before SQL prunes them."""
    vector = stack.retrieval.lexical.encode_query("中会議室の料金")
    return len(stack.retrieval.index.search_sparse(vector, access, 5))


def test_groups_are_in_force_at_once_for_those_who_lose_and_those_who_gain(stack: Stack) -> None:
    document = stack.put("料金表.md", RATES, groups=["sales"]).document
    stack.work()
    sales, legal = reader(stack, "sales"), reader(stack, "legal")
    assert stack.texts("中会議室の料金", sales) and not stack.texts("中会議室の料金", legal)
    stack.ingest.service.updates.update(stack.principal, document.id, DocumentChange(groups=["legal"]))
    # No job has run: this process reaches the index.
    assert not stack.texts("中会議室の料金", sales) and stack.texts("中会議室の料金", legal)
    assert index_finds(stack, access_filter(legal)) and not index_finds(stack, access_filter(sales))
    stack.work()
    assert stack.texts("中会議室の料金", legal)
    stack.assert_consistent()


def test_a_lost_reader_sees_nothing_while_the_index_is_away_and_the_job_mends_it(
    stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = stack.put("料金表.md", RATES, groups=["sales"]).document
    stack.work()

    def away(*_: object, **__: object) -> None:
        raise Unavailable("the index is away", code="index_unreachable")

    with monkeypatch.context() as patched:
        patched.setattr(type(stack.retrieval.index), "set_access", away)
        stack.ingest.service.updates.update(stack.principal, document.id, DocumentChange(groups=["legal"]))
    assert index_finds(stack, access_filter(reader(stack, "sales")))  # the index still says so; SQL does not
    assert not stack.texts("中会議室の料金", reader(stack, "sales"))
    stack.work()
    assert stack.texts("中会議室の料金", reader(stack, "legal"))


def test_a_move_reaches_searches_of_both_collections(stack: Stack) -> None:
    document = stack.put("料金表.md", RATES).document
    stack.work()
    moved = stack.ingest.service.updates.update(stack.principal, document.id, DocumentChange(collection="rooms"))
    with stack.db.read() as session:
        ids = {one.name: one.id for one in session.query(Collection)}
    assert moved.collection_id == ids["rooms"]
    for name, hits in (("rooms", 1), ("default", 0)):
        access = access_filter(stack.principal, collection_id=ids[name])
        assert len(stack.retrieval.searcher.search("中会議室の料金", access, 5).passages) == hits


@pytest.mark.parametrize("before", ["points", "switch"])
def test_a_change_during_a_replacement_holds_after_it(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    document = stack.put("料金表.md", RATES, external_id="rates", groups=["sales"]).document
    stack.work()
    stack.put("料金表.md", RATES + "\n\n大会議室は一時間四千円です。", external_id="rates")
    owner, name = (ingest.pipeline, "find_edition") if before == "points" else (stack.ingest.pipeline, "_switch")
    real = getattr(owner, name)

    def changed_first(*arguments: Any, **named: Any) -> Any:
        change = DocumentChange(groups=["legal"], collection="rooms", valid_from=date(2024, 10, 1))
        stack.ingest.service.updates.update(stack.principal, document.id, change)
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, changed_first)
    for job in stack.jobs.list(stack.principal.tenant_id).items:
        if job.status == "queued":
            stack._run(job.id)  # not the job that carries the access: this attempt mends what it wrote
    after = stack.ingest.service.get(stack.principal, document.id)
    assert (after.active_generation, after.valid_from, after.validity_source) == (2, date(2024, 10, 1), "given")
    legal = reader(stack, "legal")
    assert any("四千円" in text for text in stack.texts("大会議室の料金", legal))
    assert index_finds(stack, access_filter(legal, collection_id=after.collection_id))
    assert not stack.texts("大会議室の料金", reader(stack, "sales"))


def test_validity_is_found_given_kept_and_found_again(stack: Stack) -> None:
    document = stack.put("料金表_2024年度.md", RATES).document
    stack.work()

    def seen() -> tuple[date | None, date | None, str | None]:
        row = stack.ingest.service.get(stack.principal, document.id)
        return row.valid_from, row.valid_until, row.validity_source

    assert seen() == (date(2024, 4, 1), None, "found")
    passage = stack.retrieval.searcher.search("中会議室の料金", access_filter(stack.principal), 1).passages[0]
    assert passage.edition is not None and passage.edition.family == "料金表"
    assert (passage.edition.valid_from, passage.edition.name) == (date(2024, 4, 1), "2024年度")
    update = stack.ingest.service.updates.update
    update(stack.principal, document.id, DocumentChange(valid_until=date(2025, 3, 31)))
    assert seen() == (date(2024, 4, 1), date(2025, 3, 31), "given")
    update(stack.principal, document.id, DocumentChange(valid_from=None))
    assert seen() == (None, date(2025, 3, 31), "given")
    update(stack.principal, document.id, DocumentChange(found_validity=True))
    assert seen() == (date(2024, 4, 1), None, "found")
    with pytest.raises(InvalidInput, match="before valid_from"):
        update(stack.principal, document.id, DocumentChange(valid_until=date(2020, 1, 1)))
    assert seen() == (date(2024, 4, 1), None, "found")


def test_what_an_upload_says_holds_over_what_is_found(stack: Stack) -> None:
    said = Validity(date(2023, 1, 1), date(2023, 12, 31), "old-rates")
    document = stack.put("料金表.md", RATES, external_id="rates", validity=said).document
    assert (document.valid_from, document.supersedes) == (date(2023, 1, 1), "old-rates")
    stack.work()
    stack.put("料金表.md", RATES + "\n\n変更あり。", external_id="rates")
    stack.work()
    row = stack.ingest.service.get(stack.principal, document.id)
    assert (row.valid_from, row.valid_until, row.supersedes) == (date(2023, 1, 1), date(2023, 12, 31), "old-rates")
    again = Upload("料金表.md", (RATES + "\n\n変更あり。").encode(), "rates", validity=Validity(date(2024, 1, 1)))
    (same,) = stack.ingest.service.accept(stack.principal, [again])
    row = stack.ingest.service.get(stack.principal, document.id)
    assert not same.unchanged and (row.valid_from, row.valid_until) == (date(2024, 1, 1), None)


def test_who_may_change_what(stack: Stack) -> None:
    document = stack.put("料金表.md", RATES, groups=["sales", "board"]).document
    update = stack.ingest.service.updates.update
    writer = reader(stack, "sales", scopes=frozenset({Scope.INGEST}))
    with pytest.raises(Forbidden):
        update(reader(stack, "sales"), document.id, DocumentChange(metadata={}))
    with pytest.raises(NotFound):
        update(reader(stack, "legal", scopes=frozenset({Scope.INGEST})), document.id, DocumentChange(metadata={}))
    with pytest.raises(Forbidden, match="legal"):
        update(writer, document.id, DocumentChange(groups=["sales", "legal"]))
    update(writer, document.id, DocumentChange(groups=["sales", "board"]))  # what it has may stay
    update(writer, document.id, DocumentChange(groups=["sales"]))
    with pytest.raises(Forbidden, match="board"):
        update(writer, document.id, DocumentChange(groups=["sales", "board"]))
    for wrong in (document.id, "doc_unknown"):
        with pytest.raises(InvalidInput):
            update(writer, document.id, DocumentChange(supersedes=wrong))
    with stack.db.read() as session:
        entries = [e for e in session.query(AuditEntry) if e.action == "document.update"]
    assert [sorted(e.detail["groups"]["after"]) for e in entries] == [["board", "sales"], ["sales"]]


def test_a_name_taken_in_the_new_collection_is_refused(stack: Stack) -> None:
    document = stack.put("料金表.md", RATES, external_id="rates").document
    stack.put("料金表.md", RATES, external_id="rates", collection="rooms")
    with pytest.raises(Conflict) as caught:
        stack.ingest.service.updates.update(stack.principal, document.id, DocumentChange(collection="rooms"))
    assert caught.value.code == "external_id_taken"


def test_a_deleted_collection_is_invisible_at_once_and_its_name_is_free(stack: Stack) -> None:
    kept = stack.put("残る.md", "小会議室は無料です。").document
    for number in range(3):
        stack.put(f"{number}.md", f"{RATES}\n\n{number}号室", collection="rooms")
    stack.work()
    blobs = stack.blob_count()
    collections = stack.ingest.service.collections
    name, job = collections.delete(stack.principal, "rooms")
    assert name == "rooms" and job.kind == "collection"
    assert not any("二千円" in text for text in stack.texts("中会議室の料金"))
    stack.put("新.md", "中会議室は改装中です。", collection="rooms")
    stack.work()
    with stack.db.read() as session:
        assert {d.filename for d in session.query(Document)} == {"残る.md", "新.md"}
        assert sorted(c.name for c in session.query(Collection)) == ["default", "rooms"]
        assert session.query(Job).filter(Job.status != "succeeded").count() == 0
        assert session.query(AuditEntry).filter(AuditEntry.action == "document.delete").count() == 3
    assert stack.blob_count() < blobs
    assert stack.ingest.service.get(stack.principal, kept.id).status == "ready"
    stack.assert_consistent()


def test_two_editions_that_say_the_same_are_both_found_and_two_copies_are_not(stack: Stack) -> None:
    for name in ("案内_2023年度.md", "案内_2024年度.md"):
        stack.put(name, "小会議室の利用は予約制で、総務の予約表に記入してから使います。")
    for name in ("写し.md", "原本.md"):
        stack.put(name, "駐車場の利用は許可制で、守衛室で札を受け取ってから停めます。")
    stack.work()
    assert {"案内_2023年度.md", "案内_2024年度.md"} <= set(stack.files("小会議室の予約"))
    assert len({"写し.md", "原本.md"} & set(stack.files("駐車場の許可"))) == 1


def test_siblings_are_those_that_the_caller_may_read(stack: Stack, database: Database) -> None:
    from retrieval.editions import edition_of, siblings_of

    old = stack.put("料金表_2023年度.md", "中会議室は千円です。").document
    new = stack.put("料金表_2024年度.md", RATES, groups=["sales"]).document
    stack.put("料金表_2025年度.md", RATES + "別", collection="rooms")
    renamed = stack.put("Rooms.md", "Rooms cost more.", validity=Validity(supersedes=old.id)).document
    stack.work()
    with database.read() as session:
        edition = edition_of(session.get_one(Document, old.id))
        everything = siblings_of(session, access_filter(stack.principal), [edition])
        public = siblings_of(session, access_filter(reader(stack)), [edition])
    assert {one.document_id for one in everything[old.id]} == {new.id, renamed.id}
    result = stack.retrieval.searcher.search("中会議室は千円です", access_filter(stack.principal), 3)
    assert result.siblings[old.id] == everything[old.id]
    assert {one.document_id for one in public[old.id]} == {renamed.id}
