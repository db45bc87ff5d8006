from __future__ import annotations

import math

import numpy as np
import pytest

from core.types import Language, SparseVector, StoredVectors
from retrieval.bridge import bridge_vectors, bridgeable, bridged_relevance, shuffle
from retrieval.embedders.multilingual import MultilingualEncoder
from retrieval.relevance import parse_model, shipped_parameters
from retrieval.vector_lines import decode_line, encode_line

JA, EN, OTHER = Language.JAPANESE, Language.ENGLISH, Language.OTHER
HITS = {"ja1": (1.0, None), "ja2": (0.8, None), "en1": (0.2, None), "numbers": (0.1, None)}
LANGUAGES = {"ja1": JA, "ja2": JA, "en1": EN, "en2": EN, "numbers": OTHER}


def order(similar: dict[str, float], covered: float, shared: dict[str, float] | None = None) -> list[str]:
    return list(shuffle(HITS, similar, shared or {}, LANGUAGES, JA, covered))


def test_what_its_own_language_covers_stays_first() -> None:
    assert order({"ja1": 0.5, "en2": 0.3, "en1": 0.2}, covered=0.9)[:2] == ["ja1", "ja2"]


def test_what_its_own_language_does_not_cover_is_looked_for_in_the_other() -> None:
    assert order({"ja1": 0.2, "en2": 0.45, "en1": 0.3}, covered=0.1)[:2] == ["en2", "en1"]


def test_own_scores_are_kept_and_terms_in_common_count_across_languages() -> None:
    merged = shuffle(HITS, {"en1": 0.3, "en2": 0.31}, {"en1": 0.6}, LANGUAGES, JA, 0.5)
    assert merged["ja1"] == HITS["ja1"] and merged["numbers"] == HITS["numbers"]
    assert list(merged).index("en1") < list(merged).index("en2")
    assert [score for score, _ in merged.values()] == sorted((score for score, _ in merged.values()), reverse=True)


def test_without_passages_in_another_language_nothing_changes() -> None:
    hits = {"ja1": (1.0, None), "numbers": (0.1, None)}
    assert shuffle(hits, {"ja1": 0.5}, {}, LANGUAGES, JA, 0.0) is hits
    assert list(shuffle({}, {"en2": -0.1}, {}, LANGUAGES, JA, 0.0)) == ["en2"]


def test_relevance_across_languages_meets_the_threshold_between_off_topic_and_right() -> None:
    for language in (JA, EN):
        threshold = parse_model(shipped_parameters()).threshold(language)
        assert bridged_relevance(0.15) < threshold < bridged_relevance(0.25) < bridged_relevance(0.6) < 1


def test_what_cannot_be_bridged_is_told() -> None:
    assert not bridgeable(JA, [EN, EN], bridge=False)
    assert bridgeable(JA, [EN], bridge=True)
    assert bridgeable(JA, [EN, JA], bridge=False) and bridgeable(JA, [OTHER], bridge=False)
    assert bridgeable(JA, [], bridge=False) and bridgeable(OTHER, [EN], bridge=False)


def test_bridge_vectors_travel_in_backups_and_older_lines_have_none() -> None:
    stored = StoredVectors("a", None, SparseVector((1,), (0.5,)), (), (0.5, -0.25))
    assert decode_line(encode_line(stored)) == stored
    older = encode_line(stored).replace(b',"bridge":', b',"other":')
    assert decode_line(older).bridge is None


def test_the_encoder_puts_both_languages_into_one_space() -> None:
    encoder = MultilingualEncoder()
    texts = [
        "年次有給休暇は二十日とする。",
        "The warranty of the pump is two years.",
        "会議室の予約は総務部に申し込む。",
    ]
    vectors = encoder.encode_passages(texts)
    assert vectors.shape == (3, encoder.dim) and np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-3)
    for question, right in (
        ("How many days of annual leave?", 0),
        ("ポンプの保証期間は", 1),
        ("booking a meeting room", 2),
    ):
        assert int(np.argmax(vectors @ encoder.encode_query(question))) == right
    alone = encoder.encode_passages([texts[1]])[0]
    assert float(alone @ vectors[1]) == pytest.approx(1.0, abs=1e-4), "a batch changes no vector"
    assert math.isfinite(float(encoder.encode_passages(["", "x" * 100_000]).sum()))
    assert len(encoder.digest) == 64


def test_no_bridge_no_vectors() -> None:
    assert bridge_vectors(None, ["a", "b"]) == [None, None]
