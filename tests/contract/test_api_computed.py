"""Computed answers over real documents, through HTTP: all rows of a long table, cited, without the model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import select

from core.access import Principal, access_filter
from core.database import Database
from core.settings import Settings
from core.tables import Answer
from core.types import Scope
from generation.answer import AnswerService, Stamp
from retrieval.document_text import DocumentTexts
from tests.api_app import Api
from tests.contract.test_api_answers import events_of
from tests.contract.test_api_retrieval import Service, opened

ROWS = [(f"HM-{n:03}", "六角ナット" if n % 2 else "平座金", 100 + (n * 37) % 400) for n in range(180)]
STOCK = "品番,品名,在庫数,仕入先\n" + "".join(
    f"{code},{name},{count},{'中原鋼業' if n % 9 == 4 else '大和商会'}\n" for n, (code, name, count) in enumerate(ROWS)
)
LEAST = min(ROWS, key=lambda row: row[2])


@pytest.fixture
def service(api: Api, settings: Settings, database: Database) -> Iterator[Service]:
    with opened(api, settings, database) as made:
        services = api.services
        generation = services.settings.generation.model_copy(update={"compose": "evidence"})
        services.answers = AnswerService(
            database,
            services.searcher,
            api.engine,  # type: ignore[arg-type]
            services.router,
            settings.model_copy(update={"generation": generation}),
            stamp=Stamp("iv", "minilm"),
            texts=DocumentTexts(database, services.blobs),
        )
        yield made


def test_all_rows_of_a_long_table_are_read_and_the_model_is_not_asked(service: Service) -> None:
    document = service.put("部品在庫.csv", STOCK)
    answer = service.client.post("/v1/ask", json={"question": "部品在庫で在庫数が一番少ない品番は？"}).json()
    assert LEAST[0] in answer["answer"] and str(LEAST[2]) in answer["answer"]
    assert (answer["provenance"]["answered_by"], answer["provenance"]["operation"]) == ("computed", "extreme")
    assert "model" not in answer["provenance"] and not service.api.engine.requests
    assert not answer["refused"] and answer["confidence"] > 0.8
    text = service.text(document)
    (citation,) = answer["citations"]
    assert text[citation["start"] : citation["end"]] == citation["quote"] and citation["verified"]
    assert LEAST[0] in citation["quote"] and answer["evidence"][0]["quote"] == citation["quote"]
    with service.api.database.read() as session:
        stored = session.scalars(select(Answer)).one()
    assert stored.arm is None and stored.provenance["operation"] == "extreme" and stored.passages


def test_of_many_rows_the_first_are_cited_and_all_are_counted(service: Service) -> None:
    service.put("部品在庫.csv", STOCK)
    answer = service.client.post("/v1/ask", json={"question": "仕入先が中原鋼業の品番は何件ありますか"}).json()
    assert answer["answer"].startswith("20件") and len(answer["citations"]) == 8
    total = sum(row[2] for at, row in enumerate(ROWS) if at % 9 == 4)
    answer = service.client.post("/v1/ask", json={"question": "中原鋼業の在庫数の合計は？"}).json()
    assert answer["answer"].replace(",", "").startswith(f"{total}（")


def test_a_stream_says_the_same(service: Service) -> None:
    service.put("部品在庫.csv", STOCK)
    body = {"question": "部品在庫で在庫数が一番少ない品番は？"}
    whole = service.client.post("/v1/ask", json=body).json()
    events = events_of(service.client.post("/v1/ask", json={**body, "stream": True}).text)
    assert "".join(data["text"] for event, data in events if event == "token") == whole["answer"]
    assert [event for event, _ in events][-1] == "done" and events[-1][1]["provenance"]["answered_by"] == "computed"


def test_only_tables_that_the_caller_may_read_are_read(service: Service) -> None:
    service.put("部品在庫.csv", STOCK, groups='["warehouse"]')
    question = {"question": "部品在庫で在庫数が一番少ない品番は？"}
    other = service.api.client(service.api.key("query", groups=["sales"]))
    answer = other.post("/v1/ask", json=question).json()
    assert answer["refused"] and LEAST[0] not in str(answer)
    own = service.api.client(service.api.key("query", groups=["warehouse"]))
    assert LEAST[0] in own.post("/v1/ask", json=question).json()["answer"]


def test_a_text_is_read_only_of_what_serves(service: Service, database: Database) -> None:
    service.put("部品在庫.csv", STOCK, groups='["warehouse"]')
    tenant = service.api.tenant.id
    allowed = access_filter(Principal(tenant, "k", frozenset({Scope.QUERY}), frozenset({"warehouse"})))
    denied = access_filter(Principal(tenant, "k", frozenset({Scope.QUERY}), frozenset({"sales"})))
    texts = DocumentTexts(database, service.api.services.blobs)
    (passage, *_) = service.api.services.searcher.search("在庫数", allowed, 5).passages
    read = texts.read(allowed, passage)
    assert read is not None and all(row[0] in read.text for row in ROWS)
    assert texts.read(denied, passage) is None
    service.client.delete(f"/v1/documents/{passage.document_id}")
    assert texts.read(allowed, passage) is None


def test_formats_of_their_own_are_the_models(service: Service) -> None:
    service.put("部品在庫.csv", STOCK)
    body = {"question": "部品在庫で在庫数が一番少ない品番は？", "response_format": {"type": "json_object"}}
    answer = service.client.post("/v1/ask", json=body).json()
    assert "answered_by" not in answer["provenance"] and service.api.engine.requests
