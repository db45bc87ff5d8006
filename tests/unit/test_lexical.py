from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core.text_folding import fold
from retrieval.asking import without_asking
from retrieval.kinds import TermKind, kind_of
from retrieval.lexical import ASKING, BigramBm25, query_terms, tokenize, word_pairs
from retrieval.stem import stem

ENCODER = BigramBm25()


def shared(one: str, other: str) -> set[int]:
    return set(ENCODER.encode_query(one).indices) & set(ENCODER.encode_passage(other).indices)


@pytest.mark.parametrize(
    "written", ["PPR-9087", "ppr-9087", "ＰＰＲ－９０８７", "PPR9087", "PPR_9087", "PPR‐9087", "PPRー9087"]
)
def test_an_identifier_is_one_term_however_it_is_written(written: str) -> None:
    assert "ppr9087" in tokenize(f"型番{written}の交換")
    assert {"ppr", "9087"} <= set(tokenize(written))


def test_identifiers_and_numbers_are_not_mixed_up() -> None:
    assert "ppr9087" not in tokenize("PPR 1234 and 9087")
    assert tokenize("1,200円")[0] == tokenize("１２００円")[0] == "1200"
    assert "3.14" in tokenize("3.14") and "314" not in tokenize("3.14")
    assert "2024-05" in tokenize("2024-05") and "202405" not in tokenize("2024-05")


def test_japanese_runs_become_bigrams_with_long_vowels_and_repeat_marks() -> None:
    terms = tokenize("サーバーの時々")
    assert {"サー", "ーバ", "バー", "サーバー", "時々", "時", "々"} <= set(terms)
    assert tokenize("ｻｰﾊﾞｰ") == tokenize("サーバー")


def test_a_single_kana_is_kept_and_a_single_han_comes_once() -> None:
    assert tokenize("あ") == ["あ"]
    assert tokenize("紬") == ["紬"]


def test_neighbouring_words_pair_up_but_not_grammar_alone_nor_across_japanese() -> None:
    assert word_pairs(tokenize("the Norman conquest of the isle")) == [
        "the norman", "norman conquest", "conquest of", "the isle",
    ]  # fmt: skip
    assert word_pairs(tokenize("東京 Tower の Light 図")) == []
    assert kind_of("norman conquest") is TermKind.PAIR and kind_of("the isle") is TermKind.HALF_PAIR


def test_a_question_meets_its_passage_across_word_forms() -> None:
    assert shared("休みは何日ですか", "年次有給休暇は15日です")
    assert shared("invasion of cities", "they invaded the city") == set(ENCODER.encode_query("of").indices) & set(
        ENCODER.encode_passage("they invaded the city").indices
    ) | set(ENCODER.encode_query("city").indices)


@pytest.mark.parametrize(
    ("words", "root"),
    [
        (("city", "cities"), "citi"),
        (("plan", "plans", "planned", "planning"), "plan"),
        (("announce", "announced", "announcement", "announcements"), "announc"),
        (("measure", "measures", "measured", "measuring", "measurement"), "measur"),
        (("class", "classes"), "class"),
    ],
)
def test_word_forms_meet_in_one_stem(words: tuple[str, ...], root: str) -> None:
    assert {stem(word) for word in words} == {root}


@pytest.mark.parametrize("word", ["gas", "bus", "red", "king", "string", "123", "été", "analysis"])
def test_short_words_and_other_scripts_are_left_alone(word: str) -> None:
    assert stem(word) == word


def test_accents_and_possessives_do_not_separate() -> None:
    assert tokenize("Beyoncé") == tokenize("beyonce")
    assert tokenize("company's") == tokenize("company’s") == tokenize("company")


@given(st.text(max_size=200))
def test_any_text_gives_ascending_unique_uint32_ids_and_positive_weights(text: str) -> None:
    for vector in (ENCODER.encode_passage(text), ENCODER.encode_query(text)):
        assert list(vector.indices) == sorted(set(vector.indices))
        assert all(0 <= index < 2**32 for index in vector.indices)
        assert len(vector.values) == len(vector.indices) and all(value > 0 for value in vector.values)


@given(st.text(max_size=100))
def test_query_and_passage_have_the_same_terms(text: str) -> None:
    assume(without_asking(fold(text)) == fold(text) and ASKING.isdisjoint(tokenize(text)))
    whole = set(ENCODER.encode_query(text + "ー").indices) - set(ENCODER.encode_passage(text + "ー").indices)
    assert ENCODER.encode_query(text).indices == ENCODER.encode_passage(text).indices or "ー" in fold(text)
    assert not whole


@given(st.text(max_size=100))
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert tokenize(fold(text)) == tokenize(text)


def test_longer_passages_weigh_a_term_less_and_repeats_more() -> None:
    def weight(text: str) -> float:
        vector = ENCODER.encode_passage(text)
        return dict(zip(vector.indices, vector.values, strict=True))[ENCODER.encode_query("toner").indices[0]]

    assert weight("toner here") > weight("toner " + "word " * 300)
    assert weight("toner toner here") > weight("toner here and")


def test_grammar_counts_less_than_content_in_a_query() -> None:
    def weights(text: str) -> dict[int, float]:
        vector = ENCODER.encode_query(text)
        return dict(zip(vector.indices, vector.values, strict=True))

    english = weights("the toner is here")
    assert max(english.values()) == english[ENCODER.encode_query("toner").indices[0]]
    assert weights("です")[ENCODER.encode_query("です").indices[0]] < 0.5


@pytest.mark.parametrize(
    ("question", "left"),
    [
        ("第31条には何が定められていますか？", "第31条には 定められ"),
        ("休みは何日ですか", "休みは 日"),
        ("送料はいくらですか", "送料は"),
        ("会議は何時からですか", "会議は 時から"),
        ("価格を教えてください", "価格"),
        ("どの部署に提出しますか", "部署に提出し"),
        ("担当者は誰でしょうか。", "担当者は"),
        ("いつまでに届きますか", "に届き"),
        ("いつもの窓口", "いつもの窓口"),
        ("これは何ですか", "これは"),
        ("How much is the toner?", "is the toner"),
        ("Please tell me which toner", "me toner"),
    ],
)
def test_words_that_only_ask_weigh_nothing(question: str, left: str) -> None:
    assert set(query_terms(question)) == set(tokenize(left))


def test_a_word_with_a_long_vowel_at_its_end_counts_once() -> None:
    assert "サーバ" in query_terms("サーバーの停止") and "サーバー" not in query_terms("サーバーの停止")
    assert {"サーバ", "サーバー"} <= set(tokenize("サーバーの停止"))
    assert shared("サーバー", "サーバ室") and shared("サーバ", "サーバー室") and "ー" in query_terms("ー")


def test_a_question_of_asking_words_alone_keeps_them() -> None:
    assert query_terms("教えてください") == tokenize("教えてください")
    assert query_terms("what, when and how") and ENCODER.encode_query("how much?").indices


def test_the_ending_of_a_file_name_weighs_nothing_in_a_question() -> None:
    assert query_terms("leave-policy.md") == query_terms("leave-policy")
    assert query_terms("出張旅費.xlsxの上限") == query_terms("出張旅費 の上限")


@pytest.mark.parametrize(
    ("typed", "spelt"),
    [("ねだん", "値段"), ("ﾈﾀﾞﾝ", "値段"), ("デンワ番号", "電話番号"), ("ごみぶくろのねだん", "ごみ袋の値段")],
)
def test_words_typed_in_kana_are_asked_for_as_documents_spell_them(typed: str, spelt: str) -> None:
    assert query_terms(typed) == query_terms(spelt)
    assert query_terms("ヒナデンワ") != query_terms("ヒナ電話")  # the end of another word
