from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from core.errors import Unavailable
from core.types import Language
from retrieval.embedders import minilm as module
from tests.retrieval_corpus import HANDBOOK, minilm

TEXTS = [text for _, text in HANDBOOK] + ["short", "word " * 120]


def test_vectors_equal_those_of_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(module.model_folder()), device="cpu", local_files_only=True)
    expected = reference.encode(TEXTS, normalize_embeddings=True)
    vectors = minilm().encode_passages(TEXTS)
    assert vectors.shape == (len(TEXTS), 384) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert (vectors * expected).sum(axis=1).min() > 0.999  # bf16 where the CPU has it
    assert minilm().languages == {Language.ENGLISH}
    assert minilm().encode_passages([]).shape == (0, 384)


def test_sentences_come_from_the_passages_own_pass() -> None:
    texts = ["Leave is 22 days. Printers take toner.", "One sentence only."]
    spans = [[(0, 18), (18, 38)], [(0, 18)]]
    dense, sentences = minilm().encode_sentences(texts, spans)
    assert dense == pytest.approx(minilm().encode_passages(texts), abs=1e-6)
    assert [part.shape for part in sentences] == [(2, 384), (1, 384)]
    assert np.linalg.norm(np.concatenate(sentences), axis=1) == pytest.approx(1.0, abs=1e-5)
    query = minilm().encode_query("Which cartridge does the printer need?")
    assert sentences[0][1] @ query > max(sentences[0][0] @ query, dense[0] @ query)
    assert float(sentences[1][0] @ dense[1]) > 0.9  # all tokens but the special ones


def test_a_sentence_beyond_the_last_token_has_no_vector() -> None:
    text = "tea " * 254 + "Coffee too."
    _, (parts,) = minilm().encode_sentences([text], [[(0, 1016), (1016, len(text))]])
    assert parts.shape == (1, 384)
    _, (none,) = minilm().encode_sentences(["   "], [[(0, 3)]])
    assert none.shape == (0, 384)


def test_long_texts_are_cut_and_counted() -> None:
    embedder = minilm()
    before = embedder.truncated_total
    head = "tea " * 254
    assert embedder.count_tokens(head) == 254
    whole, cut = embedder.encode_passages([head, head + "coffee " * 50])
    assert embedder.truncated_total == before + 1
    assert float(whole @ cut) > 0.999


def test_tokens_are_where_they_are_counted() -> None:
    embedder = minilm()
    texts = ["Toner: PPR-9087, ¥3,000.", "Café\u0301 \u3000 naïve😀 12.5%", ""]
    starts = [embedder.token_starts(text) for text in texts]
    assert [len(places) for places in starts] == [embedder.count_tokens(text) for text in texts]
    assert starts[0][:3] == [0, 4, 5] and all(places == sorted(places) for places in starts)


def test_threads_get_their_own_answers_and_queries_are_remembered() -> None:
    embedder = minilm()
    alone = [embedder.encode_passages([text])[0] for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(embedder.encode_query, TEXTS * 2))
    for at, vector in enumerate(together):
        assert float(vector @ alone[at % len(TEXTS)]) > 0.999
    assert embedder.encode_query(TEXTS[0]) is embedder.encode_query(TEXTS[0])
    with pytest.raises(ValueError, match="read-only"):
        embedder.encode_query(TEXTS[0])[0] = 1.0


def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DISTRIBUTION", "no-such-wheel")
    with pytest.raises(Unavailable, match="pip install no-such-wheel"):
        module.model_folder()


def test_another_pooling_is_refused(tmp_path: Path) -> None:
    shutil.copytree(module.model_folder(), tmp_path / "model")
    pooling = tmp_path / "model" / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}), "utf-8")
    with pytest.raises(Unavailable) as refused:
        module.MiniLmEmbedder(tmp_path / "model")
    assert refused.value.code == "embedder_broken" and not refused.value.retryable


def test_loading_leaves_out_sentence_transformers() -> None:
    """Its import is two seconds of every start."""
    program = (
        "import sys; from retrieval.embedders.minilm import MiniLmEmbedder; MiniLmEmbedder().encode_query('tea');"
        "print([name for name in ('sentence_transformers', 'sklearn', 'peft', 'bitsandbytes') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
