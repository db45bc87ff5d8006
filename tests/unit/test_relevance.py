from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from core.errors import InvalidInput
from core.language import language_of
from core.types import Language
from retrieval.calibrate import choose_threshold, fit_weights, read_questions, refusal_figures
from retrieval.coverage import Coverage, coverage
from retrieval.fusion import Fusion, FusionMethod, fuse
from retrieval.kinds import TermKind, kind_of
from retrieval.relevance import FEATURES, features, parse_model, shipped_parameters
from retrieval.similar import is_near_copy, likeness
from retrieval.text import indexed_text, name_words


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How many days?", Language.ENGLISH),
        ("有給休暇", Language.JAPANESE),
        ("PPR-9087のトナーは？", Language.JAPANESE),
        ("ﾄﾅｰ", Language.JAPANESE),
        ("42", Language.OTHER),
        ("", Language.OTHER),
    ],
)
def test_language_of(text: str, language: Language) -> None:
    assert language_of(text) is language


@pytest.mark.parametrize(
    ("term", "kind"),
    [
        ("の", TermKind.HIRAGANA),
        ("です", TermKind.HIRAGANA),
        ("休み", TermKind.MIXED),
        ("休暇", TermKind.BIGRAM),
        ("サー", TermKind.KATAKANA),
        ("サーバー", TermKind.WORD),
        ("休", TermKind.CHARACTER),
        ("何日", TermKind.FUNCTION),
        ("the", TermKind.FUNCTION),
        ("toner", TermKind.WORD),
        ("9087", TermKind.WORD),
    ],
)
def test_kind_of_a_term(term: str, kind: TermKind) -> None:
    assert kind_of(term) is kind


def test_coverage_counts_content_and_forgives_word_forms_by_character() -> None:
    whole = coverage("有給休暇の日数", "有給休暇の日数は15日です")
    assert whole.content == 1.0 and whole.characters == 1.0
    reworded = coverage("休みは年に何日", "年次有給休暇は15日です")
    assert reworded.content <= 0.5 < reworded.characters
    assert coverage("モンゴルの首都", "年次有給休暇は15日です") == Coverage(0.0, 0.0)
    english = coverage("What is the capital of Mongolia?", "What is the capital of the company?")
    assert english.content == english.characters == 0.5


def test_coverage_of_a_query_without_content_is_nothing() -> None:
    assert coverage("what is it", "what is it all about") == Coverage(0.0, 0.0)
    assert coverage("", "anything") == Coverage(0.0, 0.0)


def test_fusion_leaves_the_dense_arm_out_when_it_has_no_say() -> None:
    for method in FusionMethod:
        assert fuse(None, {"a": 4.0, "b": 2.0}, 1.0, Fusion(method)) == {"a": 1.0, "b": 0.5}
    assert fuse(None, {}, 1.0, Fusion()) == fuse(None, {}, 0.0, Fusion()) == {}


def test_fusion_ranks_what_both_arms_like_over_what_one_likes() -> None:
    fused = fuse({"both": 0.6, "dense": 0.4, "sparse": 0.1}, {"both": 9.0, "sparse": 10.0}, 4.0, Fusion())
    assert sorted(fused, key=fused.__getitem__, reverse=True) == ["both", "sparse", "dense"]


def test_fusion_survives_an_arm_without_hits_and_negative_cosines() -> None:
    assert fuse({"a": 0.5, "b": -0.2}, {}, 4.0, Fusion()) == {"a": 0.5, "b": 0.0}
    for method in FusionMethod:
        assert fuse({"a": 0.5, "b": -0.2}, {}, 4.0, Fusion(method))["a"] > 0.0


def test_a_match_in_grammar_alone_does_not_outweigh_meaning() -> None:
    fused = fuse({"meant": 0.4, "grammar": 0.1}, {"grammar": 1.0}, 4.0, Fusion())
    assert fused["meant"] > fused["grammar"]


def test_relevance_grows_with_each_feature_and_stays_a_probability() -> None:
    model = parse_model(shipped_parameters())
    for language, cosines in ((Language.ENGLISH, (0.0, 0.3, 0.9)), (Language.JAPANESE, (None, None, None))):
        values = [
            model.relevance(language, cosine, Coverage(share, share))
            for cosine, share in zip(cosines, (0.0, 0.5, 1.0), strict=True)
        ]
        assert values == sorted(values) and 0 < values[0] < model.threshold(language) < values[1] < values[2] < 1
    assert model.threshold(Language.OTHER) == model.threshold(Language.ENGLISH)


def test_fit_finds_the_feature_that_matters_and_ignores_the_constant() -> None:
    rng = np.random.default_rng(0)
    own, other = rng.normal(0.7, 0.1, 300), rng.normal(0.3, 0.1, 300)

    def rows(cosines: np.ndarray) -> np.ndarray:
        noise = rng.random(len(cosines))
        return np.array([features(None, Coverage(c, n)) for c, n in zip(cosines, noise, strict=True)])

    weights = fit_weights(rows(own), rows(other))
    assert list(weights) == list(FEATURES)
    assert weights["cosine"] == 0.0
    assert weights["content"] > 5 * abs(weights["characters"])
    middle = -weights["bias"] / weights["content"]
    assert 0.4 < middle < 0.6


def test_threshold_refuses_what_it_may_and_leaves_room_on_both_sides() -> None:
    assert 0.01 < choose_threshold([0.9, 0.8, 0.4], [0.01, 0.002], 0.02) < 0.4
    answerable = [i / 100 for i in range(1, 101)]
    threshold = choose_threshold(answerable, [0.5] * 10, 0.02)
    assert refusal_figures(answerable, [], threshold)["refusal_wrong"] <= 0.02
    assert choose_threshold([0.3, 0.5], [0.9], 0.02) == 0.15
    assert refusal_figures([], [0.1], 0.2)["refusal_wrong"] is None


def test_question_sets_are_refused_by_line(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    good = json.dumps({"question": "日数は？", "answerable": True, "id": 1}, ensure_ascii=False)
    file.write_text(f"{good}\n\n{{\n" + '{"question": "x"}\n"text"\n', encoding="utf-8")
    with pytest.raises(InvalidInput) as caught:
        read_questions(file)
    assert [error.location for error in caught.value.errors] == ["line 3", "line 4", "line 5"]
    file.write_text(good, encoding="utf-8")
    assert read_questions(file)[0].answerable is True


def test_near_copies_are_the_same_words_and_not_the_same_topic() -> None:
    text = "The KS-50 pressure sensor costs $320. Schools get a discount of 15 percent on all sensors."
    assert is_near_copy(likeness(text), likeness(text.upper().replace(" ", "\n")))
    assert is_near_copy(likeness(text), likeness(text + "!"))
    assert not is_near_copy(likeness("短い"), likeness("別の"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("本契約の期間は令和6年4月1日から1年間とし、期間満了の1か月前までに申出がないときは更新する。", ("6年", "7年")),
        (
            "型番: KP-20 | 品名: 圧力計 | 価格: 12,800円 | 納期: 3週間 | 在庫: あり | 備考: 校正つき",
            ("KP-20", "KP-21"),
        ),
        (
            "氏名: 山田花子 | 部署: 営業部 | 勤務地: 大阪支店 | 役職: 主任 | 備考: 電話は代表へ",
            ("山田", "川田"),
        ),
        ("Grade A technicians may work alone on all low voltage panels of the north building.", ("Grade A", "Grade B")),
    ],
)
def test_what_differs_in_a_number_an_identifier_or_a_cell_is_no_copy(one: str, other: tuple[str, str]) -> None:
    changed = one.replace(*other)
    assert changed != one and not is_near_copy(likeness(one), likeness(changed))


def test_indexed_text_puts_the_place_before_the_passage_once() -> None:
    assert indexed_text("hb.md", "Handbook", "Leave > Annual", " 15 days. ") == "hb\nHandbook\nLeave > Annual\n15 days."
    assert (
        indexed_text("hand-book.md", "Handbook", "Handbook > Leave", "15 days.")
        == "hand book\nHandbook > Leave\n15 days."
    )
    assert indexed_text("Leave.pdf", "Annual leave", None, "15 days.") == "Annual leave\n15 days."
    assert indexed_text(None, None, None, "15 days.") == "15 days."


@pytest.mark.parametrize(
    ("filename", "words"),
    [
        ("policy-final.md", "policy final"),
        ("LeavePolicy_2025.docx", "Leave Policy 2025"),
        ("営業会議議事録_20250612.docx", "営業会議議事録 20250612"),
        ("CM-8_Clamp_Meter.pdf", "CM-8 Clamp Meter"),
        ("記録.v2.1", "記録.v2"),
        ("ガイド.md", "ガイド"),
        ("README", "README"),
        (".env", ""),
    ],
)
def test_words_of_file_names(filename: str, words: str) -> None:
    assert name_words(filename) == words
