"""bge-m3's three outputs beside FlagEmbedding's, on one random checkpoint with a tokenizer trained here."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.m3_checkpoint import make_checkpoint, words
from core.database import Database
from core.errors import InvalidInput, Unavailable
from core.settings import EmbeddingSettings, RerankSettings, Settings
from core.tables import Tenant
from core.types import AccessFilter, Language
from retrieval.build import build_retrieval
from retrieval.embedders.batches import by_tokens
from retrieval.embedders.bge_m3 import BgeM3Embedder, M3Lexical
from retrieval.embedders.sentence_transformer import SentenceTransformerEmbedder
from retrieval.lexical import BigramBm25
from retrieval.rerank import MultiVectorReranker
from retrieval.text import indexed_text
from tests.retrieval_corpus import HANDBOOK, Corpus

TOLERANCE = 1e-4


def mixed_texts() -> list[str]:
    """Lengths from nothing to beyond the limit, in no order; both languages, full-width forms, emoji, odd spaces."""
    pool = words(3_000, seed=5)
    texts = [
        " ".join(pool[at : at + n]) for at, n in ((0, 1), (7, 400), (9, 30), (40, 3), (60, 900), (99, 120), (5, 12))
    ]
    texts += [text for _, text in HANDBOOK]
    return [*texts, "", " ", "ＰＰＲ－９０８７のトナーは？", "休暇 休暇 休暇", "👩‍👩‍👧 が\u3099\r\n㈱", "日" * 700]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = [" ".join(words(40, seed)) for seed in range(60)] + [text for _, text in HANDBOOK]
    return make_checkpoint(
        tmp_path_factory.mktemp("m3"), hidden=64, layers=3, heads=4, vocabulary=1_200, corpus=corpus, tokens=900
    )


@pytest.fixture(scope="module")
def embedder(checkpoint: Path) -> BgeM3Embedder:
    return BgeM3Embedder(str(checkpoint), device="cpu", dtype="float32", max_tokens=512, batch_tokens=700)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Iterator[dict[str, Any]]:
    from FlagEmbedding import BGEM3FlagModel

    model = BGEM3FlagModel(str(checkpoint), use_fp16=False, devices="cpu")
    yield model.encode(
        mixed_texts(),
        batch_size=4,
        max_length=512,
        return_dense=True,
        return_sparse=True,
        return_colbert_vecs=True,
    )


def test_dense_sparse_and_multi_vectors_equal_flagembedding(embedder: BgeM3Embedder, reference: dict[str, Any]) -> None:
    before = embedder.forwards_total
    mine = embedder.encode(mixed_texts(), sparse=True, multi=True)
    assert embedder.forwards_total - before > 2, "one batch would not show whether the order is restored"
    assert np.abs(mine.dense - reference["dense_vecs"]).max() < TOLERANCE
    assert np.ptp(mine.dense @ mine.dense.T) > 0.1, "vectors that are all alike would prove nothing"
    for got, wanted in zip(mine.sparse, reference["lexical_weights"], strict=True):
        expected = {int(key): float(value) for key, value in wanted.items()}
        assert dict(zip(got.indices, got.values, strict=True)) == pytest.approx(expected, abs=TOLERANCE)
        assert list(got.indices) == sorted(set(got.indices))
    assert sum(len(item.indices) for item in mine.sparse) > 200
    for vectors, wanted in zip(mine.multi, reference["colbert_vecs"], strict=True):
        assert vectors.shape == wanted.shape
        assert np.abs(vectors - wanted).max() < TOLERANCE


def test_a_text_has_the_same_vectors_alone_and_among_others(embedder: BgeM3Embedder) -> None:
    texts = mixed_texts()
    together = embedder.encode(texts)
    for place in (0, 1, 9, len(texts) - 1):
        alone = embedder.encode([texts[place]])
        assert np.abs(alone.dense[0] - together.dense[place]).max() < TOLERANCE
        assert alone.sparse[0].indices == together.sparse[place].indices


def test_over_long_texts_are_cut_and_counted(checkpoint: Path) -> None:
    embedder = BgeM3Embedder(str(checkpoint), device="cpu", dtype="float32", max_tokens=32)
    vectors = embedder.encode_passages(["短い。", "日" * 700, " ".join(words(200, 1))])
    assert embedder.truncated_total == 2
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert embedder.count_tokens("日" * 700) > 32
    assert embedder.languages == set(Language)


def test_passage_and_term_weights_share_one_pass(embedder: BgeM3Embedder) -> None:
    lexical = M3Lexical(embedder)
    texts = [f"{text} once" for _, text in HANDBOOK]
    embedder.encode_passages(texts)
    after = embedder.forwards_total
    sparse = [lexical.encode_passage(text) for text in texts]
    assert embedder.forwards_total == after
    embedder.encode_query("休暇は何日？")
    asked = embedder.forwards_total
    query = lexical.encode_query("休暇は何日？")
    embedder.encode_query("休暇は何日？")
    assert embedder.forwards_total == asked == after + 1
    fresh = embedder.encode([*texts, "休暇は何日？"]).sparse
    for got, wanted in zip([*sparse, query], fresh, strict=True):
        assert got.indices == wanted.indices and got.values == pytest.approx(wanted.values, abs=TOLERANCE)


def test_bfloat16_stays_close(checkpoint: Path, embedder: BgeM3Embedder) -> None:
    half = BgeM3Embedder(str(checkpoint), device="cpu", dtype="bfloat16", max_tokens=512)
    texts = [text for _, text in HANDBOOK]
    cosines = (half.encode(texts).dense * embedder.encode(texts).dense).sum(axis=1)
    assert cosines.min() > 0.998
    assert half.digest == embedder.digest


def test_no_code_in_a_head_is_run_and_broken_files_are_named(checkpoint: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (ran,))

    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    (folder / "sparse_linear.pt").write_bytes(pickle.dumps(Evil()))
    codes = []
    for damage in ("pickle", "narrow", "missing"):
        if damage == "narrow":
            torch.save(torch.nn.Linear(8, 1).state_dict(), folder / "sparse_linear.pt")
        if damage == "missing":
            (folder / "sparse_linear.pt").unlink()
        with pytest.raises(Unavailable) as raised:
            BgeM3Embedder(str(folder), device="cpu")
        codes.append((raised.value.code, raised.value.retryable))
    assert codes == [("embedder_broken", False)] * 3
    assert not ran.exists()
    with pytest.raises(Unavailable) as raised:
        BgeM3Embedder(str(tmp_path / "nowhere"))
    assert raised.value.code == "embedder_not_found"


def test_batches_hold_their_budget_and_everything_once() -> None:
    lengths = [5, 900, 17, 17, 3, 250, 250, 40, 1]
    for padded in (True, False):
        batches = by_tokens(lengths, 300, padded=padded)
        assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
        for batch in batches:
            taken = [lengths[place] for place in batch]
            size = len(batch) * max(taken) if padded else sum(taken)
            assert size <= 300 or len(batch) == 1
    assert [len(by_tokens([10] * 10 + [200], 300, padded=padded)) for padded in (True, False)] == [2, 1]
    assert by_tokens([], 10) == []


@pytest.mark.parametrize("lexical", ["bigrams", "bge-m3"])
def test_the_whole_retrieval_runs_on_it_with_either_lexical_side(
    checkpoint: Path, settings: Settings, database: Database, tenant: Tenant, lexical: str
) -> None:
    embedding = EmbeddingSettings(model=str(checkpoint), device="cpu", dtype="float32")
    chosen = settings.retrieval.model_copy(update={"embedder": "bge-m3", "lexical": lexical})
    retrieval = build_retrieval(settings.model_copy(update={"retrieval": chosen, "embedding": embedding}), database)
    assert isinstance(retrieval.lexical, M3Lexical if lexical == "bge-m3" else BigramBm25)
    corpus = Corpus(database, retrieval.index, retrieval.embedder, retrieval.lexical)
    ids = {corpus.add(tenant, name, text): text for name, text in HANDBOOK}
    for document, text in ids.items():
        found = retrieval.searcher.search(text, AccessFilter(tenant.id, None), 3)
        assert found.passages[0].document_id == document, text
        assert (found.index_version, found.embedder) == (retrieval.index_version, checkpoint.name)
    retrieval.close()


def test_late_interaction_scores_as_flag_embedding_does(
    embedder: BgeM3Embedder, reference: dict[str, Any], checkpoint: Path
) -> None:
    from FlagEmbedding import BGEM3FlagModel

    texts = mixed_texts()
    query, passages = texts[0], [text for text in texts[1:] if text.strip()]
    multi = dict(zip(texts, reference["colbert_vecs"], strict=True))
    expected = [
        max(0.0, float(BGEM3FlagModel.colbert_score(None, multi[query], multi[passage]))) for passage in passages
    ]
    reranker = MultiVectorReranker(embedder, cache_bytes=2**30)
    assert reranker.score(query, passages) == pytest.approx(expected, abs=TOLERANCE)
    assert max(expected) - min(expected) > 0.01, "the random checkpoint tells nothing apart"
    before = embedder.forwards_total
    again = reranker.score(query, passages)
    assert embedder.forwards_total == before + 1, "only the query is embedded again"
    assert again == pytest.approx(expected, abs=2e-3), "half precision is enough to rank by"
    assert MultiVectorReranker(embedder, cache_bytes=0).score(query, []) == []


def test_a_search_is_ordered_by_late_interaction(
    checkpoint: Path, embedder: BgeM3Embedder, settings: Settings, database: Database, tenant: Tenant
) -> None:
    chosen = {
        "retrieval": settings.retrieval.model_copy(update={"embedder": "bge-m3"}),
        "embedding": EmbeddingSettings(model=str(checkpoint), device="cpu", dtype="float32"),
        "rerank": RerankSettings(multi_vector=True, candidates=10),
    }
    retrieval = build_retrieval(settings.model_copy(update=chosen), database, embedder=embedder)
    corpus = Corpus(database, retrieval.index, retrieval.embedder, retrieval.lexical)
    for name, text in HANDBOOK:
        corpus.add(tenant, name, text)
    question = "出張経費の申請はいつまでですか。"
    found = retrieval.searcher.search(question, AccessFilter(tenant.id, None), 5)
    expected = MultiVectorReranker(embedder, cache_bytes=0).score(
        question, [indexed_text(p.filename, None, p.heading, p.text) for p in found.passages]
    )
    assert [passage.score for passage in found.passages] == pytest.approx(expected, abs=2e-3)
    assert expected == sorted(expected, reverse=True)
    retrieval.close()
    for wrong in (RerankSettings(multi_vector=True, model="x"), RerankSettings(multi_vector=True)):
        with pytest.raises(InvalidInput) as caught:
            build_retrieval(settings.model_copy(update={"rerank": wrong}), database)
        assert caught.value.code == "setting_conflict"


def test_a_sentence_transformers_folder_gives_the_same_dense_vectors(checkpoint: Path, embedder: BgeM3Embedder) -> None:
    other = SentenceTransformerEmbedder(
        str(checkpoint), languages=frozenset({Language.JAPANESE}), dtype="float32", device="cpu", max_tokens=512,
        batch_tokens=900,
    )  # fmt: skip
    texts = [*mixed_texts(), "日" * 600]
    assert np.abs(other.encode_passages(texts) - embedder.encode(texts).dense).max() < TOLERANCE
    assert (other.dim, other.max_tokens, other.truncated_total) == (embedder.dim, 512, 4)
    assert other.count_tokens(texts[1]) == embedder.count_tokens(texts[1])
    prefixed = SentenceTransformerEmbedder(
        str(checkpoint), languages=frozenset({Language.JAPANESE}), dtype="float32", device="cpu",
        query_prefix="query: ", passage_prefix="passage: ",
    )  # fmt: skip
    assert np.abs(prefixed.encode_query("休暇") - embedder.encode(["query: 休暇"]).dense[0]).max() < TOLERANCE
    assert np.abs(prefixed.encode_passages(["休暇"]) - embedder.encode(["passage: 休暇"]).dense).max() < TOLERANCE
    assert prefixed.digest != other.digest
