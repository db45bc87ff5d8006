from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput, TooLarge
from retrieval.coverage import coverage
from retrieval.dictionary import (
    GENERAL_ACROSS,
    GENERAL_WEIGHT,
    MAX_GROUPS,
    Dictionary,
    checked,
    expand,
    expansion_weights,
    general,
    parse_csv,
    write_csv,
)
from retrieval.lexical import BigramBm25, term_id, with_terms
from retrieval.spelling import distance, letters_of, nearest
from retrieval.stem import stem

OWN = Dictionary([["有休", "年次有給休暇", "PTO", "paid time off"], ["KS-50", "圧力センサー"], ["Ａ棟", "本館"]])


@pytest.mark.parametrize(
    ("question", "phrase", "alternative"),
    [
        ("有休は何日", "有休", "年次有給休暇"),
        ("How much PTO do I get?", "pto", "年次有給休暇"),
        ("my Paid Time Off", "paid time off", "有休"),
        ("ＫＳ－５０の価格", "ks-50", "圧力センサー"),
        ("圧力センサーはどこ", "圧力センサー", "ks-50"),
        ("a棟の鍵", "a棟", "本館"),
    ],
)
def test_each_word_of_a_group_stands_for_the_others(question: str, phrase: str, alternative: str) -> None:
    found = {one.phrase: one.alternatives for one in OWN.expand(question)}
    assert alternative in found[phrase]


def test_the_longest_word_counts_and_nothing_inside_latin_words() -> None:
    nested = Dictionary([["休暇", "leave"], ["休暇申請", "leave request"], ["pto", "x"]])
    assert [one.phrase for one in nested.expand("休暇申請の休暇")] == ["休暇申請", "休暇"]
    assert nested.expand("laptops") == []


def test_the_tenants_own_words_come_before_general_ones() -> None:
    own = Dictionary([["価格", "プライス"]])
    (one,) = expand("価格", [own, general()])
    assert one.alternatives == ("プライス",)


def test_general_words_weigh_more_across_languages_than_beside_the_questions_own() -> None:
    weights = expansion_weights(general().expand("値段"))
    assert weights["価格"] == GENERAL_WEIGHT and weights[stem("price")] == GENERAL_ACROSS
    query = BigramBm25().encode_query("値段")
    widened = with_terms(query, weights)
    assert set(query.indices) < set(widened.indices) and term_id("価格") in widened.indices
    kept = dict(zip(widened.indices, widened.values, strict=True))
    assert all(kept[key] == value for key, value in zip(query.indices, query.values, strict=True))


def test_a_word_is_held_under_its_other_names() -> None:
    passage = "年次有給休暇は15日とする。"
    assert coverage("有休の繰越", passage, OWN.expand("有休の繰越")).content > coverage("有休の繰越", passage).content
    assert coverage("How much PTO", passage, OWN.expand("How much PTO")).content == 1.0


def test_the_general_dictionary_is_well_formed_and_large() -> None:
    assert len(general().expand("出張の日当と締切")) == 3
    assert {"休憩", "break"} <= {word for one in general().expand("お昼休み") for word in one.alternatives}


def test_files_come_back_as_they_were_put() -> None:
    groups = [["有休", "年次有給休暇"], ['a "b", c', "d"]]
    assert parse_csv(write_csv(groups)) == groups
    assert parse_csv("\ufeff有休, 年次有給休暇 ,,有休\r\n\r\n,\n") == [["有休", "年次有給休暇"]]


@pytest.mark.parametrize(
    "text", ["alone\n", "same,ｓａｍｅ\n", ",".join("abcdefghijklmnopqrstuvwxyz"), "a," + "b" * 101]
)
def test_groups_that_are_none_are_refused_by_number(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_csv("ok,good\n" + text)
    assert caught.value.code == "dictionary_invalid" and [e.location for e in caught.value.errors] == ["group 2"]


def test_too_many_groups_are_refused() -> None:
    with pytest.raises(TooLarge):
        checked([["a", "b"]] * (MAX_GROUPS + 1))


@given(st.lists(st.lists(st.text(max_size=12), max_size=5), max_size=5), st.text(max_size=60))
def test_any_dictionary_and_any_question(groups: list[list[str]], question: str) -> None:
    for one in Dictionary(groups).expand(question):
        assert one.phrase and one.phrase not in one.alternatives


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [("hotell", "hotel", 1), ("moniter", "monitor", 1), ("gest", "guest", 1), ("calibratoin", "calibration", 1),
     ("recieve", "receive", 1), ("maintanence", "maintenance", 2), ("price", "rice", 1), ("same", "same", 0),
     ("abcdef", "uvwxyz", 3)],
)  # fmt: skip
def test_distance_counts_edits_up_to_its_limit(one: str, other: str, edits: int) -> None:
    assert distance(one, other, 2) == distance(other, one, 2) == edits


def test_one_edit_is_forgiven_and_two_in_long_words() -> None:
    known = {word: letters_of(word) for word in ("monitor", "maintenance", "guest", "quest", "hotel")}
    assert nearest("moniter", known) == ["monitor"]
    assert nearest("maintanence", known) == ["maintenance"]
    assert nearest("gest", known) == ["guest"] and nearest("hxtxl", known) == []


@given(st.text("abcde", min_size=1, max_size=9), st.text("abcde", min_size=1, max_size=9))
def test_the_letters_rule_out_nothing_that_is_near(one: str, other: str) -> None:
    edits = distance(one, other, 2)
    if edits <= 2:
        assert (letters_of(one) ^ letters_of(other)).bit_count() <= 2 * edits
