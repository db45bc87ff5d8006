"""Search over ten documents: real database, real Edge index, real MiniLM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import select, update

from core.database import Database
from core.errors import InvalidInput
from core.settings import Settings
from core.tables import Calibration, Document, IndexVersion, Tenant, TenantDictionary
from core.tables.base import utc_now
from core.types import AccessFilter, Language
from retrieval import search as search_module
from retrieval.build import build_retrieval
from retrieval.calibrate import CalibrationQuestion, calibrate
from retrieval.live import Retrieval
from retrieval.reconcile import reconcile
from retrieval.relevance import load_model, parse_model, shipped_parameters
from retrieval.search import Searcher
from tests.retrieval_corpus import HANDBOOK, Corpus, chunk_id, minilm

ANSWERED = (
    ("How many days of annual leave do full-time staff have?", "leave.txt"),
    ("How much vacation do I get per year?", "leave.txt"),
    ("Can I do my job from home?", "remote.txt"),
    ("Which toner does the PPR9087 need?", "printer.txt"),
    ("Where should we meet if there is a fire?", "fire.txt"),
    ("What is the price of the KS-50?", "prices.txt"),
    ("Do schools pay less for sensors?", "prices.txt"),
    ("1年目の有給休暇は何日ですか。", "休暇.txt"),
    ("有休は何日もらえますか", "休暇.txt"),
    ("出張経費の申請はいつまでですか。", "経費.txt"),
    ("雲海は何人まで入れますか", "会議室.txt"),
    ("受注サーバが停止した原因は何ですか", "サーバー.txt"),
    ("水質計の保証は何年ですか。", "保証.txt"),
    ("ＰＰＲ－９０８７のトナーは？", "printer.txt"),
)
OFF_TOPIC = (
    "What is the capital of Mongolia?",
    "Who won the football world cup in 1998?",
    "How do I bake sourdough bread?",
    "asdf qwer zxcv",
    "モンゴルの首都はどこですか？",
    "富士山の高さは何メートルですか？",
    "おいしいカレーの作り方を教えてください",
    "ぬるぽがっ",
)


@pytest.fixture
def retrieval(settings: Settings, database: Database) -> Iterator[Retrieval]:
    opened = build_retrieval(settings, database, embedder=minilm())
    yield opened
    opened.close()


@pytest.fixture
def corpus(database: Database, retrieval: Retrieval) -> Corpus:
    return Corpus(database, retrieval.index, retrieval.embedder, retrieval.lexical, retrieval.active.bridge)


@pytest.fixture
def handbook(corpus: Corpus, tenant: Tenant) -> dict[str, str]:
    return {filename: corpus.add(tenant, filename, text) for filename, text in HANDBOOK}


def everyone(tenant: Tenant) -> AccessFilter:
    return AccessFilter(tenant.id, frozenset({"*"}))


def test_ten_documents_answer_their_questions_and_refuse_others(
    retrieval: Retrieval, tenant: Tenant, handbook: dict[str, str]
) -> None:
    for question, filename in ANSWERED:
        result = retrieval.searcher.search(question, everyone(tenant), 3)
        assert result.passages[0].filename == filename, question
        assert result.best_relevance >= result.refusal_threshold, question
    for question in OFF_TOPIC:
        result = retrieval.searcher.search(question, everyone(tenant), 3)
        assert result.best_relevance < result.refusal_threshold, question


ACROSS = (
    ("How many people fit into the meeting room Unkai?", "会議室.txt"),
    ("How long is the warranty of the water quality meter?", "保証.txt"),
    ("By when do I hand in the receipts of a business trip?", "経費.txt"),
    ("火災報知器が鳴ったらどこに集まりますか", "fire.txt"),
    ("週に何日まで在宅勤務ができますか", "remote.txt"),
    ("学校向けの割引はありますか", "prices.txt"),
)


def test_questions_in_the_other_language_find_their_passage(
    retrieval: Retrieval, tenant: Tenant, handbook: dict[str, str]
) -> None:
    for question, filename in ACROSS:
        result = retrieval.searcher.search(question, everyone(tenant), 3)
        assert filename in [passage.filename for passage in result.passages], question
        assert result.best_relevance >= result.refusal_threshold, question
    hidden = AccessFilter(tenant.id, frozenset({"nobody"}))
    assert all(not retrieval.searcher.search(question, hidden, 3).passages for question, _ in ACROSS)


def test_misspelt_words_and_words_of_the_dictionary_find_what_they_mean(
    retrieval: Retrieval, database: Database, tenant: Tenant, handbook: dict[str, str]
) -> None:
    for question in ("tonner cartrige", "PPR9087 tonre"):
        result = retrieval.searcher.search(question, everyone(tenant), 1)
        assert result.passages[0].filename == "printer.txt", question
        assert result.best_relevance >= result.refusal_threshold
    aliases = [["プリンちゃん", "PPR-9087"], ["ビルの裏", "car park behind the north building"]]
    with database.write() as session:
        session.add(
            TenantDictionary(tenant_id=tenant.id, entries={"groups": aliases}, updated_at=utc_now(), updated_by="test")
        )
    other = retrieval.active.searcher._other_words
    assert other is not None
    other._own.clear()
    result = retrieval.searcher.search("プリンちゃんのトナー", everyone(tenant), 1)
    assert result.passages[0].filename == "printer.txt"


def test_relevance_of_a_passage_does_not_depend_on_the_collections_size(
    retrieval: Retrieval, corpus: Corpus, tenant: Tenant, handbook: dict[str, str]
) -> None:
    questions = [question for question, _ in ANSWERED]
    before = [retrieval.searcher.search(q, everyone(tenant), 1).passages[0] for q in questions]
    for number in range(15):
        corpus.add(tenant, f"extra{number}.txt", f"Minute {number} of the garden club: roses, item {number * 37}.")
    after = [retrieval.searcher.search(q, everyone(tenant), 1).passages[0] for q in questions]
    assert [p.relevance for p in after] == pytest.approx([p.relevance for p in before], abs=1e-4)


def test_a_result_says_where_it_is_from_and_what_it_cost(
    retrieval: Retrieval, tenant: Tenant, handbook: dict[str, str]
) -> None:
    result = retrieval.searcher.search("水質計の保証は何年ですか。", everyone(tenant), 2)
    passage = result.passages[0]
    assert result.language is Language.JAPANESE
    assert (passage.document_id, passage.generation) == (handbook["保証.txt"], 1)
    assert passage.text[passage.start : passage.end] == dict(HANDBOOK)["保証.txt"]
    assert set(result.timings_ms) >= {"filter", "embed", "index", "fuse", "load", "total"}
    assert result.timings_ms["total"] > 0 and result.timings_ms["index"] > 0
    assert [p.score for p in result.passages] == sorted((p.score for p in result.passages), reverse=True)


def test_what_sql_does_not_show_is_pruned_although_the_index_has_it(
    database: Database, retrieval: Retrieval, tenant: Tenant, handbook: dict[str, str]
) -> None:
    question = "What is the price of the KS-50?"
    for change in ({"status": "deleting"}, {"active_generation": 2, "status": "ready"}, {"active_generation": None}):
        with database.write() as session:
            session.execute(update(Document).where(Document.id == handbook["prices.txt"]).values(**change))
        found = retrieval.searcher.search(question, everyone(tenant), 10).passages
        assert "prices.txt" not in {p.filename for p in found} and found
    with database.write() as session:
        session.execute(
            update(Document).where(Document.id == handbook["prices.txt"]).values(active_generation=1, status="failed")
        )
    # A failed replacement leaves the generation before it in service.
    assert retrieval.searcher.search(question, everyone(tenant), 1).passages[0].filename == "prices.txt"


def test_pruning_fetches_more_until_the_limit_is_met(
    database: Database, retrieval: Retrieval, corpus: Corpus, tenant: Tenant
) -> None:
    stale = [corpus.add(tenant, f"s{n}.txt", f"Toner stock list, sheet {n * 7919}.") for n in range(12)]
    corpus.add(tenant, "kept.txt", "In the annex there is a shelf; some boxes of toner may be there.")
    with database.write() as session:
        session.execute(update(Document).where(Document.id.in_(stale)).values(status="deleting"))
    model = load_model(database, retrieval.index_version)
    searcher = Searcher(database, retrieval.index, retrieval.embedder, retrieval.lexical, model, candidates=4)
    found = searcher.search("toner stock list sheet", everyone(tenant), 3).passages
    assert [p.filename for p in found] == ["kept.txt"]


def test_tenants_and_groups_are_apart(
    retrieval: Retrieval, corpus: Corpus, tenant: Tenant, other_tenant: Tenant
) -> None:
    secret = "The merger with Kumoi closes in May; the code word is Aoba."
    corpus.add(tenant, "board.txt", secret, groups=("board",))
    corpus.add(other_tenant, "foreign.txt", secret)

    def found(access: AccessFilter) -> list[str]:
        return [p.filename for p in retrieval.searcher.search("When does the merger close?", access, 5).passages]

    assert found(everyone(tenant)) == []
    assert found(AccessFilter(tenant.id, frozenset({"*", "board"}))) == ["board.txt"]
    assert found(AccessFilter(tenant.id, None)) == ["board.txt"]
    assert found(everyone(other_tenant)) == ["foreign.txt"]
    assert found(AccessFilter(tenant.id, None, "another collection")) == []


def test_near_copies_collapse_and_filters_select(retrieval: Retrieval, corpus: Corpus, tenant: Tenant) -> None:
    text = dict(HANDBOOK)["printer.txt"]
    first = corpus.add(tenant, "a.txt", text, metadata={"year": 2024, "site": "Kobe"})
    corpus.add(tenant, "b.txt", text.replace(". ", ".\n"), metadata={"year": 2025})
    search, access = retrieval.searcher.search, everyone(tenant)
    assert len(search("Which toner does the printer take?", access, 5).passages) == 1
    by_year = search("Which toner?", access, 5, document_filters={"year": 2025}).passages
    assert [p.filename for p in by_year] == ["b.txt"]
    both = {"year": [2024, 2025], "site": "Kobe"}
    assert [p.document_id for p in search("Which toner?", access, 5, document_filters=both).passages] == [first]
    assert search("Which toner?", access, 5, document_filters={"filename": "c.txt"}).passages == []
    assert search("Which toner?", access, 5, document_filters={"unknown": 1}).passages == []


def test_japanese_near_copies_collapse(retrieval: Retrieval, corpus: Corpus, tenant: Tenant) -> None:
    text = dict(HANDBOOK)["休暇.txt"]
    corpus.add(tenant, "a.txt", text)
    corpus.add(tenant, "b.txt", text.translate({ord("1"): "１", ord("2"): "２"}).replace("。", "。\n"))
    corpus.add(tenant, "c.txt", text.replace("12日", "15日"))
    found = retrieval.searcher.search("年次有給休暇は何日ですか。", everyone(tenant), 5).passages
    assert len(found) == 2 and {p.filename for p in found} >= {"c.txt"}, "one changed figure is another fact"


def test_a_filter_finds_what_many_better_hits_hide_and_never_widens_access(
    database: Database, retrieval: Retrieval, corpus: Corpus, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        text = f"Toner toner toner for the printer, shelf {number}: {'abcdefghij'[number % 10] * 40}{number}."
        corpus.add(tenant, f"{number}.txt", text)
    corpus.add(tenant, "old.txt", "The printer was sold.", metadata={"date": "2019年3月31日"}, groups=("it",))
    search, public = retrieval.searcher.search, AccessFilter(tenant.id, frozenset({"*"}))
    filters = {"date": {"lt": "2020-01-01"}}
    monkeypatch.setattr(search_module, "_MAX_CANDIDATES", 10)  # deeper looks must not be what finds it
    searcher = Searcher(
        database, retrieval.index, retrieval.embedder, retrieval.lexical,
        parse_model(shipped_parameters()), candidates=5,
    )  # fmt: skip
    all_groups = AccessFilter(tenant.id, None)
    found = searcher.search("printer toner", all_groups, 5, document_filters=filters).passages
    assert [p.filename for p in found] == ["old.txt"]
    assert search("printer toner", public, 5, document_filters=filters).passages == []
    assert search("printer toner", public, 5, document_filters={"groups": "it"}).passages == []
    mine = AccessFilter(tenant.id, frozenset({"*", "it"}))
    assert len(search("printer", mine, 5, document_filters={"groups": ["it", "hr"]}).passages) == 1
    new = {"created_at": {"gte": "2000-01-01"}, "updated_at": {"lt": "2000-01-01"}}
    assert search("printer", mine, 5, document_filters=new).passages == []
    assert search("printer", mine, 5, document_filters={"created_at": {"gte": "2000-01-01"}}).passages
    monkeypatch.setattr(search_module, "_NAMED_DOCUMENTS", 0)  # too many to name: picked from the hits instead
    monkeypatch.setattr(search_module, "_MAX_CANDIDATES", 2_000)
    assert [p.filename for p in search("printer", mine, 5, document_filters=filters).passages] == ["old.txt"]
    with pytest.raises(InvalidInput) as caught:
        search("printer", mine, 5, document_filters={"date": {"gte": "later"}})
    assert caught.value.code == "filter_invalid"


def test_an_empty_index_finds_nothing_and_refuses(retrieval: Retrieval, tenant: Tenant) -> None:
    for question in ("Anything?", "何か？", "42", "!!!"):
        result = retrieval.searcher.search(question, everyone(tenant), 3)
        assert result.passages == [] and result.best_relevance < result.refusal_threshold


def test_the_index_version_names_what_vectors_depend_on(
    database: Database, settings: Settings, retrieval: Retrieval
) -> None:
    with database.read() as session:
        rows = session.scalars(select(IndexVersion)).all()
    assert [(row.id, row.active) for row in rows] == [(retrieval.index_version, True)]
    assert rows[0].spec["embedder"]["digest"] == minilm().digest
    assert (settings.index_dir / retrieval.index_version).is_dir()
    retrieval.close()
    # Changed settings make no other index by themselves: what serves goes on until an operator builds and switches.
    other = settings.model_copy(update={"ingest": settings.ingest.model_copy(update={"chunk_tokens": 64})})
    second = build_retrieval(other, database, embedder=minilm())
    assert second.index_version == retrieval.index_version
    assert second.opener.describe(other).id != retrieval.index_version
    assert second.active.chunking.chunk_tokens == settings.ingest.chunk_tokens
    second.close()
    # One that this code can no longer make gives way at once.
    with database.write() as session:
        session.get_one(IndexVersion, retrieval.index_version).id = "0" * 16
    third = build_retrieval(other, database, embedder=minilm())
    assert third.index_version == third.opener.describe(other).id
    third.close()
    with database.read() as session:
        rows = session.scalars(select(IndexVersion)).all()
    assert {(row.active, row.status) for row in rows} == {(True, "ready"), (False, "unusable")}


def test_calibration_moves_the_threshold_and_is_kept(
    database: Database, settings: Settings, retrieval: Retrieval, tenant: Tenant, handbook: dict[str, str]
) -> None:
    questions = [CalibrationQuestion(question, True) for question, _ in ANSWERED]
    questions += [CalibrationQuestion(question, False) for question in OFF_TOPIC]
    before = retrieval.searcher.search(OFF_TOPIC[0], everyone(tenant), 3).refusal_threshold
    report = calibrate(database, retrieval, everyone(tenant), questions)
    assert report.figures["en"]["chosen"] is False  # 7 answerable English questions are one too few
    report = calibrate(
        database, retrieval, everyone(tenant), [*questions, CalibrationQuestion("Which discount do schools get?", True)]
    )
    assert report.figures["en"]["chosen"] is True
    for language in ("en", "ja"):
        chosen = report.figures[language]
        if chosen["chosen"]:
            assert (chosen["refusal_wrong"], chosen["refusal_right"]) == (0.0, 1.0)
    after = retrieval.searcher.search(OFF_TOPIC[0], everyone(tenant), 3).refusal_threshold
    assert after == report.parameters["en"]["threshold"] != before
    with database.read() as session:
        assert len(session.scalars(select(Calibration)).all()) == 2
    retrieval.close()
    reopened = build_retrieval(settings, database, embedder=minilm())
    assert reopened.searcher.search(OFF_TOPIC[0], everyone(tenant), 3).refusal_threshold == after
    reopened.close()


def test_calibration_chooses_how_arms_are_fused(
    database: Database, settings: Settings, retrieval: Retrieval, tenant: Tenant, handbook: dict[str, str]
) -> None:
    known = [CalibrationQuestion(question, True, frozenset({name})) for question, name in ANSWERED]
    report = calibrate(database, retrieval, everyone(tenant), known)
    assert report.figures["en"]["fusion_chosen"] is False and "fusion" not in report.parameters["en"]
    report = calibrate(database, retrieval, everyone(tenant), known * 3)
    english = report.figures["en"]
    assert english["fusion_chosen"] is True
    assert english["recall_at_5"] >= max(english["recall_at_5_dense"], english["recall_at_5_sparse"]) - 0.005
    model = load_model(database, retrieval.index_version)
    chosen = model.fusion(Language.ENGLISH)
    assert chosen is not None and chosen.dense_weight == report.parameters["en"]["fusion"]["dense_weight"]
    assert load_model(database, "another version").fusion(Language.ENGLISH) is None


def test_a_calibrated_fusion_is_in_force(retrieval: Retrieval, tenant: Tenant, handbook: dict[str, str]) -> None:
    question = "What may staff do at home?"
    parameters = shipped_parameters()
    scores = {}
    for method in ("sparse", "dense"):
        parameters["en"]["fusion"] = {"method": method, "dense_weight": 1.0}
        retrieval.searcher.use_relevance(parse_model(parameters))
        found = retrieval.searcher.search(question, everyone(tenant), 10).passages
        scores[method] = {passage.filename: passage.score for passage in found}
    assert "prices.txt" in scores["dense"] and "prices.txt" not in scores["sparse"]
    assert scores["dense"]["remote.txt"] != scores["sparse"]["remote.txt"]


def test_reconcile_sees_and_mends_what_differs(
    database: Database, retrieval: Retrieval, corpus: Corpus, tenant: Tenant, handbook: dict[str, str]
) -> None:
    assert reconcile(database, retrieval, repair=False).clean
    lost = chunk_id(handbook["prices.txt"], 1)
    retrieval.index.delete_points([lost])
    stray = corpus.point(tenant.id, "c", "doc_gone", 1, "gone.txt", "Gone.", ("*",))
    retrieval.index.upsert([stray])
    found = reconcile(database, retrieval, repair=False)
    assert (found.missing, found.orphans, found.clean) == ((lost,), (stray.id,), False)
    assert "1 missing, 1 orphaned, 0 with a wrong payload (found)" in str(found)
    assert reconcile(database, retrieval, repair=True).repaired
    again = reconcile(database, retrieval, repair=False)
    assert again.clean and again.points == again.chunks == len(HANDBOOK)
    best = retrieval.searcher.search("What is the price of the KS-50?", everyone(tenant), 1).passages[0]
    assert best.filename == "prices.txt"


def test_reconcile_leaves_generations_under_way_alone(
    database: Database, retrieval: Retrieval, corpus: Corpus, tenant: Tenant
) -> None:
    document = corpus.add(tenant, "next.txt", "The next version.", generation=2)
    with database.write() as session:
        session.execute(update(Document).where(Document.id == document).values(active_generation=None))
    report = reconcile(database, retrieval, repair=True)
    assert report.clean and report.in_progress == 1 and retrieval.index.count() == 1
