"""Search and answers over real documents, through HTTP: ingest, Edge and MiniLM are real, the generator is not."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from benchmarks.m3_checkpoint import make_checkpoint
from client import Tsumugi
from core.database import Database
from core.errors import ExtractionFailed
from core.ports import Embedder, Reranker
from core.settings import EmbeddingSettings, RerankSettings, Settings
from core.tables.jobs import Job
from generation.answer import AnswerService, Stamp
from ingest.build import Ingest, build_ingest
from retrieval.build import build_retrieval
from retrieval.embedders.bge_m3 import BgeM3Embedder
from retrieval.live import Retrieval
from retrieval.rerank import MultiVectorReranker
from retrieval.text import name_words
from tests.api_app import Api, serve
from tests.integration import test_rerank
from tests.retrieval_corpus import minilm
from tests.scans import picture, scanned_pdf
from tests.unit.test_extract import pdf
from tests.unit.test_page_images import table_pdf
from workers.base import run_job

HANDBOOK = """# 就業規則

前文である。この規則は全社員に適用する。

## 休暇

年次有給休暇は一年目に十二日を与える。付与は入社から六か月後である。申請は三営業日前までに上長へ行う。

病気のときは当日の朝に電話で連絡すればよい。診断書は三日を超えて休むときだけ必要である。

慶弔休暇は五日を上限とし、有給とする。届け出は総務部が受け付ける。

## 経費

出張の日当は一日三千円である。領収書は三十日以内に提出する。
"""


@dataclass
class Service:
    """The application with real retrieval behind it, and its worker turned by hand."""

    api: Api
    client: TestClient
    ingest: Ingest

    def put(self, filename: str, data: str | bytes, **form: str) -> str:
        """Upload and ingest one document; returns its id."""
        raw = data.encode() if isinstance(data, str) else data
        answer = self.client.post("/v1/documents", files={"file": (filename, raw)}, data=form)
        assert answer.status_code == 202, answer.text
        with self.api.database.read() as session:
            queued = [job.id for job in session.query(Job).filter(Job.status == "queued")]
        for job_id in queued:
            run_job(self.api.services.jobs, job_id, self.ingest.pipeline.run)
        document: dict[str, Any] = answer.json()["items"][0]["document"]
        assert self.client.get(f"/v1/documents/{document['id']}").json()["status"] == "ready"
        return str(document["id"])

    def search(self, query: str, **options: Any) -> list[dict[str, Any]]:
        answer = self.client.post("/v1/search", json={"query": query, **options})
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def text(self, document_id: str) -> str:
        return self.client.get(f"/v1/documents/{document_id}/content", params={"as": "text"}).text


@contextmanager
def opened(api: Api, settings: Settings, database: Database, embedder: Embedder | None = None) -> Iterator[Service]:
    """The application over what the settings name, with small chunks: a section of a handbook is several of them."""
    small = settings.model_copy(
        update={"ingest": settings.ingest.model_copy(update={"chunk_tokens": 40, "chunk_chars_cjk": 60})}
    )
    retrieval: Retrieval = build_retrieval(small, database, embedder=embedder or minilm())
    ingest = build_ingest(small, database, api.services.blobs, api.services.jobs, retrieval)
    services = api.services
    services.searcher, services.ingest = retrieval.searcher, ingest.service
    services.answers = AnswerService(
        database,
        retrieval.searcher,
        api.engine,  # type: ignore[arg-type]
        services.router,
        settings.model_copy(update={"generation": api.services.settings.generation}),
        stamp=Stamp("iv", "minilm"),
    )
    with api.client() as client:
        yield Service(api, client, ingest)
    ingest.close()
    retrieval.close()


@pytest.fixture
def service(api: Api, settings: Settings, database: Database) -> Iterator[Service]:
    with opened(api, settings, database) as made:
        yield made


RULES = (
    "The night porter locks the main gate at ten and hands the keys to the guard.",
    "Visitors sign the book at the gate before they are let in by the porter.",
    "The guard rings the bell twice when the gate is opened at night for a doctor.",
    "Keys of the main gate are kept in the office, in the second drawer of the desk.",
)


def check_second_stage(service: Service, reranker: Reranker) -> None:
    """What the route answers is in the order, and has the scores, of the stage asked by itself."""
    for number, text in enumerate(RULES):
        service.put(f"rule{number}.txt", text)
    query = "Who keeps the keys of the gate at night?"
    answer = service.client.post("/v1/search", json={"query": query, "limit": 4}).json()
    items = answer["items"]
    assert answer["timings_ms"]["rerank"] > 0 and len(items) == 4
    expected = reranker.score(query, [f"{name_words(item['filename'])}\n{item['text']}" for item in items])
    assert [item["score"] for item in items] == pytest.approx(expected, abs=2e-3)
    assert expected == sorted(expected, reverse=True) and expected[0] - expected[-1] > 1e-3


def test_a_cross_encoder_orders_what_the_route_answers(
    api: Api, settings: Settings, database: Database, tmp_path: Path
) -> None:
    folder = test_rerank.make_checkpoint(tmp_path / "tiny")
    chosen = RerankSettings(model=str(folder), dtype="float32", device="cpu", max_tokens=64)
    with opened(api, settings.model_copy(update={"rerank": chosen}), database) as service:
        check_second_stage(service, test_rerank.open_reranker(folder))


def test_token_vectors_order_what_the_route_answers(
    api: Api, settings: Settings, database: Database, tmp_path: Path
) -> None:
    folder = make_checkpoint(
        tmp_path / "m3", hidden=32, layers=1, heads=2, vocabulary=300, corpus=[*RULES, HANDBOOK], tokens=300
    )
    embedder = BgeM3Embedder(str(folder), device="cpu", dtype="float32")
    chosen = {
        "retrieval": settings.retrieval.model_copy(update={"embedder": "bge-m3"}),
        "embedding": EmbeddingSettings(model=str(folder), device="cpu", dtype="float32"),
        "rerank": RerankSettings(multi_vector=True),
    }
    with opened(api, settings.model_copy(update=chosen), database, embedder) as service:
        check_second_stage(service, MultiVectorReranker(embedder, cache_bytes=0))


def test_a_hit_grows_to_its_section_and_no_further(service: Service) -> None:
    document = service.put("規則.md", HANDBOOK)
    text = service.text(document)
    (plain, *_) = service.search("有給休暇は何日ですか", limit=1)
    (grown, *_) = service.search("有給休暇は何日ですか", limit=1, expand_tokens=400)
    assert plain["hit_start"] is None and plain["text"] == text[plain["start"] : plain["end"]]
    assert (grown["hit_start"], grown["hit_end"]) == (plain["start"], plain["end"])
    assert grown["chunk_id"] == plain["chunk_id"] and grown["relevance"] == plain["relevance"]
    assert grown["text"] == text[grown["start"] : grown["end"]], "offsets are those of the document"
    assert grown["text"].startswith("休暇") and grown["text"].endswith("総務部が受け付ける。")
    assert "前文" not in grown["text"] and "日当" not in grown["text"], "the sections around it stay out"


def test_growth_keeps_its_budget_and_takes_no_text_twice(service: Service) -> None:
    lines = [f"Rule {n}: every visitor of building {n} signs the book at the gate {n}." for n in range(60)]
    document = service.put("rules.txt", "\n\n".join(lines))
    text = service.text(document)
    ungrown = service.search("Which visitors sign the book at the gate?", limit=5)
    for budget in (1, 120, 4096):
        items = service.search("Which visitors sign the book at the gate?", limit=5, expand_tokens=budget)
        spans = sorted((item["start"], item["end"]) for item in items)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans)), "no overlap"
        assert all(item["text"] == text[item["start"] : item["end"]] for item in items)
        if budget == 1:
            assert [item["text"] for item in items] == [item["text"] for item in ungrown]
            assert all(item["hit_start"] is None for item in items)
        if budget == 120:
            count = minilm().count_tokens
            assert all(count(item["text"]) <= 130 for item in items) and any(item["hit_start"] for item in items)
            assert len(items) == 5
        if budget == 4096:
            assert len(items) == 1 and items[0]["text"] == text.strip(), "all hits lie in one section"


def test_answers_read_the_section_and_cite_the_page_of_the_quote(service: Service) -> None:
    filler = [(72, 600, 12, "Boats longer than twelve metres need a pilot, called over channel nine in good time.")]
    page_one = [(72, 700, 12, "The harbour office opens at nine on every weekday of the year.")]
    page_two = [(72, 700, 12, "Permits for the harbour cost 40 euros and are valid for one year.")]
    document = service.put("harbour.pdf", pdf([page_one + filler, page_two]))
    text = service.text(document)
    service.api.engine.pieces = ("Permits for the harbour cost 40 euros [1].",)
    answers = {}
    for budget in (0, 400):
        body = {"question": "When does the harbour office open?", "expand_tokens": budget}
        answers[budget] = service.client.post("/v1/ask", json=body).json()
    shown = service.api.engine.requests[-1].messages[-1].content
    assert "opens at nine" in shown and "40 euros" in shown
    (citation,) = answers[400]["citations"]
    assert citation["verified"] and citation["quote"] == text[citation["start"] : citation["end"]]
    assert "40 euros" in citation["quote"] and citation["page"] == 2


def test_what_does_not_fit_the_prompt_is_cut_back_to_what_was_found(service: Service, settings: Settings) -> None:
    service.put("rules.txt", "\n\n".join(f"The visitors of building {n} sign the book." for n in range(80)))
    answers = service.api.services.answers
    narrow = settings.generation.model_copy(update={"context_tokens": 700, "max_tokens": 32})
    answers._settings = settings.model_copy(update={"generation": narrow})
    body = {"question": "Which visitors sign the book?", "expand_tokens": 4096}
    assert service.client.post("/v1/ask", json=body).status_code == 200
    request = service.api.engine.requests[-1]
    assert service.api.engine.count_prompt_tokens(request.messages) + request.max_tokens <= 700


def test_the_client_asks_for_sections(service: Service) -> None:
    service.put("規則.md", HANDBOOK)
    with serve(service.api.app) as url, Tsumugi(url, service.api.admin) as tsumugi:
        (passage,) = tsumugi.search("有給休暇は何日ですか", limit=1, expand_tokens=400)
        assert passage.hit_start is not None and passage.hit_end is not None
        assert passage.start < passage.hit_start or passage.end > passage.hit_end
        assert tsumugi.ask("有給休暇は何日ですか", expand_tokens=400).answer


def test_near_copies_are_collapsed_filters_narrow_and_diversity_spreads(service: Service) -> None:
    base = "The main gate closes at 22:00 on weekdays, and at 18:00 on Saturdays and holidays."
    service.put("gate.txt", base, metadata='{"site": "north"}')
    copy = service.put("gate copy.txt", base + " ", metadata='{"site": "south"}')
    service.put("lift.txt", "The lift of the main building stops at midnight, and starts again at 05:00.")
    found = service.search("When does the main gate close?", limit=5)
    assert sum("main gate closes" in item["text"] for item in found) == 1
    (only,) = service.search("When does the main gate close?", filters={"site": "south"})
    assert only["document_id"] == copy
    assert service.search("When does the main gate close?", filters={"site": "west"}) == []
    for number in range(3):
        service.put(
            f"gate{number}.txt", f"The main gate {number} closes at 2{number}:00. Ring at gate {number} after that."
        )
    plain = [item["filename"] for item in service.search("When does the main gate close?", limit=3)]
    spread = [item["filename"] for item in service.search("When does the main gate close?", limit=3, diversity=0.9)]
    assert plain[0] == spread[0] and plain != spread
    assert "lift.txt" in spread and "lift.txt" not in plain


def test_a_scan_waits_in_the_failed_inbox_until_there_is_an_engine(service: Service) -> None:
    sandbox = service.ingest.pipeline.sandbox
    read, missing = sandbox.extract, True

    def extract(data: bytes, filename: str, **options: Any) -> Any:
        if missing:  # what the child says on a machine without an engine: tests/unit/test_extract.py
            raise ExtractionFailed("no OCR engine", code="no_text_layer", retryable=True)
        return read(b"The scan says that the gate opens at six.", "scan.txt", **options)

    sandbox.extract = extract  # type: ignore[method-assign]
    answer = service.client.post("/v1/documents", files={"file": ("scan.pdf", scanned_pdf([picture(("Scan",))]))})
    document, job = (answer.json()["items"][0][name]["id"] for name in ("document", "job"))
    for _ in range(service.api.services.settings.ingest.max_attempts):
        with service.api.database.write() as session:
            session.get_one(Job, job).not_before = None  # the back-off has passed
        run_job(service.api.services.jobs, job, service.ingest.pipeline.run)
    (failed,) = service.client.get("/v1/documents", params={"code": "no_text_layer", "retryable": True}).json()["items"]
    assert (failed["id"], failed["status"]) == (document, "failed")
    missing = False
    retried = service.client.post("/v1/jobs/retry", params={"code": "no_text_layer"}).json()["items"]
    assert [item["id"] for item in retried] == [job]
    run_job(service.api.services.jobs, job, service.ingest.pipeline.run)
    assert service.search("When does the gate open?")[0]["document_id"] == document


def test_a_page_of_a_pdf_is_shown_with_the_span_marked_to_who_may_read_it(service: Service) -> None:
    document = service.put("rooms.pdf", table_pdf(), groups='["hr"]')
    text = service.client.get(f"/v1/documents/{document}/content", params={"as": "text"}).text
    start = text.index("1,200")
    url = f"/v1/documents/{document}/pages/1"
    answer = service.client.get(url, params={"highlight": f"{start}-{start + 5}"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    (box,) = answer.headers["x-highlight-boxes"].split(";")
    shown = Image.open(io.BytesIO(answer.content))
    x0, y0, x1, y1 = map(int, box.split(","))
    corner = shown.convert("RGB").getpixel((x0, y0))
    assert 0 <= x0 < x1 <= shown.width and 0 <= y0 < y1 <= shown.height
    assert isinstance(corner, tuple) and corner[2] < 100
    assert service.client.get(url).headers["x-highlight-boxes"] == ""
    tag = answer.headers["etag"]
    again = service.client.get(url, params={"highlight": f"{start}-{start + 5}"}, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    for groups, status in [((), 404), (("sales",), 404), (("hr",), 200)]:
        reader = service.api.client(service.api.key("query", groups=groups))
        assert reader.get(url).status_code == status
        assert reader.get(url, headers={"If-None-Match": tag}).status_code == status, "not even by its tag"


@pytest.mark.parametrize("span", ["5", "a-b", "9-3", "3-3", "0-999999", "-1-4", "1-2-3"])
def test_a_highlight_that_is_no_span_of_the_text_is_refused(service: Service, span: str) -> None:
    document = service.put("rooms.pdf", table_pdf())
    answer = service.client.get(f"/v1/documents/{document}/pages/1", params={"highlight": span})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_highlight")


def test_pages_that_are_not_there(service: Service) -> None:
    document, note = service.put("rooms.pdf", table_pdf()), service.put("note.txt", "The gate opens at six.")
    for url, code in [
        (f"/v1/documents/{document}/pages/2", "no_such_page"),
        (f"/v1/documents/{document}/pages/0", "no_such_page"),
        (f"/v1/documents/{note}/pages/1", "no_pages"),
        ("/v1/documents/doc_none/pages/1", "not_found"),
    ]:
        answer = service.client.get(url)
        assert (answer.status_code, answer.json()["code"]) == (404, code)
