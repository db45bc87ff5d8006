"""The cross-encoder stage on a tiny random checkpoint, made here with a tokenizer trained on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from core.database import Database
from core.errors import Unavailable
from core.settings import RerankSettings, Settings
from core.tables import Tenant
from core.types import AccessFilter
from retrieval.build import build_retrieval
from retrieval.rerank import CrossEncoderReranker
from retrieval.text import indexed_text
from tests.retrieval_corpus import HANDBOOK, Corpus, minilm


def make_checkpoint(folder: Path, *, labels: int = 1) -> Path:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        [text for _, text in HANDBOOK], trainers.WordPieceTrainer(vocab_size=500, special_tokens=special)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=128, num_labels=labels, initializer_range=0.6,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def open_reranker(folder: Path, **options: object) -> CrossEncoderReranker:
    chosen = {"max_tokens": 64, "batch": 4, "device": "cpu", "dtype": "float32"} | options
    return CrossEncoderReranker(str(folder), **chosen)  # type: ignore[arg-type]


def test_scores_are_those_of_the_model_in_order_whatever_the_batch(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "tiny")
    query, passages = "Which toner does the printer take?", [text for _, text in HANDBOOK]
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    expected = []
    with torch.inference_mode():
        for passage in passages:
            pair = tokenizer(query, passage, truncation=True, max_length=64, return_tensors="pt")
            expected.append(float(torch.sigmoid(model(**pair).logits[0, 0])))
    assert max(expected) - min(expected) > 0.01, "the random checkpoint tells nothing apart"
    for batch in (1, 4, 32):
        assert open_reranker(folder, batch=batch).score(query, passages) == pytest.approx(expected, abs=1e-5)
    assert open_reranker(folder).score(query, []) == []


def test_a_model_that_is_none_is_refused_with_a_code(tmp_path: Path) -> None:
    for folder in (make_checkpoint(tmp_path / "two", labels=2), tmp_path / "absent"):
        with pytest.raises(Unavailable) as caught:
            open_reranker(folder)
        assert (caught.value.code, caught.value.retryable) == ("reranker_unusable", False)


def test_search_is_ordered_by_the_second_stage(
    database: Database, settings: Settings, tenant: Tenant, tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path / "tiny")
    chosen = RerankSettings(model=str(folder), candidates=5, dtype="float32", device="cpu")
    retrieval = build_retrieval(settings.model_copy(update={"rerank": chosen}), database, embedder=minilm())
    try:
        corpus = Corpus(database, retrieval.index, retrieval.embedder, retrieval.lexical)
        for name, text in HANDBOOK:
            corpus.add(tenant, name, text)
        question = "What may staff do at home?"
        result = retrieval.searcher.search(question, AccessFilter(tenant.id, None), 3)
        assert [p.score for p in result.passages] == sorted((p.score for p in result.passages), reverse=True)
        assert result.timings_ms["rerank"] > 0
        read = [indexed_text(p.filename, None, p.heading, p.text) for p in result.passages]  # what was embedded
        assert [p.score for p in result.passages] == pytest.approx(
            open_reranker(folder, max_tokens=512).score(question, read), abs=1e-5
        )
    finally:
        retrieval.close()
