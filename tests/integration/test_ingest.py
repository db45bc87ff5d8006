"""The write side with real parts: SQLite, the extraction process, MiniLM, Qdrant Edge."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

import ingest.pipeline
import ingest.points
from core.access import Principal, access_filter
from core.blobs import FolderBlobStore
from core.database import Database
from core.errors import Cancelled, Conflict, InvalidInput, NotFound, TsumugiError
from core.jobs import JobStore
from core.repositories.documents import groups_of, point_id
from core.settings import Settings
from core.tables import AuditEntry, ChunkRow, Document, DocumentGeneration, Job, Tenant
from core.types import DocumentStatus, IndexPoint, Scope
from ingest.accept import Accepted, IngestService
from ingest.build import Ingest, build_ingest
from ingest.upload import Upload, clean_filename
from ingest.vectors import passage_vectors
from retrieval.build import build_retrieval
from retrieval.embedders.minilm import MiniLmEmbedder
from retrieval.live import Retrieval
from retrieval.reconcile import reconcile
from tests.locked_files import PASSWORD, locked_word
from workers.base import run_job


@pytest.fixture(scope="module")
def embedder() -> MiniLmEmbedder:
    return MiniLmEmbedder()


@dataclass
class Stack:
    """One process's worth of ingest, with the worker turned by hand."""

    db: Database
    jobs: JobStore
    blobs: FolderBlobStore
    retrieval: Retrieval
    ingest: Ingest
    principal: Principal

    def put(self, filename: str, text: str | bytes, principal: Principal | None = None, **more: object) -> Accepted:
        data = text.encode() if isinstance(text, str) else text
        (accepted,) = self.ingest.service.accept(principal or self.principal, [Upload(filename, data, **more)])  # type: ignore[arg-type]
        return accepted

    def work(self) -> None:
        """Run every queued job, oldest first."""
        while True:
            with self.db.read() as session:
                ids = [j.id for j in session.query(Job).filter(Job.status == "queued").order_by(Job.created_at)]
            if not ids:
                return
            for job_id in ids:
                self._run(job_id)

    def run(self, accepted: Accepted) -> None:
        """Run the job of one upload or deletion."""
        assert accepted.job is not None
        self._run(accepted.job.id)

    def _run(self, job_id: str) -> None:
        job = self.jobs.get(job_id, self.principal.tenant_id)
        pipeline = self.ingest.pipeline
        tasks = {"ingest": pipeline.run, "delete": pipeline.delete, "access": pipeline.bring_access}
        run_job(self.jobs, job_id, tasks.get(job.kind, pipeline.delete_collection))

    def document(self, accepted: Accepted) -> Document:
        return self.ingest.service.get(self.principal, accepted.document.id)

    def texts(self, query: str, principal: Principal | None = None) -> list[str]:
        result = self.retrieval.searcher.search(query, access_filter(principal or self.principal), 5)
        return [passage.text for passage in result.passages]

    def files(self, query: str) -> list[str]:
        result = self.retrieval.searcher.search(query, access_filter(self.principal), 5)
        return [passage.filename for passage in result.passages]

    def blob_count(self) -> int:
        return sum(path.is_file() for path in self.blobs.path_of("0" * 64).parent.parent.rglob("*"))

    def assert_consistent(self) -> None:
        """Points in the index are the chunks in SQL, and all of both belong to active generations."""
        with self.db.read() as session:
            chunks = {(c.id, c.document_id, c.generation) for c in session.query(ChunkRow)}
            active = {d.id: d.active_generation for d in session.query(Document)}
        assert {(p.id, p.document_id, p.generation) for p in self.retrieval.index.scan()} == chunks
        assert all(generation == active[document_id] for _, document_id, generation in chunks)
        assert reconcile(self.db, self.retrieval, repair=False).clean


@pytest.fixture
def stack(database: Database, settings: Settings, tenant: Tenant, embedder: MiniLmEmbedder) -> Iterator[Stack]:
    jobs = JobStore(database, settings, None)
    blobs = FolderBlobStore(settings.blobs_dir)
    retrieval = build_retrieval(settings, database, embedder=embedder)
    ingest = build_ingest(settings, database, blobs, jobs, retrieval)
    principal = Principal(tenant.id, "key_admin", frozenset({Scope.ADMIN}), frozenset())
    yield Stack(database, jobs, blobs, retrieval, ingest, principal)
    ingest.close()
    retrieval.close()


def groups(stack: Stack, accepted: Accepted) -> tuple[str, ...]:
    with stack.db.read() as session:
        return groups_of(session, accepted.document.id)


def test_upload_becomes_searchable(stack: Stack) -> None:
    english = stack.put(
        "leave.md", "# Leave\n\nEvery employee has 15 days of annual leave.\n\n## Sickness\n\nTen days."
    )
    japanese = stack.put("旅費.txt", "旅費規程\n\n日当は国内出張の場合、一日につき三千円とする。")
    stack.work()
    for accepted in (english, japanese):
        document = stack.document(accepted)
        assert (document.status, document.active_generation, document.error) == (DocumentStatus.READY, 1, None)
    assert "15 days" in stack.texts("How many days of annual leave?")[0]
    assert "三千円" in stack.texts("出張の日当はいくらですか")[0]


def test_same_bytes_again_are_unchanged_and_a_twin_in_other_groups_is_not(stack: Stack) -> None:
    first = stack.put("a.md", "alpha text")
    again = stack.put("a.md", "alpha text")
    assert again.unchanged and again.document.id == first.document.id and again.job is not None
    stack.work()
    done = stack.put("a.md", "alpha text")
    assert done.unchanged and done.job is None
    assert stack.put("b.md", "alpha text").document.id != first.document.id
    assert stack.put("a.md", "alpha text", collection="other").document.id != first.document.id
    secret = stack.put("a.md", "alpha text", groups=["hr"])
    assert not secret.unchanged and secret.document.id != first.document.id


def test_a_caller_never_learns_of_a_twin_he_cannot_see(stack: Stack) -> None:
    hidden = stack.put("salary.md", "salaries", groups=["hr"])
    outsider = Principal(stack.principal.tenant_id, "key_2", frozenset({Scope.INGEST}), frozenset({"sales"}))
    own = stack.put("salary.md", "salaries", outsider)
    assert own.document.id != hidden.document.id and not own.unchanged
    stack.put("x.md", "one", groups=["hr"], external_id="X")
    with pytest.raises(Conflict) as caught:
        stack.put("x.md", "two", outsider, external_id="X")
    assert caught.value.code == "external_id_taken"
    with pytest.raises(NotFound):
        stack.ingest.service.get(outsider, hidden.document.id)
    with pytest.raises(NotFound):
        stack.ingest.service.delete(outsider, hidden.document.id)
    assert stack.document(hidden).status == DocumentStatus.QUEUED


def test_replacing_switches_in_one_step_and_leaves_nothing_old(stack: Stack) -> None:
    first = stack.put("price.md", "The fee is 500 yen.", external_id="price")
    stack.work()
    second = stack.put("price.md", "The fee is 800 yen.", external_id="price")
    assert second.document.id == first.document.id and second.document.latest_generation == 2
    assert stack.texts("What is the fee?") == ["The fee is 500 yen."]  # the old one serves until the switch
    stack.work()
    assert stack.texts("What is the fee?") == ["The fee is 800 yen."]
    assert stack.document(second).active_generation == 2
    stack.assert_consistent()
    with stack.db.read() as session:
        assert session.query(DocumentGeneration.generation).all() == [(2,)]
    assert stack.blob_count() == 1  # the second: its source is its text, byte for byte


def test_newest_upload_wins_whatever_order_the_jobs_run_in(stack: Stack) -> None:
    uploads = [stack.put("p.md", f"The fee is {fee} yen.", external_id="p") for fee in (1, 2, 3)]
    for accepted in (uploads[2], uploads[0], uploads[1]):
        stack.run(accepted)
    assert {stack.jobs.get(a.job.id, stack.principal.tenant_id).status for a in uploads} == {"succeeded"}
    assert stack.texts("What is the fee?") == ["The fee is 3 yen."]
    assert stack.document(uploads[0]).active_generation == 3
    stack.assert_consistent()


def test_uploads_of_one_external_id_at_once_make_one_document(stack: Stack) -> None:
    with ThreadPoolExecutor(6) as pool:
        accepted = list(
            pool.map(lambda n: stack.put("r.md", f"number {n}", external_id="race", collection="new"), range(6))
        )
    assert len({item.document.id for item in accepted}) == 1
    stack.work()
    document = stack.document(accepted[0])
    assert (document.status, document.active_generation, document.latest_generation) == ("ready", 6, 6)
    stack.assert_consistent()


def test_a_failing_replacement_leaves_the_old_version_serving(stack: Stack) -> None:
    first = stack.put("m.md", "The mascot is a crane.", external_id="m")
    stack.work()
    stack.put("m.pdf", b"%PDF-1.7 broken", external_id="m")
    stack.work()
    document = stack.document(first)
    assert (document.status, document.active_generation) == (DocumentStatus.READY, 1)
    assert document.error is not None and document.error["code"] == "broken_pdf"
    assert stack.texts("What is the mascot?") == ["The mascot is a crane."]
    stack.put("m.md", "The mascot is a heron.", external_id="m")
    stack.work()
    assert stack.document(first).error is None
    assert stack.texts("What is the mascot?") == ["The mascot is a heron."]
    stack.assert_consistent()


def test_a_file_that_cannot_be_read_fails_alone_with_its_code(stack: Stack) -> None:
    bad = stack.put("scan.pdf", b"PK\x03\x04 not a pdf")
    good = stack.put("ok.txt", "The door code is 4711.")
    stack.work()
    failed = stack.document(bad)
    assert failed.status == DocumentStatus.FAILED
    assert failed.error is not None and (failed.error["code"], failed.error["retryable"]) == ("not_a_pdf", False)
    assert stack.document(good).status == DocumentStatus.READY
    again = stack.put("scan.pdf", b"PK\x03\x04 not a pdf")
    assert again.unchanged and again.document.id == bad.document.id
    assert stack.ingest.service.content(stack.principal, bad.document.id).data == b"PK\x03\x04 not a pdf"


def test_narrower_groups_hold_at_once_and_wider_ones_from_the_switch(stack: Stack) -> None:
    hr, sales = (
        Principal(stack.principal.tenant_id, f"key_{name}", frozenset({Scope.QUERY}), frozenset({name}))
        for name in ("hr", "sales")
    )
    stack.put("g.md", "The secret word is heron.", external_id="g", groups=["hr"])
    stack.work()
    question = "What is the secret word?"
    assert stack.texts(question, hr) and not stack.texts(question, sales)
    moved = stack.put("g.md", "The public word is crane.", external_id="g", groups=["sales"])
    assert not stack.texts(question, hr) and not stack.texts(question, sales)
    stack.work()
    assert not stack.texts(question, hr)
    assert stack.texts(question, sales) == ["The public word is crane."]
    stack.put("g.md", "The public word is crane.", external_id="g", groups=["hr", "sales"])  # same bytes, other groups
    stack.work()
    assert stack.texts(question, hr) == stack.texts(question, sales) == ["The public word is crane."]
    stack.put("g.md", "The public word is wren.", external_id="g")  # says nothing of groups: they stay
    stack.work()
    assert groups(stack, moved) == ("hr", "sales")


def test_metadata_alone_changes_without_a_job(stack: Stack) -> None:
    first = stack.put("meta.md", "text", external_id="meta", metadata={"year": 2025})
    stack.work()
    changed = stack.put("meta.md", "text", external_id="meta", metadata={"year": 2026})
    assert not changed.unchanged and changed.job is None
    assert stack.document(first).metadata_ == {"year": 2026}


def test_delete_is_invisible_at_once_and_complete_in_the_end(stack: Stack) -> None:
    kept = stack.put("kept.md", "The kettle is blue.")
    gone = stack.put("gone.md", "The kettle is red.")
    stack.put("copy.md", "The kettle is red.")  # names the same source blob
    stack.work()
    deleted = stack.ingest.service.delete(stack.principal, gone.document.id)
    assert stack.texts("What colour is the kettle?") and "gone.md" not in stack.files("What colour is the kettle?")
    assert stack.document(gone).status == DocumentStatus.DELETING
    with pytest.raises(NotFound):
        stack.ingest.service.content(stack.principal, gone.document.id)
    twice = stack.ingest.service.delete(stack.principal, gone.document.id)
    assert twice.job is not None and deleted.job is not None and twice.job.id == deleted.job.id
    stack.work()
    with pytest.raises(NotFound):
        stack.document(gone)
    assert stack.retrieval.index.count(document_id=gone.document.id) == 0
    assert {"kept.md", "copy.md"} == set(stack.files("What colour is the kettle?"))
    assert stack.blobs.exists(hashlib.sha256(b"The kettle is red.").hexdigest())
    for name in (kept, stack.put("copy.md", "The kettle is red.")):
        stack.ingest.service.delete(stack.principal, name.document.id)
    stack.work()
    assert stack.blob_count() == 0 and stack.retrieval.index.count() == 0
    with stack.db.read() as session:
        assert "document.delete" in {entry.action for entry in session.query(AuditEntry)}


def test_a_delete_in_the_middle_of_an_ingest_leaves_nothing(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = stack.put("big.md", "\n\n".join(f"# Part {n}\n\nParagraph number {n}." for n in range(150)))
    index = stack.retrieval.index
    upsert, calls = index.upsert, []

    def delete_between_windows(points: Sequence[IndexPoint]) -> None:
        upsert(points)
        calls.append(len(points))
        if len(calls) == 1:
            stack.run(stack.ingest.service.delete(stack.principal, accepted.document.id))
            upsert(points)  # a write that was already under way lands after the deletion

    monkeypatch.setattr(index, "upsert", delete_between_windows)
    monkeypatch.setattr("ingest.pipeline._LOOK_AGAIN_S", 0.0)
    stack.run(accepted)
    assert len(calls) == 1
    assert index.count() == 0 and stack.blob_count() == 0
    with stack.db.read() as session:
        assert session.query(Document).count() == session.query(ChunkRow).count() == 0


def test_a_late_write_of_an_overtaken_attempt_leaves_no_stray_points(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = stack.put("o.md", "\n\n".join(f"# Part {n}\n\nOld paragraph {n}." for n in range(150)), external_id="o")
    index = stack.retrieval.index
    upsert, calls = index.upsert, []

    def replace_between_windows(points: Sequence[IndexPoint]) -> None:
        calls.append(len(points))
        if len(calls) == 1:
            stack.run(stack.put("o.md", "The new paragraph.", external_id="o"))
        upsert(points)

    monkeypatch.setattr(index, "upsert", replace_between_windows)
    monkeypatch.setattr("ingest.pipeline._LOOK_AGAIN_S", 0.0)
    stack.run(old)
    assert len(calls) == 2  # a window of the old one, inside of it the whole new one; then the old attempt gave up
    assert (stack.document(old).active_generation, index.count()) == (2, 1)
    stack.assert_consistent()


def test_a_mended_point_is_what_ingest_wrote(stack: Stack) -> None:
    stack.put("leave.txt", "Staff have 22 days of leave. Unused days expire in March. Ask your manager first.")
    stack.put("休暇.txt", "有給休暇は12日です。未消化の休暇は翌年度まで繰り越せます。")
    stack.work()
    index, everything = stack.retrieval.index, access_filter(stack.principal)
    query = stack.retrieval.embedder.encode_query("Do unused days expire?").tolist()
    ids = [point.id for point in index.scan()]

    def scores() -> list[dict[str, float]]:
        lexical = stack.retrieval.lexical.encode_query("休暇 leave")
        return [
            index.score_dense(query, ids, everything),
            index.score_sentences(query, ids, everything),
            index.score_sparse(lexical, ids, everything),
        ]

    before = scores()
    assert [len(found) for found in before] == [1, 1, 2]  # MiniLM knows no Japanese: no dense vector there
    index.delete_points(ids)
    assert len(reconcile(stack.db, stack.retrieval, repair=True, embed=passage_vectors).missing) == 2
    for mine, theirs in zip(scores(), before, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


STOPS = ["insert_chunks", "upsert", "flush_soon", "set_groups", "delete_document", "drop_other_generations"]


@pytest.mark.parametrize("stop", STOPS)
def test_an_attempt_cut_off_anywhere_is_completed_by_the_next(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    """A worker that dies at any write leaves a state from which the next attempt ends as if nothing had happened."""

    class Died(BaseException):
        pass

    stack.put("c.md", "The river is wide.", external_id="c")
    stack.work()
    accepted = stack.put("c.md", "# River\n\nThe river is narrow.\n\n# Lake\n\nThe lake is deep.", external_id="c")
    lease = stack.jobs.claim(accepted.job.id, "doomed")
    assert lease is not None
    index_calls = {"upsert", "flush_soon", "delete_document"}
    module = ingest.points if stop == "insert_chunks" else ingest.pipeline
    target = stack.retrieval.index if stop in index_calls else module
    real = getattr(target, stop)

    def die_after(*args: object, **more: object) -> None:
        real(*args, **more)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(target, stop, die_after)
        with pytest.raises(Died):
            stack.ingest.pipeline.run(lease)
    assert len(stack.texts("How wide is the river?")) > 0  # one version or the other, never none
    assert stack.jobs.recover_orphans() == 1
    stack.work()
    document = stack.document(accepted)
    assert (document.status, document.active_generation) == (DocumentStatus.READY, 2)
    assert "narrow" in stack.texts("How wide is the river?")[0]
    stack.assert_consistent()


def test_a_cancelled_ingest_takes_back_what_it_wrote(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = stack.put("k.md", "The bridge is closed.")
    flush = stack.retrieval.index.flush_soon

    def cancel_then_flush() -> None:
        monkeypatch.setattr(stack.retrieval.index, "flush_soon", flush)
        flush()
        raise Cancelled("cancelled")

    monkeypatch.setattr(stack.retrieval.index, "flush_soon", cancel_then_flush)
    stack.run(accepted)
    document = stack.document(accepted)
    assert document.status == DocumentStatus.FAILED
    assert document.error is not None and (document.error["code"], document.error["retryable"]) == ("cancelled", True)
    assert stack.retrieval.index.count() == 0
    stack.put("k.md", "The bridge is closed.")  # the same bytes again: tried again, no second document
    stack.work()
    assert stack.document(accepted).status == DocumentStatus.READY
    stack.assert_consistent()


def test_chunks_and_text_agree_and_chunks_page(stack: Stack) -> None:
    source = "\n\n".join(f"# 第{n}章\n\n本文その{n}。" for n in range(7))
    accepted = stack.put("p.md", source)
    stack.work()
    service = stack.ingest.service
    text = service.content(stack.principal, accepted.document.id, as_text=True).data.decode()
    seen: list[ChunkRow] = []
    cursor = None
    while True:
        page = service.chunks(stack.principal, accepted.document.id, limit=3, cursor=cursor)
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert [chunk.ordinal for chunk in seen] == list(range(7))
    assert all(chunk.text == text[chunk.start : chunk.end] for chunk in seen)
    assert all(chunk.id == point_id(accepted.document.id, 1, chunk.ordinal, chunk.chunk_set) for chunk in seen)
    with pytest.raises(InvalidInput):
        service.chunks(stack.principal, accepted.document.id, cursor="nonsense")


@pytest.mark.parametrize(
    ("upload", "code"),
    [
        (Upload("a.txt", b""), "empty_file"),
        (Upload("../..", b"x"), "invalid_filename"),
        (Upload("a.txt", b"x" * 2000), "too_large"),
        (Upload("a.txt", b"x", groups=["\x00"]), "invalid_groups"),
        (Upload("a.txt", b"x", metadata={"a": float("nan")}), "invalid_metadata"),
        (Upload("a.txt", b"x", collection="/etc"), "invalid_collection"),
        (Upload("a.txt", b"x", external_id="x" * 600), "invalid_external_id"),
    ],
)
def test_bad_uploads_are_refused_whole(
    database: Database, settings: Settings, tenant: Tenant, upload: Upload, code: str
) -> None:
    limited = settings.model_copy(update={"http": settings.http.model_copy(update={"max_upload_bytes": 1000})})
    blobs = FolderBlobStore(settings.blobs_dir)
    service = IngestService(database, blobs, JobStore(database, limited, None), limited)
    principal = Principal(tenant.id, "key_1", frozenset({Scope.INGEST}), frozenset())
    with pytest.raises(TsumugiError) as caught:
        service.accept(principal, [Upload("good.txt", b"good"), upload])
    assert caught.value.code == code
    with database.read() as session:
        assert session.query(Document).count() == 0
    assert not [path for path in settings.blobs_dir.rglob("*") if path.is_file()]


def test_filenames_are_cleaned() -> None:
    assert clean_filename("C:\\temp\\か\u3099.pdf") == "が.pdf"
    assert clean_filename("../../etc/passwd") == "passwd"
    assert clean_filename("a\u202egpj.exe\n") == "agpj.exe"
    assert len(clean_filename("x" * 400 + ".pdf")) == 255 and clean_filename("x" * 400 + ".pdf").endswith(".pdf")


def test_the_encoding_given_is_used_each_time_the_bytes_are_read(stack: Stack) -> None:
    data = "ﾃﾞｰﾀの一覧です。".encode("cp932")
    read = stack.put("a.txt", data, encoding="shift_jis")
    wrong = stack.put("b.txt", data, encoding="utf-8")
    stack.work()
    with stack.db.read() as session:
        first = session.get_one(DocumentGeneration, (read.document.id, 1))
    assert (first.encoding, first.given_encoding) == ("cp932", "cp932")
    assert "encoding_guessed" not in first.quality
    failed = stack.document(wrong)
    assert failed.error is not None and failed.error["code"] == "encoding_mismatch"
    again = stack.put("a.txt", data, groups=["hr"], external_id=None)
    assert again.document.id != read.document.id
    with stack.db.read() as session:
        assert session.get_one(DocumentGeneration, (again.document.id, 1)).given_encoding is None


def test_a_locked_file_is_searched_after_its_password_is_gone(stack: Stack) -> None:
    accepted = stack.put("旅費.docx", locked_word("日当は三千円です。"), password=PASSWORD)
    stack.work()
    assert stack.document(accepted).status == DocumentStatus.READY
    assert "三千円" in stack.texts("日当はいくらですか")[0]
