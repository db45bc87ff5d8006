"""The composition of an answer, over hand-written fakes of search, engine and routing, and a real database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.access import Principal
from core.database import Database
from core.editions import DocumentEdition
from core.errors import InvalidInput, NotFound
from core.settings import GenerationSettings, RetrievalSettings, Settings
from core.tables import Answer, Base, Collection, Document, DocumentGroup, Tenant
from core.types import (
    AccessFilter,
    AdapterRef,
    GenerationRequest,
    GenerationResult,
    Message,
    Passage,
    Scope,
)
from generation.adapters.routing import Route
from generation.answer import BELOW_THRESHOLD, NO_PASSAGES, NOT_IN_PASSAGES, AnswerService, AskOptions, Stamp


@dataclass
class FakeResult:
    passages: Sequence[Passage]
    refusal_threshold: float = 0.3
    index_version: str = ""
    embedder: str = ""
    timings_ms: dict[str, float] = field(default_factory=dict)
    siblings: dict[str, Sequence[DocumentEdition]] = field(default_factory=dict)
    bridge: None = None


@dataclass
class FakeSearch:
    passages: list[Passage]
    seen: list[AccessFilter] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)

    def search(self, query: str, access: AccessFilter, limit: int, *, expand_tokens: int | None = None) -> FakeResult:
        self.seen.append(access)
        self.queries.append(query)
        return FakeResult(self.passages[:limit])


@dataclass
class FakeHandle:
    pieces: list[str]
    adapter: AdapterRef | None
    cancelled: bool = False

    def __iter__(self) -> Iterator[str]:
        for piece in self.pieces:
            if self.cancelled:
                return
            yield piece

    def cancel(self) -> None:
        self.cancelled = True

    def result(self) -> GenerationResult:
        return GenerationResult("".join(self.pieces), "cancelled" if self.cancelled else "stop", 7, 3, self.adapter)


@dataclass
class FakeEngine:
    pieces: list[str]
    base_model: str = "fake-base"
    requests: list[GenerationRequest] = field(default_factory=list)

    def submit(self, request: GenerationRequest) -> FakeHandle:
        self.requests.append(request)
        return FakeHandle(self.pieces, request.adapter)

    def ensure_adapter(self, adapter: AdapterRef) -> None: ...

    def retire_adapter(self, adapter: AdapterRef) -> None: ...

    def loaded_adapters(self) -> Sequence[str]:
        return ()

    def count_prompt_tokens(self, messages: Sequence[object]) -> int:
        return len(messages)

    def ping(self) -> str:
        return "fake"

    def close(self) -> None: ...


@dataclass
class FakeRouting:
    adapter: AdapterRef | None = None

    def route(
        self, principal: Principal, model: str | None, conversation_id: str | None, **_drawn_by: str | None
    ) -> Route:
        return Route(self.adapter)


def passage(text: str, relevance: float = 0.9) -> Passage:
    return Passage("c", "doc_1", 1, "f.txt", 2, None, 50, 50 + len(text), text, 1.0, relevance)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/t.sqlite3")
    Base.metadata.create_all(database.engine)
    with database.write() as session:
        session.add_all([Tenant(id="t1", name="t1"), Tenant(id="t2", name="t2")])
        session.flush()
        session.add(Collection(id="col", tenant_id="t1", name="default"))
        session.flush()
        session.add(Document(id="doc_1", tenant_id="t1", collection_id="col", filename="f.txt", status="ready"))
        session.flush()
        session.add(DocumentGroup(document_id="doc_1", group_name="sales"))
    yield database
    database.close()


def asker(tenant: str = "t1") -> Principal:
    return Principal(tenant, "key_1", frozenset({Scope.QUERY}), frozenset({"sales"}))


def service(db: Database, search: FakeSearch, engine: FakeEngine, adapter: AdapterRef | None = None) -> AnswerService:
    settings = Settings(retrieval=RetrievalSettings(passages=3), generation=GenerationSettings(compose="model"))
    return AnswerService(db, search, engine, FakeRouting(adapter), settings, stamp=Stamp("iv1", "minilm"))


def test_tokens_add_up_to_the_trimmed_answer_and_it_is_stored_with_its_stamp(db: Database) -> None:
    engine = FakeEngine([" \n", "22 ", "days", " [1]", " \n"])
    adapter = AdapterRef("house", "v3", "d" * 64, "/nowhere")
    answers = service(db, FakeSearch([passage("Staff have 22 days of leave.")]), engine, adapter)
    stream = answers.ask(asker(), "How many days?")
    events = list(stream)
    text = "".join(event.text or "" for event in events if event.kind == "token")
    record = stream.final()
    assert text == record.answer == "22 days [1]"
    assert [event.kind for event in events if event.kind != "token"] == ["meta", "citation", "done"]
    assert record.provenance["adapter"] == "house@v3"
    assert record.citations[0].start == 50
    with db.read() as session:
        row = session.get(Answer, record.id)
        assert row is not None
        assert (row.answer, row.groups) == ("22 days [1]", ["sales"])
        assert row.provenance["adapter_digest"] == "d" * 64


@pytest.mark.parametrize(("passages", "reason"), [([], NO_PASSAGES), ([passage("x", 0.1)], BELOW_THRESHOLD)])
def test_refusal_comes_before_the_model(db: Database, passages: list[Passage], reason: str) -> None:
    engine = FakeEngine(["never"])
    record = service(db, FakeSearch(passages), engine).ask(asker(), "社長の年収はいくらですか。").final()
    assert engine.requests == []
    assert (record.refused, record.refusal_reason) == (True, reason)
    assert record.answer == "資料には見つかりませんでした。"
    assert record.citations == ()


def test_model_may_refuse_in_house_style(db: Database) -> None:
    engine = FakeEngine(["Happy to help! I could not find this in the documents. Anything else?"])
    record = service(db, FakeSearch([passage("Other.")]), engine).ask(asker(), "Why?").final()
    assert (record.refused, record.refusal_reason) == (True, NOT_IN_PASSAGES)


def test_the_search_sees_the_callers_groups_and_history_reaches_the_prompt(db: Database) -> None:
    search, engine = FakeSearch([passage("A fact.")]), FakeEngine(["A fact [1]"])
    history = (Message("user", "Before?"), Message("assistant", "Yes."))
    service(db, search, engine).ask(asker(), "And now?", AskOptions(history=history)).final()
    assert search.seen[0].groups == {"sales", "*"}
    assert [message.content for message in engine.requests[0].messages[1:3]] == ["Before?", "Yes."]


def test_a_follow_up_is_searched_with_what_the_same_key_asked_before(db: Database) -> None:
    search = FakeSearch([passage("A fact.")])
    answers = service(db, search, FakeEngine(["A fact [1]"]))
    talk = AskOptions(conversation_id="c1")
    answers.ask(asker(), "What is the daily allowance in Tokyo?", talk).final()
    answers.ask(asker(), "And in Osaka?", talk).final()
    answers.ask(Principal("t1", "key_2", frozenset({Scope.QUERY}), frozenset()), "And in Kyoto?", talk).final()
    answers.ask(asker(), "Who approves business trips to other countries?", talk).final()
    assert search.queries == [
        "What is the daily allowance in Tokyo?",
        "What is the daily allowance in Tokyo? And in Osaka?",
        "And in Kyoto?",
        "Who approves business trips to other countries?",
    ]


def test_bad_questions_and_unknown_names(db: Database) -> None:
    answers = service(db, FakeSearch([]), FakeEngine([]))
    with pytest.raises(InvalidInput) as empty:
        answers.ask(asker(), " \n ")
    assert empty.value.code == "empty_question"
    with pytest.raises(NotFound):
        answers.ask(asker(), "Hi?", AskOptions(collection="nope"))


def test_cancelled_answer_ends_early(db: Database) -> None:
    stream = service(db, FakeSearch([passage("A fact.")]), FakeEngine(["A ", "fact", " [1]"])).ask(asker(), "Q?")
    for event in stream:
        if event.kind == "token":
            stream.cancel()
    assert stream.final().finish_reason == "cancelled"


def test_feedback_belongs_to_the_tenant_of_the_answer(db: Database) -> None:
    answers = service(db, FakeSearch([passage("A fact.")]), FakeEngine(["A fact [1]"]))
    record = answers.ask(asker(), "Q?").final()
    assert answers.feedback(asker(), record.id, rating="up").rating == "up"
    with pytest.raises(NotFound):
        answers.feedback(asker("t2"), record.id, rating="down")


@dataclass
class FixedRouting:
    to: Route

    def route(
        self, principal: Principal, model: str | None, conversation_id: str | None, **_drawn_by: str | None
    ) -> Route:
        return self.to


HOUSE = AdapterRef("house", "v3", "d" * 64, "/nowhere")
ROW = "品番: QR-77B | 品名: 送風機 | 単価: 8,400円"
PROSE = (
    "送風機QR-77Bの単価は、令和七年の改定で部材と輸送の費用が上がったことを受けて、それまでの7,900円から"
    "8,400円に改められ、同年四月一日の出荷分から適用されている。"
)


@pytest.mark.parametrize(
    ("text", "route", "asked"),
    [
        (ROW, Route(None), False),
        (ROW, Route(HOUSE, "v"), True),
        (ROW, Route(None, arm="champion"), True),
        (ROW, Route(None, shadow=HOUSE), True),
        (PROSE, Route(None), True),
    ],
    ids=["row", "adapter", "arm", "shadow", "prose"],
)
def test_the_model_is_asked_only_where_its_words_could_be_given_or_are_measured(
    db: Database, text: str, route: Route, asked: bool
) -> None:
    engine = FakeEngine(["存じません。"])
    settings = Settings(retrieval=RetrievalSettings(passages=3), generation=GenerationSettings(compose="evidence"))
    answers = AnswerService(
        db, FakeSearch([passage(text)]), engine, FixedRouting(route), settings, stamp=Stamp("iv1", "minilm")
    )
    record = answers.ask(asker(), "QR-77Bの単価はいくらですか").final()
    assert bool(engine.requests) is asked
    assert "8,400円" in record.answer and not record.refused
    assert record.provenance["answered_by"] == "line" and ("model" in record.provenance) is asked
    with db.read() as session:
        stored = session.get(Answer, record.id)
        assert stored is not None and stored.arm == (route.arm if asked else None)
